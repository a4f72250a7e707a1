//! A conformance suite for deployments of the Nagaya contract: servers that give every AI-agent conversation a locked-down workspace
//! of its own.
//!
//! What is promised is in [`contract`]. One registry ([`scenarios`]) and two front ends: the binary `nagaya-conformance`, and the test target `scenarios` for
//! `cargo nextest`. The suite observes everything from outside (HTTP, the Docker engine, sockets, processes), so that it can test
//! another implementation in place of this project's server.
//!
//! Imports point downwards only: [`selftest`] and [`report`] → [`mutants`], [`scenarios`] → [`target`] → [`client`] → [`harness`] → [`contract`],
//! [`description`].

pub mod catalogue;
pub mod client;
pub mod contract;
pub mod description;
pub mod filter;
pub mod gc;
pub mod harness;
pub mod mutants;
pub mod report;
pub mod scenarios;
pub mod selftest;
pub mod target;
