//! Drivers that live between turns.

mod turns;

use crate::harness::scenario::Scenario;

pub(super) const FILES: &[&[Scenario]] = &[turns::SCENARIOS];
