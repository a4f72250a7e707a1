//! SHAPE: field by field, what other scenarios read leniently.

mod documents;
mod errors;
mod events;
mod workspace;

use crate::harness::scenario::Scenario;

/// The scenarios of each file.
pub(super) const FILES: &[&[Scenario]] =
    &[documents::SCENARIOS, errors::SCENARIOS, events::SCENARIOS, workspace::SCENARIOS];
