//! RUN: runs and their event streams.

mod disconnect_and_cancel;
mod events;
mod greedy_workspace;
mod large_answer;
mod large_output;
mod messages;
mod model_trouble;
mod plain_text;
mod processes;
mod readers;
mod restart;
mod resuming;
mod second_chance;
mod session;
mod time_limit;
mod whole_conversation;
pub(crate) mod whole_events;

use crate::harness::scenario::Scenario;

/// The scenarios of each file.
pub(super) const FILES: &[&[Scenario]] = &[
    disconnect_and_cancel::SCENARIOS,
    events::SCENARIOS,
    greedy_workspace::SCENARIOS,
    large_answer::SCENARIOS,
    large_output::SCENARIOS,
    messages::SCENARIOS,
    model_trouble::SCENARIOS,
    plain_text::SCENARIOS,
    processes::SCENARIOS,
    readers::SCENARIOS,
    restart::SCENARIOS,
    resuming::SCENARIOS,
    second_chance::SCENARIOS,
    session::SCENARIOS,
    time_limit::SCENARIOS,
    whole_conversation::SCENARIOS,
    whole_events::SCENARIOS,
];
