//! The drivers that there are.

use std::sync::Arc;

use crate::Driver;
use crate::claude_code::ClaudeCode;
use crate::script::Script;

/// A kind of driver, as a setting names it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Kind {
    /// The Claude Code CLI of the image.
    #[default]
    ClaudeCode,
    /// A script that calls no model and does what the user's text says: for tests and measurements.
    Script,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::ClaudeCode, Self::Script];

    /// The word that stands for the kind.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClaudeCode => "claude-code",
            Self::Script => "script",
        }
    }

    /// The kind that a word stands for.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    /// The driver.
    #[must_use]
    pub fn driver(self) -> Arc<dyn Driver> {
        match self {
            Self::ClaudeCode => Arc::new(ClaudeCode),
            Self::Script => Arc::new(Script),
        }
    }
}
