//! Logs, metrics, the audit trail; under everybody, importing nobody.

pub mod audit;
mod host;
mod labels;
pub mod logs;
pub mod metrics;
