//! The suite itself under test: its command line against a small deployment that misbehaves as it is told.

mod commands;
mod elsewhere;
mod fixture;
mod left;
mod outcomes;
mod reports;
mod schema;
