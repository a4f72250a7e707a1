//! SOCK: the sockets between server and workspace.

mod full_directory;
mod hostile_agent;
mod late_proxy;
mod proxy_socket_removed;

use crate::harness::scenario::Scenario;

/// The scenarios of each file.
pub(super) const FILES: &[&[Scenario]] =
    &[full_directory::SCENARIOS, hostile_agent::SCENARIOS, late_proxy::SCENARIOS, proxy_socket_removed::SCENARIOS];
