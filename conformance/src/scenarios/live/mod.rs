//! Drivers that live between turns.

mod memory;
mod messages;
mod other;
mod pooled;
mod soak;
mod turns;

use crate::harness::scenario::Scenario;

pub(super) const FILES: &[&[Scenario]] =
    &[memory::SCENARIOS, messages::SCENARIOS, other::SCENARIOS, pooled::SCENARIOS, soak::SCENARIOS, turns::SCENARIOS];
