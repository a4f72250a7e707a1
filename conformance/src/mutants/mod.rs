//! Broken deployments: a catalogue of small, named defects, each with the scenarios that must fail because of it, and a part of the
//! expected failure message. [`crate::selftest`] runs them.
//!
//! A defect is added around a good server: in front of it, between it and the engine, behind its proxy, beside its workspaces, or in
//! their image. It therefore needs no build and works for any server that keeps the contract.

mod access;
mod behind;
mod beside;
mod engine;
mod http;
mod image;
mod kept;
mod kept_state;
mod keys;
mod memory;
mod mutant;
mod people;
mod run;
mod shape;
mod start;
mod stream;
mod tenancy;
mod tools;

pub use mutant::{Mutant, Red};

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
        kept_state::MUTANTS,
        run::MUTANTS,
        memory::MUTANTS,
        people::MUTANTS,
        tools::MUTANTS,
        keys::MUTANTS,
        tenancy::MUTANTS,
        shape::MUTANTS,
    ];
    files.into_iter().flatten().collect()
}

/// The broken deployment with this id.
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
    fn every_mutant_has_a_unique_id_and_names_existing_scenarios() {
        let mut ids = BTreeSet::new();
        for mutant in all() {
            assert!(ids.insert(mutant.id), "{} is registered twice", mutant.id);
            assert!(!mutant.red.is_empty() && !mutant.defects.is_empty(), "{}", mutant.id);
            for red in mutant.red {
                assert!(scenarios::find(red.scenario).is_some(), "{}: no scenario {}", mutant.id, red.scenario);
                assert!(!red.says.is_empty(), "{}: {} could be red for any reason", mutant.id, red.scenario);
            }
        }
    }

    #[test]
    fn every_bug_and_every_family_has_a_mutant() {
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
