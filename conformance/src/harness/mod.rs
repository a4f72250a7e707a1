//! What every scenario runs on. The harness knows nothing of servers, fixtures or single scenarios: those parts import it.
//!
//! From the ground up: [`failure`], [`poll`], [`vocabulary`], [`options`], [`exchanges`], [`evidence`], [`tree`]; then [`ledger`],
//! [`pending`] and [`engine`]; then [`capabilities`], [`run`], [`resources`] and [`context`]; on top [`scenario`], [`outcome`] and
//! [`runner`]. A test keeps these imports free of circles.

pub mod capabilities;
pub mod context;
pub mod engine;
pub mod environment;
pub mod evidence;
pub mod exchanges;
pub mod failure;
pub mod ledger;
pub mod options;
pub mod outcome;
pub mod pace;
pub mod pending;
pub mod poll;
pub mod reproduce;
pub mod resources;
pub mod rounds;
pub mod run;
pub mod runner;
pub mod scenario;
pub mod tree;
pub mod trust;
pub mod vocabulary;
