//! TEN: what tenants decide, and that it holds for them alone.

mod documents;
mod policies;
mod vaults;
mod world;

use crate::harness::scenario::Scenario;

/// The scenarios of each file.
pub(super) const FILES: &[&[Scenario]] = &[documents::SCENARIOS, policies::SCENARIOS, vaults::SCENARIOS];
