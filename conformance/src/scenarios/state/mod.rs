//! STATE: persistent and shared state.

mod postgres;
mod redis_failures;
mod two_servers;

use crate::harness::scenario::Scenario;

/// The scenarios of each file.
pub(super) const FILES: &[&[Scenario]] = &[postgres::SCENARIOS, redis_failures::SCENARIOS, two_servers::SCENARIOS];
