//! Secrets: never shown, and overwritten when they are dropped.

use std::fmt;
use std::path::PathBuf;

use zeroize::Zeroizing;

/// A text that must not be seen. Its memory is overwritten when it is dropped; copies that are sent are not.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    /// Takes a text over.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Source of a secret of the operator's settings. It is read for each request, so that a file can be replaced.
#[derive(Clone)]
pub(crate) enum Stored {
    Literal(SecretText),
    Variable(String),
    File(PathBuf),
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(text) => text.fmt(f),
            Self::Variable(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

impl Stored {
    /// Reads the secret; `None` if its source does not exist.
    pub(crate) fn read(&self) -> Option<SecretText> {
        let text = match self {
            Self::Literal(text) => Some(text.0.clone()),
            Self::Variable(name) => std::env::var(name).ok().map(Zeroizing::new),
            Self::File(path) => std::fs::read_to_string(path).ok().map(Zeroizing::new),
        };
        text.map(|text| SecretText::new(text.trim().to_owned())).filter(|text| !text.expose().is_empty())
    }
}
