//! TEN: tenants, and what each of them may use.

mod providers;

use crate::harness::scenario::Scenario;

/// The scenarios of each file.
pub(super) const FILES: &[&[Scenario]] = &[providers::SCENARIOS];
