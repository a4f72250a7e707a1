//! BOOT: start and configuration.

mod configuration_errors;
mod patience;
mod second_signal;
mod settings;

use crate::harness::scenario::Scenario;

/// The scenarios of each file.
pub(super) const FILES: &[&[Scenario]] =
    &[configuration_errors::SCENARIOS, patience::SCENARIOS, second_signal::SCENARIOS, settings::SCENARIOS];
