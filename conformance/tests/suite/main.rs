//! The suite itself under test: its command line against a small deployment that misbehaves as it is told.

mod browser;
mod commands;
mod contained;
mod elsewhere;
mod fixture;
mod formatting;
mod habits;
mod imports;
mod left;
mod outcomes;
mod properties;
mod reports;
mod schema;
mod slow_engine;
