//! SEC: what a workspace can see and do, and what is recorded of it.

mod audit_trail;
mod container;
mod driver;
mod forged_ids;
mod hostile_agent;
mod isolation;
mod lockdown;
mod planted_secrets;
mod users;
mod walk;

use crate::harness::scenario::Scenario;

/// The scenarios of each file.
pub(super) const FILES: &[&[Scenario]] = &[
    audit_trail::SCENARIOS,
    container::SCENARIOS,
    driver::SCENARIOS,
    forged_ids::SCENARIOS,
    hostile_agent::SCENARIOS,
    isolation::SCENARIOS,
    lockdown::SCENARIOS,
    planted_secrets::SCENARIOS,
    users::SCENARIOS,
    walk::SCENARIOS,
];
