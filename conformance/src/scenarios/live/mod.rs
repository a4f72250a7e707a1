//! Drivers that live between turns.

mod memory;
mod messages;
mod pooled;
mod soak;
mod turns;

use crate::harness::scenario::Scenario;

pub(super) const FILES: &[&[Scenario]] =
    &[memory::SCENARIOS, messages::SCENARIOS, pooled::SCENARIOS, soak::SCENARIOS, turns::SCENARIOS];
