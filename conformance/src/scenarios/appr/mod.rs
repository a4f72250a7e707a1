//! Runs that wait for people.

mod asked;
mod decisions;
mod lost;
mod questions;

use crate::harness::scenario::Scenario;

pub(super) const FILES: &[&[Scenario]] = &[decisions::SCENARIOS, lost::SCENARIOS, questions::SCENARIOS];
