//! Tenants, models, conversations and their messages; runs and their journals.

pub mod approvals;
pub mod asked;
pub mod content;
pub mod cost;
pub mod event;
pub mod journal;
pub mod order;
mod recovery;
pub mod run;
pub mod runs;
pub mod services;
pub mod skills;
pub mod store;
mod translate;
pub mod uploads;
pub mod waiting;
