//! LIFE: the life of a workspace: pool, garbage collection.

mod burst;
mod image_removed;
mod limits;
mod pool_and_idle;
mod states;
mod stray_containers;

use crate::harness::scenario::Scenario;

/// The scenarios of each file.
pub(super) const FILES: &[&[Scenario]] = &[
    burst::SCENARIOS,
    image_removed::SCENARIOS,
    limits::SCENARIOS,
    pool_and_idle::SCENARIOS,
    states::SCENARIOS,
    stray_containers::SCENARIOS,
];
