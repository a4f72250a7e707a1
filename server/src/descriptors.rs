//! File descriptors: how many this process may have, and how many of them clients may use.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Share of the descriptors that clients' connections may use. The rest is for workspaces (a directory, a listener, and connections
/// in both directions for each), the database, the shared state and files.
const CLIENTS: u64 = 4;
/// Connections of clients at the same time, however many descriptors there are: each costs some tens of KiB.
const MOST_CLIENTS: u64 = 10_000;

/// What limits the descriptors of a process, and what follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptors {
    /// The soft limit, which counts; `None` for no limit.
    pub soft: Option<u64>,
    /// The hard limit, to which the server raises the soft one when it starts; `None` for no limit.
    pub hard: Option<u64>,
}

impl Descriptors {
    /// The limits of this process.
    #[must_use]
    pub fn now() -> Self {
        let limit = getrlimit(Resource::Nofile);
        Self { soft: limit.current, hard: limit.maximum }
    }

    /// Connections that clients may have at the same time under the soft limit. Further ones get 503.
    #[must_use]
    pub fn for_clients(self) -> usize {
        let limit = self.soft.unwrap_or(u64::MAX);
        usize::try_from((limit / CLIENTS).clamp(16, MOST_CLIENTS)).unwrap_or(usize::MAX)
    }

    /// The limits of a server that this process starts.
    #[must_use]
    pub fn raised(self) -> Self {
        Self { soft: self.hard, ..self }
    }
}

/// Raises the soft limit to the hard one: the soft limit is low for programs that use select(2), which this one does not.
pub fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        Ok(()) => tracing::debug!(limit = limit.maximum, "the limit of open files is raised"),
        Err(error) => tracing::warn!(%error, limit = limit.current, "the limit of open files cannot be raised"),
    }
}
