//! Why a scenario's body ended early, and the checks that end it.

use std::fmt::{self, Debug, Display};

/// How a body's early end is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The deployment broke its promise.
    Assertion,
    /// The suite itself, or something it stands on, failed: nothing is said about the deployment.
    Harness,
    /// What is needed is not there.
    CouldNotRun,
    /// The promise does not concern this deployment.
    NotApplicable,
}

/// Why a scenario's body ended early.
#[derive(Debug, Clone)]
pub struct Failure {
    /// How to read it.
    pub kind: Kind,
    /// What was looked at, and what was wrong.
    pub message: String,
    /// What had to be there, where that can be shown apart.
    pub expected: Option<String>,
    /// What was there instead.
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

    /// The deployment broke its promise: `expected` had to be, `actual` was.
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

    /// Something the scenario needs is not there.
    pub fn could_not_run(reason: impl Display) -> Self {
        Self::new(Kind::CouldNotRun, reason)
    }

    /// The promise does not concern this deployment.
    pub fn not_applicable(reason: impl Display) -> Self {
        Self::new(Kind::NotApplicable, reason)
    }

    /// Says what was going on: `"{context}: {message}"`.
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

/// Holds, or the deployment broke its promise.
///
/// # Errors
/// An assertion failure that says `otherwise`.
pub fn check(holds: bool, otherwise: impl Display) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(Failure::assertion(otherwise)) }
}

/// Equal, or the deployment broke its promise.
///
/// # Errors
/// An assertion failure that names `what` and shows both values.
pub fn check_eq<A: PartialEq<E> + Debug, E: Debug>(what: impl Display, actual: A, expected: E) -> Result<(), Failure> {
    if actual == expected {
        Ok(())
    } else {
        Err(Failure::mismatch(what, format!("{expected:?}"), format!("{actual:?}")))
    }
}
