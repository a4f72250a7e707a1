//! FILE: files of a conversation.

mod attachments;
mod bucket;
mod places;
mod restoring;
mod transfer;

use crate::harness::scenario::Scenario;

/// The scenarios of each file.
pub(super) const FILES: &[&[Scenario]] =
    &[attachments::SCENARIOS, bucket::SCENARIOS, places::SCENARIOS, restoring::SCENARIOS, transfer::SCENARIOS];
