//! Runs that wait for people.

mod asked;
mod decisions;
mod lost;
mod questions;
mod told;

use crate::harness::scenario::Scenario;

pub(super) const FILES: &[&[Scenario]] =
    &[decisions::SCENARIOS, lost::SCENARIOS, questions::SCENARIOS, told::SCENARIOS];
