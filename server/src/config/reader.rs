//! Looks settings up in the environment, then in the file, then among the defaults, and records the source of each.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

/// Source of a setting's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// An environment variable.
    Environment,
    /// The file given with `--config`.
    File,
    /// The built-in default, because neither environment nor file sets it.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Environment => "environment",
            Self::File => "file",
            Self::Default => "default",
        })
    }
}

/// One effective setting in printable form.
#[derive(Debug, Clone, Serialize)]
pub struct Setting {
    /// Name of the environment variable.
    pub name: &'static str,
    /// The value in the form in which it is set; `[redacted]` for a secret that is set.
    pub value: String,
    /// Source of the value.
    pub source: Source,
    /// The value itself, which may be a secret.
    #[serde(skip)]
    text: Hidden,
}

impl Setting {
    /// Whether both have the same value.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        (self.name, &self.text.0) == (other.name, &other.text.0)
    }
}

/// A text that is compared and never printed.
#[derive(Clone)]
struct Hidden(String);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

/// One error of the configuration, as a line to print.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError(String);

impl ConfigError {
    /// An error with a complete message.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where the value of a setting may be printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Visibility {
    /// In errors and in the list of effective settings.
    Public,
    /// Only in the list, if valid. An invalid value may contain a secret in place of a reference to one.
    WhenValid,
    /// Never.
    Secret,
}

/// Printed instead of a secret's value.
const REDACTED: &str = "[redacted]";

/// Reads settings one by one and collects errors, so that all of them are reported at once.
#[derive(Debug)]
pub struct Reader {
    environment: BTreeMap<String, String>,
    file: BTreeMap<String, String>,
    known: BTreeSet<&'static str>,
    settings: Vec<Setting>,
    errors: Vec<ConfigError>,
}

impl Reader {
    /// A reader over an environment and the text of a TOML file (flat: `container_ttl = 600`).
    pub fn new(environment: BTreeMap<String, String>, toml: Option<&str>) -> Self {
        let mut reader = Self {
            environment,
            file: BTreeMap::new(),
            known: BTreeSet::new(),
            settings: Vec::new(),
            errors: Vec::new(),
        };
        match toml.map(str::parse::<toml::Table>) {
            None => {}
            Some(Err(error)) => reader.errors.push(ConfigError(format!("configuration file: {}", error.message()))),
            Some(Ok(table)) => table.into_iter().for_each(|(key, value)| reader.file_entry(&key, value)),
        }
        reader
    }

    fn file_entry(&mut self, key: &str, value: toml::Value) {
        let text = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Float(number) => number.to_string(),
            toml::Value::Boolean(yes) => yes.to_string(),
            toml::Value::Array(items) if items.iter().all(toml::Value::is_str) => {
                items.iter().filter_map(toml::Value::as_str).collect::<Vec<_>>().join(",")
            }
            _ => {
                return self.error(format!(
                    "configuration file: {key}: accepted: a string, number, boolean or list of strings"
                ));
            }
        };
        self.file.insert(key.to_ascii_uppercase(), text);
    }

    /// Records an error that concerns more than the form of a single value.
    pub fn error(&mut self, message: impl Into<String>) {
        self.errors.push(ConfigError::new(message));
    }

    /// Whether one of these variables has a value, in the environment or in the file.
    pub fn is_any_set(&self, names: &[&str]) -> bool {
        names.iter().any(|name| !self.text(name).is_empty())
    }

    /// The text of a setting as it is set; empty if it is not.
    pub fn text(&self, name: &str) -> String {
        let set = |values: &BTreeMap<String, String>| values.get(name).filter(|text| !text.is_empty()).cloned();
        set(&self.environment).or_else(|| set(&self.file)).unwrap_or_default()
    }

    /// The value of `name`, parsed; an empty value counts as unset. `accepted` says in an error message what is accepted.
    /// After an error the default's value is returned, so that the remaining settings can be checked as well.
    pub fn get<T>(
        &mut self,
        name: &'static str,
        default: &str,
        accepted: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> T {
        self.read(name, default, Visibility::Public, |text| parse(text).ok_or_else(|| format!("accepted: {accepted}")))
    }

    /// Like [`Reader::get`], with a parser that returns its own error message.
    pub fn parse<T, E: fmt::Display>(
        &mut self,
        name: &'static str,
        default: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> T {
        self.read(name, default, Visibility::Public, |text| parse(text).map_err(|error| error.to_string()))
    }

    /// Like [`Reader::parse`], for a value that refers to secrets. An invalid value may contain the secret itself and is not printed.
    pub fn reference<T, E: fmt::Display>(
        &mut self,
        name: &'static str,
        default: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> T {
        self.read(name, default, Visibility::WhenValid, |text| parse(text).map_err(|error| error.to_string()))
    }

    /// Like [`Reader::parse`], for a secret: its value is never printed, not even in an error.
    pub fn secret<T>(&mut self, name: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> T {
        self.read(name, "", Visibility::Secret, parse)
    }

    fn read<T>(
        &mut self,
        name: &'static str,
        default: &str,
        visibility: Visibility,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> T {
        self.known.insert(name);
        let set = |values: &BTreeMap<String, String>| values.get(name).filter(|text| !text.is_empty()).cloned();
        let (text, source) = match (set(&self.environment), set(&self.file)) {
            (Some(text), _) => (text, Source::Environment),
            (None, Some(text)) => (text, Source::File),
            (None, None) => (default.to_owned(), Source::Default),
        };
        let printed =
            if visibility == Visibility::Secret && !text.is_empty() { REDACTED.to_owned() } else { text.clone() };
        let value = parse(&text).or_else(|why| {
            let shown = if visibility == Visibility::Public { format!("={text:?}") } else { String::new() };
            self.errors.push(ConfigError(format!("{name}{shown}: {why}")));
            parse(default)
        });
        self.settings.push(Setting { name, value: printed, source, text: Hidden(text) });
        match value {
            Ok(value) => value,
            Err(why) => unreachable!("the default of {name} is invalid: {why}"),
        }
    }

    /// All settings that were read.
    ///
    /// # Errors
    /// All errors that were found, settings of the file that do not exist included.
    pub fn finish(mut self) -> Result<Vec<Setting>, Vec<ConfigError>> {
        for key in self.file.keys().filter(|key| !self.known.contains(key.as_str())) {
            self.errors.push(ConfigError(format!("configuration file: {}: unknown setting", key.to_ascii_lowercase())));
        }
        if self.errors.is_empty() { Ok(self.settings) } else { Err(self.errors) }
    }
}
