//! STATE: persistent and shared state.

mod alternating;
mod postgres;
mod redis_failures;
mod rolling_restart;
mod taken_over;
mod two_servers;
mod unchanged;

use crate::harness::scenario::Scenario;

/// The scenarios of each file.
pub(super) const FILES: &[&[Scenario]] = &[
    alternating::SCENARIOS,
    postgres::SCENARIOS,
    redis_failures::SCENARIOS,
    rolling_restart::SCENARIOS,
    taken_over::SCENARIOS,
    two_servers::SCENARIOS,
    unchanged::SCENARIOS,
];
