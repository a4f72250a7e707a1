//! What callers bring along for their runs.

mod archive;
mod called;
mod calls;
mod commands;
mod content;
mod declared;
mod lost;
mod options;
mod sent;
mod skills;

use crate::harness::scenario::Scenario;

pub(super) const FILES: &[&[Scenario]] = &[
    calls::SCENARIOS,
    declared::SCENARIOS,
    lost::SCENARIOS,
    options::SCENARIOS,
    content::SCENARIOS,
    commands::SCENARIOS,
    skills::SCENARIOS,
    sent::SCENARIOS,
];
