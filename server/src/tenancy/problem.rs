//! What is wrong with a document, and where.

use std::collections::HashSet;
use std::fmt;

/// Entries of a list, at most.
pub(super) const MOST_ENTRIES: usize = 100;
/// Length of a text in a document, in bytes, at most.
pub(super) const LONGEST_TEXT: usize = 1_024;

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

/// Checks a list of texts that has each once.
pub(super) fn check_list(problems: &mut Problems, place: &str, list: Option<&[String]>) {
    let Some(list) = list else { return };
    problems.require(list.len() <= MOST_ENTRIES, place, format!("must have at most {MOST_ENTRIES} entries"));
    let mut seen = HashSet::new();
    for (at, text) in list.iter().enumerate().take(MOST_ENTRIES) {
        let place = format!("{place}[{at}]");
        let fits = (1..=LONGEST_TEXT).contains(&text.chars().count()) && !text.contains('\0');
        problems.require(fits, &*place, format!("must have 1 to {LONGEST_TEXT} characters, none of them NUL"));
        problems.require(seen.insert(text), &*place, "is given twice");
    }
}
