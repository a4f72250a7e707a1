//! The registry: one folder for each family of scenarios, and in it one file for each subject. A file registers its scenarios in
//! `SCENARIOS`, a folder its files in `FILES`; one that is forgotten is reported by the compiler as dead code.

use crate::harness::scenario::Scenario;

/// The body of a scenario, from an `async fn(&Context) -> Result<(), Failure>`.
macro_rules! body {
    ($body:path) => {
        |context| Box::pin($body(context))
    };
}

mod api;
mod appr;
mod boot;
mod bug;
mod chaos;
mod common;
mod dep;
mod egr;
mod file;
mod hlth;
pub mod identity;
mod img;
mod life;
mod live;
mod run;
mod sec;
mod shape;
mod sock;
mod state;
mod ten;
mod tool;

/// A family of scenarios.
#[derive(Debug)]
pub struct Family {
    /// The first part of the ids of its scenarios.
    pub name: &'static str,
    /// What its scenarios are about.
    pub about: &'static str,
    files: &'static [&'static [Scenario]],
}

const fn family(name: &'static str, about: &'static str, files: &'static [&'static [Scenario]]) -> Family {
    Family { name, about, files }
}

/// All families, in the order of reports.
pub static FAMILIES: [Family; 19] = [
    family("BUG", "the fifteen faults of an earlier system from which the contract was derived", bug::FILES),
    family("BOOT", "start and configuration", boot::FILES),
    family("HLTH", "health and metrics", hlth::FILES),
    family("IMG", "the workspace image", img::FILES),
    family("SOCK", "the sockets between server and workspace", sock::FILES),
    family("EGR", "egress through the proxy", egr::FILES),
    family("LIFE", "the life of a workspace: pool, garbage collection", life::FILES),
    family("RUN", "runs and their event streams", run::FILES),
    family("LIVE", "drivers that live between turns", live::FILES),
    family("APPR", "runs that wait for people", appr::FILES),
    family("TOOL", "tools, options, content and skills that callers bring along", tool::FILES),
    family("API", "the HTTP API", api::FILES),
    family("SHAPE", "field by field, what other scenarios read leniently", shape::FILES),
    family("FILE", "files of a conversation", file::FILES),
    family("STATE", "persistent and shared state", state::FILES),
    family("TEN", "what a tenant decides, and that it holds for that tenant alone", ten::FILES),
    family("SEC", "what a workspace can see and do, and what is recorded of it", sec::FILES),
    family("CHAOS", "failures at the wrong moment", chaos::FILES),
    family("DEP", "deployments as they are delivered", dep::FILES),
];

/// Every scenario: family by family, ordered by id.
#[must_use]
pub fn all() -> Vec<&'static Scenario> {
    let mut all = Vec::new();
    for family in &FAMILIES {
        let begin = all.len();
        all.extend(family.files.iter().copied().flatten());
        all[begin..].sort_by_key(|scenario: &&Scenario| scenario.id);
    }
    all
}

/// The scenario with this id, in upper or lower case.
#[must_use]
pub fn find(id: &str) -> Option<&'static Scenario> {
    all().into_iter().find(|scenario| scenario.id.eq_ignore_ascii_case(id))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::contract::{Tested, clauses};

    #[test]
    fn every_scenario_cites_a_clause_and_every_clause_a_scenario_or_a_reason() {
        for scenario in all() {
            let is_cited = !scenario.clauses().is_empty();
            assert!(is_cited, "{}: name it at the end of a clause in docs/contract that it tests", scenario.id);
        }
        for clause in clauses() {
            match &clause.tested {
                Tested::By(ids) => {
                    let known = |id: &&str| all().iter().any(|scenario| scenario.id == *id);
                    assert!(
                        !ids.is_empty() && ids.iter().all(known),
                        "{}: not all are scenarios: {ids:?}",
                        clause.number
                    );
                    let unique: BTreeSet<_> = ids.iter().collect();
                    assert_eq!(unique.len(), ids.len(), "{} names a scenario twice", clause.number);
                }
                Tested::Not(why) => assert!(why.split(' ').count() > 2, "{}: no reason: {why:?}", clause.number),
            }
        }
    }

    #[test]
    fn ids_are_unique_and_well_formed() {
        let mut ids = BTreeSet::new();
        for scenario in all() {
            assert!(ids.insert(scenario.id), "{} is registered twice", scenario.id);
            assert!(
                scenario.id.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '-'),
                "{}",
                scenario.id
            );
        }
    }

    #[test]
    fn titles_are_sentences_without_a_full_stop_and_requirements_and_limits_are_set() {
        for scenario in all() {
            let first = scenario.title.chars().next().expect("a title");
            let identifier = scenario.title.split([' ', ':']).next().unwrap_or_default();
            // A title may begin with a path or a program that is written in lower case.
            let named =
                ["/health", "`doctor`", "curl", "pip", "npm", "git"].contains(&identifier.trim_end_matches(','));
            assert!(named || first.is_uppercase() || first.is_ascii_digit(), "{}: {}", scenario.id, scenario.title);
            assert!(!scenario.title.ends_with('.'), "{}: {}", scenario.id, scenario.title);
            assert!(!scenario.requirement.is_empty(), "{}", scenario.id);
            // rustfmt leaves a whole registration unformatted if one of its strings does not fit into a line.
            for text in [scenario.title, scenario.requirement] {
                assert!(text.chars().count() <= 109, "{}: longer than 109 characters: {text}", scenario.id);
            }
            assert!(scenario.limit > Duration::ZERO && scenario.limit <= Duration::from_secs(180), "{}", scenario.id);
        }
    }

    #[test]
    fn every_scenario_is_in_the_folder_of_its_family_at_the_line_it_names() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for family in &FAMILIES {
            let folder = format!("conformance/src/scenarios/{}/", family.name.to_ascii_lowercase());
            for scenario in family.files.iter().copied().flatten() {
                assert_eq!(scenario.family(), family.name, "{} is registered in {}", scenario.id, scenario.file());
                assert!(scenario.file().starts_with(&folder), "{} is in {}", scenario.id, scenario.file());
                let text = std::fs::read_to_string(root.join(scenario.file())).expect("the scenario's file");
                let line = usize::try_from(scenario.line()).expect("a line");
                let quoted = format!("\"{}\"", scenario.id);
                let found = text.lines().skip(line - 1).take(3).any(|line| line.contains(&quoted));
                assert!(found, "{} does not stand at {}:{line}", scenario.id, scenario.file());
            }
        }
    }
}
