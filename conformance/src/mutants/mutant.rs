//! A broken deployment, and the ways to describe its defects.

use serde::Serialize;

use crate::target::defects::Defect;
use crate::target::tamper::{AnswerFn, AskFn, Tamper};

/// A broken deployment.
#[derive(Debug, Clone, Copy)]
pub struct Mutant {
    /// A name in lower case with dashes. Never reused.
    pub id: &'static str,
    /// The defect, as a sentence without a full stop.
    pub title: &'static str,
    /// How the defect is produced.
    pub defects: &'static [Defect],
    /// The scenarios that must fail.
    pub red: &'static [Red],
}

/// A scenario that must fail by an assertion.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Red {
    /// The scenario's id.
    pub scenario: &'static str,
    /// A part of the failure: of its message, the expected or the actual value.
    pub says: &'static str,
}

pub(super) const fn red(scenario: &'static str, says: &'static str) -> Red {
    Red { scenario, says }
}

/// A defect that changes or answers requests of clients.
pub(super) const fn asks(ask: AskFn) -> Defect {
    Defect::Http(Tamper { ask: Some(ask), answer: None, event: None })
}

/// A defect that changes responses to clients.
pub(super) const fn answers(answer: AnswerFn) -> Defect {
    Defect::Http(Tamper { ask: None, answer: Some(answer), event: None })
}

impl Mutant {
    /// Where its defects are.
    #[must_use]
    pub fn places(&self) -> String {
        let places: Vec<&str> = self.defects.iter().map(Defect::place).collect();
        places.join(", ")
    }
}
