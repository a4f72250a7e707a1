//! IMG: the workspace image.

mod recipe;

use crate::harness::scenario::Scenario;

/// The scenarios of each file.
pub(super) const FILES: &[&[Scenario]] = &[recipe::SCENARIOS];
