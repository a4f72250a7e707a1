//! Logs and metrics; under everybody, importing nobody.

pub mod audit;
pub mod logs;
pub mod metrics;
