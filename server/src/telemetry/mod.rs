//! Logs, metrics, the audit trail; under everybody, importing nobody.

pub mod audit;
mod host;
pub mod logs;
pub mod metrics;
