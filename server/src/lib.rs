//! Nagaya: every AI-agent conversation in a locked room of its own.
//!
//! Arrows between the modules point one way: `api` → `conversation` → `workspace` → `engine`, `state`, `files` and the egress
//! crate; `telemetry` and the protocol crate lie under everybody.

pub mod api;
pub mod ask;
pub mod cli;
pub mod config;
pub mod conversation;
pub mod doctor;
pub mod engine;
pub mod files;
pub mod serve;
pub mod state;
pub mod telemetry;
pub mod workspace;
