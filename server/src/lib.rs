//! Nagaya: every AI-agent conversation in a locked container of its own.
//!
//! Imports between the modules point one way, and `tests/architecture` keeps it so:
//!
//! ```text
//! serve ─► config ─► api ─► tenancy ─► conversation ─► cluster ─► nagaya-workspace ─► nagaya-egress
//! aws, providers, bedrock, messages_api, nagaya-telemetry, nagaya-protocol: below everything, importing none of it
//! ```

pub mod api;
pub mod aws;
pub mod bedrock;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod conversation;
pub mod descriptors;
pub mod doctor;
pub mod messages_api;
pub mod probe;
pub mod providers;
pub mod serve;
pub mod tenancy;
mod trial;
