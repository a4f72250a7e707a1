//! API: the HTTP API.

mod connections;
mod description;
mod errors;
mod keys;
mod limits;
mod page;
mod queries;

use crate::harness::scenario::Scenario;

/// The scenarios of each file.
pub(super) const FILES: &[&[Scenario]] = &[
    connections::SCENARIOS,
    description::SCENARIOS,
    errors::SCENARIOS,
    keys::SCENARIOS,
    limits::SCENARIOS,
    page::SCENARIOS,
    queries::SCENARIOS,
];
