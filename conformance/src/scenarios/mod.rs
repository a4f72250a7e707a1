//! The registry: every scenario is a value in the file of its subject. A file that is declared here is registered; there is no
//! other list.

use crate::scenario::Scenario;

/// The body of a scenario, from an `async fn(&Context) -> Result<(), Failure>`.
macro_rules! body {
    ($body:path) => {
        |context| Box::pin($body(context))
    };
}

/// Declares the files and makes the registry of them.
macro_rules! subjects {
    ($($subject:ident,)+) => {
        $(mod $subject;)+

        fn declared() -> impl Iterator<Item = &'static Scenario> {
            [$($subject::SCENARIOS),+].into_iter().flatten()
        }
    };
}

mod inhabited;
mod outside;

subjects! {
    startup,
    wrong,
    health,
    metrics,
    monitoring,
    sockets,
    image,
    recipe,
    driver,
    files,
    storage,
    transfer,
    attached,
    release,
    gauge,
    runs,
    events,
    durable,
    memory,
    api,
    keys,
    schema,
    lifecycle,
    strays,
    edges,
    apart,
    egress,
    wire,
    tunnelled,
    curl,
    packages,
    languages,
    providers,
    security,
    trail,
    canaries,
    chaos,
    recovery,
    faults,
    shared,
    database,
    deploy,
}

/// Families, with what each is about; an id's first part is one of these.
pub const FAMILIES: [(&str, &str); 14] = [
    ("BUG", "the fifteen faults of the system that this contract came out of"),
    ("BOOT", "start and configuration"),
    ("HLTH", "health"),
    ("IMG", "the room's image"),
    ("SOCK", "sockets between server and room"),
    ("EGR", "the one way out"),
    ("LIFE", "life of a room: pool, garbage collection"),
    ("RUN", "runs and their event streams"),
    ("API", "the HTTP API"),
    ("FILE", "files"),
    ("STATE", "what is kept"),
    ("SEC", "what a room can see and do"),
    ("CHAOS", "things that break at the wrong moment"),
    ("DEP", "deployments as they are delivered"),
];

/// Every scenario: family by family, in order of their ids.
#[must_use]
pub fn all() -> Vec<&'static Scenario> {
    let mut all: Vec<_> = declared().collect();
    let place = |scenario: &Scenario| FAMILIES.iter().position(|(family, _)| *family == scenario.family());
    all.sort_by_key(|scenario| (place(scenario), scenario.id));
    all
}

/// The scenario with this id, in any case.
#[must_use]
pub fn find(id: &str) -> Option<&'static Scenario> {
    all().into_iter().find(|scenario| scenario.id.eq_ignore_ascii_case(id))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;

    #[test]
    fn ids_are_unique_and_of_a_known_family() {
        let mut ids = BTreeSet::new();
        for scenario in all() {
            assert!(ids.insert(scenario.id), "{} is there twice", scenario.id);
            assert!(FAMILIES.iter().any(|(family, _)| *family == scenario.family()), "{}", scenario.id);
            assert!(
                scenario.id.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '-'),
                "{}",
                scenario.id
            );
        }
    }

    #[test]
    fn every_scenario_says_what_it_is_about() {
        for scenario in all() {
            assert!(!scenario.title.is_empty() && !scenario.title.ends_with('.'), "{}", scenario.id);
            assert!(!scenario.requirement.is_empty(), "{}", scenario.id);
            assert!(scenario.limit > Duration::ZERO && scenario.limit <= Duration::from_secs(180), "{}", scenario.id);
        }
    }
}
