//! A conformance suite for deployments of the Nagaya contract: servers that give every AI-agent conversation a locked room of its
//! own.
//!
//! One registry ([`scenarios`]) and two front ends: the binary `nagaya-conformance`, and the test target `scenarios` for
//! `cargo nextest`. Everything is looked at from outside — HTTP, the Docker engine, sockets, processes — so that another
//! implementation can be put in the place of this project's server.

pub mod capabilities;
pub mod catalogue;
pub mod client;
pub mod context;
pub mod evidence;
pub mod failure;
pub mod filter;
pub mod gc;
pub mod mutants;
pub mod outcome;
pub mod poll;
pub mod report;
pub mod resources;
pub mod run;
pub mod runner;
pub mod scenario;
pub mod scenarios;
pub mod selftest;
pub mod target;
pub mod underway;
