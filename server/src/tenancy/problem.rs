//! What is wrong with a document, and where.

use std::fmt;

/// One thing that is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Place in the document, such as `egress.allow[2].paths[0]`.
    pub place: String,
    /// What is wrong, and what is accepted.
    pub why: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.why)
    }
}

/// All problems of a document, as they are found.
#[derive(Debug, Default)]
pub(super) struct Problems(pub(super) Vec<Problem>);

impl Problems {
    pub(super) fn add(&mut self, place: impl Into<String>, why: impl Into<String>) {
        self.0.push(Problem { place: place.into(), why: why.into() });
    }

    /// Adds a problem unless `holds`.
    pub(super) fn require(&mut self, holds: bool, place: impl Into<String>, why: impl Into<String>) {
        if !holds {
            self.add(place, why);
        }
    }
}
