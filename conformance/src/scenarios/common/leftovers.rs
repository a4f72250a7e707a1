//! Sockets and file descriptors that a server may leave behind.

use std::collections::BTreeMap;
use std::path::Path;

use crate::target::deployment::Server;

/// How many workspaces end in each scenario: a leak shows once for each, the noise of connection pools does not.
pub(crate) const ROOMS: usize = 3;

/// How many additional sockets are noise: connections to Docker that are kept alive.
pub(crate) const KEPT_SOCKETS: usize = ROOMS - 1;

/// Sockets in the kernel's table that are bound below `base`; this also finds listeners whose file was removed.
pub(crate) fn bound_below(base: &Path) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let base = base.display().to_string();
    table
        .lines()
        .filter_map(|line| line.split_ascii_whitespace().nth(7))
        .filter(|path| path.starts_with(&base))
        .map(str::to_owned)
        .collect()
}

/// The targets of a server's file descriptors: the number of sockets, and a count for each other target. Files in the state directory
/// are excluded, because the database opens them as it needs.
#[derive(Debug)]
pub(crate) struct Descriptors {
    pub(crate) sockets: usize,
    pub(crate) others: BTreeMap<String, usize>,
}

impl Descriptors {
    pub(crate) fn of(server: &Server) -> Self {
        let (mut sockets, mut others) = (0, BTreeMap::new());
        let state = server.program.env.get("STATE_DIR").cloned().unwrap_or_default();
        for target in server.descriptor_targets() {
            if target.starts_with("socket:") {
                sockets += 1;
            } else if !target.starts_with(&state) {
                // Pipes and other anonymous files have a varying number in brackets.
                let kind = if target.starts_with("pipe:") { "pipe".to_owned() } else { target };
                *others.entry(kind).or_insert(0) += 1;
            }
        }
        Self { sockets, others }
    }

    /// The targets that have more descriptors than `before`, without sockets.
    pub(crate) fn others_beyond(&self, before: &Self) -> Vec<String> {
        let more =
            self.others.iter().filter(|(target, count)| **count > before.others.get(*target).copied().unwrap_or(0));
        more.map(|(target, count)| format!("{count} × {target}")).collect()
    }

    /// The targets that have more descriptors than `before`.
    pub(crate) fn beyond(&self, before: &Self) -> Vec<String> {
        let mut beyond = self.others_beyond(before);
        if self.sockets > before.sockets + KEPT_SOCKETS {
            beyond.push(format!("{} sockets, {} before", self.sockets, before.sockets));
        }
        beyond
    }
}
