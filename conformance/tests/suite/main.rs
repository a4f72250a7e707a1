//! Tests of the suite itself: its command line against a small stand-in that misbehaves on demand.

mod browser;
mod commands;
mod compared;
mod contained;
mod docs_page;
mod elsewhere;
mod fixture;
mod formatting;
mod habits;
mod imports;
mod left;
mod neutral;
mod nothing;
mod outcomes;
mod properties;
mod repeated;
mod reports;
mod schema;
mod second;
mod slow_engine;
mod target_file;
mod templates;
