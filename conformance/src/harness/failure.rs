//! Why a scenario's body ended early, and the checks that end it.

use std::fmt;
use std::fmt::{Debug, Display};

/// What the early end of a body says about the deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The deployment broke its promise.
    Assertion,
    /// The suite itself, or something it depends on, failed: no statement about the deployment.
    Harness,
    /// Something the scenario needs is missing.
    CouldNotRun,
    /// The promise does not apply to this deployment.
    NotApplicable,
}

/// Why a scenario's body ended early.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What it says about the deployment.
    pub kind: Kind,
    /// What was checked, and what was wrong.
    pub message: String,
    /// The expected value, if it can be shown separately.
    pub expected: Option<String>,
    /// What was found instead of the expected value.
    pub actual: Option<String>,
}

impl Failure {
    fn new(kind: Kind, message: impl Display) -> Self {
        Self { kind, message: message.to_string(), expected: None, actual: None }
    }

    /// The deployment broke its promise.
    pub fn assertion(message: impl Display) -> Self {
        Self::new(Kind::Assertion, message)
    }

    /// The deployment broke its promise: the value was `actual` and not `expected`.
    pub fn mismatch(what: impl Display, expected: impl Display, actual: impl Display) -> Self {
        Self {
            expected: Some(expected.to_string()),
            actual: Some(actual.to_string()),
            ..Self::new(Kind::Assertion, what)
        }
    }

    /// The suite failed, not the deployment.
    pub fn harness(message: impl Display) -> Self {
        Self::new(Kind::Harness, message)
    }

    /// Something the scenario needs is missing.
    pub fn could_not_run(reason: impl Display) -> Self {
        Self::new(Kind::CouldNotRun, reason)
    }

    /// The promise does not apply to this deployment.
    pub fn not_applicable(reason: impl Display) -> Self {
        Self::new(Kind::NotApplicable, reason)
    }

    /// Prefixes the message with what was being done: `"{context}: {message}"`.
    #[must_use]
    pub fn during(mut self, context: impl Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(expected) = &self.expected {
            write!(f, "\n  expected: {expected}")?;
        }
        if let Some(actual) = &self.actual {
            write!(f, "\n  actual:   {actual}")?;
        }
        Ok(())
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::harness(format!("{error:#}"))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::harness(error)
    }
}

impl From<bollard::errors::Error> for Failure {
    fn from(error: bollard::errors::Error) -> Self {
        Self::harness(format!("Docker: {error}"))
    }
}

/// Checks that a condition holds.
///
/// # Errors
/// An assertion failure with the message `otherwise`.
pub fn check(holds: bool, otherwise: impl Display) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(Failure::assertion(otherwise)) }
}

/// Checks that two values are equal.
///
/// # Errors
/// An assertion failure with the message `what` and both values.
pub fn check_eq<A: PartialEq<E> + Debug, E: Debug>(what: impl Display, actual: A, expected: E) -> Result<(), Failure> {
    if actual == expected {
        Ok(())
    } else {
        Err(Failure::mismatch(what, format!("{expected:?}"), format!("{actual:?}")))
    }
}
