//! CHAOS: failures at the wrong moment.

mod agent_fails;
mod disk_full;
mod engine_hangs;
mod engine_restarts;
mod engine_stops;
mod room_killed;
mod room_paused;
mod server_killed;

use crate::harness::scenario::Scenario;

/// The scenarios of each file.
pub(super) const FILES: &[&[Scenario]] = &[
    agent_fails::SCENARIOS,
    disk_full::SCENARIOS,
    engine_hangs::SCENARIOS,
    engine_restarts::SCENARIOS,
    engine_stops::SCENARIOS,
    room_killed::SCENARIOS,
    room_paused::SCENARIOS,
    server_killed::SCENARIOS,
];
