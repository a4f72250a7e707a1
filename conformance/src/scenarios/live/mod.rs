//! Drivers that live between turns.

mod messages;
mod turns;

use crate::harness::scenario::Scenario;

pub(super) const FILES: &[&[Scenario]] = &[messages::SCENARIOS, turns::SCENARIOS];
