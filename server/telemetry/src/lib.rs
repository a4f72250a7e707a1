//! Log, metrics and audit trail. Every other part of the server may use this crate; it uses none of them.

pub mod audit;
mod host;
mod labels;
pub mod logs;
pub mod metrics;
