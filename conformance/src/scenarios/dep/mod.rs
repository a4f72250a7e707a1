//! DEP: deployments as they are delivered.

mod compose;
mod replacement;
mod userns_remap;

use crate::harness::scenario::Scenario;

/// The scenarios of each file.
pub(super) const FILES: &[&[Scenario]] = &[compose::SCENARIOS, replacement::SCENARIOS, userns_remap::SCENARIOS];
