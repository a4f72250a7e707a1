//! File descriptors: how many this process may have, and how many of them clients may use.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Share of the descriptors that clients' connections may use. The rest is for workspaces (a directory, a listener, and connections
/// in both directions for each), the database, the shared state and files.
const CLIENTS: u64 = 4;
/// Connections of clients at the same time, however many descriptors there are: each costs some tens of KiB.
const MOST_CLIENTS: u64 = 10_000;

/// Raises the soft limit to the hard one: the soft limit is low for programs that use select(2), which this one does not.
pub(super) fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        Ok(()) => tracing::debug!(limit = limit.maximum, "the limit of open files is raised"),
        Err(error) => tracing::warn!(%error, limit = limit.current, "the limit of open files cannot be raised"),
    }
}

/// Connections that clients may have at the same time.
pub(super) fn for_clients() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from((limit / CLIENTS).clamp(16, MOST_CLIENTS)).unwrap_or(usize::MAX)
}
