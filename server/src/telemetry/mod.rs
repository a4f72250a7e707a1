//! Logs and metrics; under everybody, importing nobody.

pub mod logs;
pub mod metrics;
