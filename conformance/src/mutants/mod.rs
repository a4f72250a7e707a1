//! Broken deployments: a catalogue of small, named defects, each with the scenarios that must turn red, and the words by which they
//! must do so. [`crate::selftest`] shows that they do.
//!
//! A defect is put around a good server: in front of it, between it and the engine, behind its proxy, beside its rooms, or in the
//! image they start from. So it costs no build, says nothing about how a server is made, and works for any that keeps the contract.

mod access;
mod behind;
mod beside;
mod engine;
mod http;
mod image;
mod kept;
mod start;
mod stream;

use std::path::Path;

use serde::Serialize;

use crate::target::memory::Memory;
use crate::target::tamper::{AnswerFn, AskFn, Tamper, Wire};

/// A broken deployment.
#[derive(Debug, Clone, Copy)]
pub struct Mutant {
    /// A name in lower case with dashes. Never reused.
    pub id: &'static str,
    /// What is wrong with it, as a sentence without a full stop.
    pub title: &'static str,
    /// How that is brought about.
    pub defects: &'static [Defect],
    /// Which scenarios must turn red.
    pub red: &'static [Red],
}

/// A scenario that must turn red, by its assertion.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Red {
    /// The scenario's id.
    pub scenario: &'static str,
    /// A part of what it says then: message, expected and actual.
    pub says: &'static str,
}

const fn red(scenario: &'static str, says: &'static str) -> Red {
    Red { scenario, says }
}

/// Requests of clients are changed, or answered by the relay.
const fn asks(ask: AskFn) -> Defect {
    Defect::Http(Tamper { ask: Some(ask), answer: None, event: None })
}

/// Answers to clients are changed.
const fn answers(answer: AnswerFn) -> Defect {
    Defect::Http(Tamper { ask: None, answer: Some(answer), event: None })
}

/// One thing that is wrong, and where.
#[derive(Debug, Clone)]
pub enum Defect {
    /// Lines of shell before the server starts, or in its place; `$SERVER` is the good one, `$@` what it is started with.
    Start(&'static str),
    /// Between clients and the server.
    Http(Tamper),
    /// The same, byte by byte.
    InFront(Wire),
    /// Between the server and the engine.
    Engine(Tamper),
    /// Lines of shell that root runs in the room's image, and lines of a Dockerfile after them.
    Image(&'static str, &'static str),
    /// Between the server's proxy and everything that a name of the outside world leads to.
    Behind(Wire),
    /// Called over and over with the directory of the rooms' sockets.
    Beside(fn(&Path, &Memory)),
}

impl Defect {
    /// Where it sits, for a reader of the catalogue.
    #[must_use]
    pub fn place(&self) -> &'static str {
        match self {
            Self::Start(_) => "start",
            Self::Http(_) | Self::InFront(_) => "API",
            Self::Engine(_) => "engine",
            Self::Image(..) => "image",
            Self::Behind(_) => "outside",
            Self::Beside(_) => "sockets",
        }
    }
}

impl Mutant {
    /// Where its defects sit.
    #[must_use]
    pub fn places(&self) -> String {
        let places: Vec<&str> = self.defects.iter().map(Defect::place).collect();
        places.join(", ")
    }
}

/// The catalogue.
#[must_use]
pub fn all() -> Vec<&'static Mutant> {
    let files = [
        start::MUTANTS,
        http::MUTANTS,
        stream::MUTANTS,
        engine::MUTANTS,
        image::MUTANTS,
        beside::MUTANTS,
        behind::MUTANTS,
        access::MUTANTS,
        kept::MUTANTS,
    ];
    files.into_iter().flatten().collect()
}

/// The mutant of this name.
#[must_use]
pub fn find(id: &str) -> Option<&'static Mutant> {
    all().into_iter().find(|mutant| mutant.id == id)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::scenarios;

    #[test]
    fn every_mutant_has_a_name_and_names_scenarios_that_there_are() {
        let mut ids = BTreeSet::new();
        for mutant in all() {
            assert!(ids.insert(mutant.id), "{} is there twice", mutant.id);
            assert!(!mutant.red.is_empty() && !mutant.defects.is_empty(), "{}", mutant.id);
            for red in mutant.red {
                assert!(scenarios::find(red.scenario).is_some(), "{}: no scenario {}", mutant.id, red.scenario);
                assert!(!red.says.is_empty(), "{}: {} could be red for any reason", mutant.id, red.scenario);
            }
        }
    }

    #[test]
    fn every_bug_and_every_family_that_has_scenarios_has_a_mutant() {
        let caught: BTreeSet<&str> = all().into_iter().flat_map(|mutant| mutant.red).map(|red| red.scenario).collect();
        // `BUG-12-CRASH` is about BUG-12.
        let subject =
            |id: &str| id.split('-').take(if id.starts_with("BUG-") { 2 } else { 1 }).collect::<Vec<_>>().join("-");
        let caught: BTreeSet<String> = caught.into_iter().map(subject).collect();
        let wanted: BTreeSet<String> = scenarios::all().into_iter().map(|scenario| subject(scenario.id)).collect();
        let missing: Vec<&String> = wanted.difference(&caught).collect();
        assert!(missing.is_empty(), "no broken deployment for {missing:?}");
    }
}
