//! STATE: persistent and shared state.

mod alternating;
mod postgres;
mod redis_failures;
mod rolling_restart;
mod two_servers;

use crate::harness::scenario::Scenario;

/// The scenarios of each file.
pub(super) const FILES: &[&[Scenario]] = &[
    alternating::SCENARIOS,
    postgres::SCENARIOS,
    redis_failures::SCENARIOS,
    rolling_restart::SCENARIOS,
    two_servers::SCENARIOS,
];
