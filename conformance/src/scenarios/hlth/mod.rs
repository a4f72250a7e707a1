//! HLTH: health and metrics.

mod counts;
mod endpoints;
mod metrics;
mod prometheus;
mod request_id;

use crate::harness::scenario::Scenario;

/// The scenarios of each file.
pub(super) const FILES: &[&[Scenario]] =
    &[counts::SCENARIOS, endpoints::SCENARIOS, metrics::SCENARIOS, prometheus::SCENARIOS, request_id::SCENARIOS];
