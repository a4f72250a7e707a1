//! EGR: egress through the proxy.

mod allow_list;
mod ambiguous_requests;
mod bodies_and_heads;
mod credentials;
mod curl;
mod greedy_clients;
mod host_spellings;
mod kept;
mod languages;
mod neighbours;
mod package_managers;
mod slow_clients;
mod tunnels;
mod unchanged_messages;
mod upstream;

use crate::harness::scenario::Scenario;

/// The scenarios of each file.
pub(super) const FILES: &[&[Scenario]] = &[
    allow_list::SCENARIOS,
    ambiguous_requests::SCENARIOS,
    bodies_and_heads::SCENARIOS,
    credentials::SCENARIOS,
    curl::SCENARIOS,
    greedy_clients::SCENARIOS,
    host_spellings::SCENARIOS,
    kept::SCENARIOS,
    languages::SCENARIOS,
    neighbours::SCENARIOS,
    package_managers::SCENARIOS,
    slow_clients::SCENARIOS,
    tunnels::SCENARIOS,
    unchanged_messages::SCENARIOS,
    upstream::SCENARIOS,
];
