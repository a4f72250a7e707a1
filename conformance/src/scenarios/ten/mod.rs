//! TEN: what tenants decide, and that it holds for them alone.

mod documents;
mod models;
mod policies;
mod servers;
mod vaults;
mod world;

use crate::harness::scenario::Scenario;

/// The scenarios of each file.
pub(super) const FILES: &[&[Scenario]] = &[documents::SCENARIOS, models::SCENARIOS, policies::SCENARIOS, servers::SCENARIOS, vaults::SCENARIOS];
