//! The suite itself under test: its command line against a small deployment that misbehaves as it is told.

mod browser;
mod commands;
mod contained;
mod elsewhere;
mod fixture;
mod left;
mod outcomes;
mod reports;
mod schema;
