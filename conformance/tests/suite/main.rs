//! The suite itself under test: its command line against a small deployment that misbehaves as it is told.

mod commands;
mod fixture;
mod outcomes;
mod reports;
mod schema;
