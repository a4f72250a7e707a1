//! API: the HTTP API.

mod bounds;
mod connections;
mod counts;
mod description;
mod errors;
mod filters;
mod keeping;
mod keys;
mod lengths;
mod limits;
mod ownership;
mod page;
mod queries;
mod states;
mod used;
mod written;

use crate::harness::scenario::Scenario;

/// The scenarios of each file.
pub(super) const FILES: &[&[Scenario]] = &[
    bounds::SCENARIOS,
    connections::SCENARIOS,
    counts::SCENARIOS,
    description::SCENARIOS,
    errors::SCENARIOS,
    filters::SCENARIOS,
    keeping::SCENARIOS,
    keys::SCENARIOS,
    lengths::SCENARIOS,
    limits::SCENARIOS,
    ownership::SCENARIOS,
    page::SCENARIOS,
    queries::SCENARIOS,
    states::SCENARIOS,
    used::SCENARIOS,
    written::SCENARIOS,
];
