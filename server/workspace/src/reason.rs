//! Reasons for the release of a room.

use std::fmt;

/// Why a room is released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReleaseReason {
    /// It has been idle for longer than `CONTAINER_TTL`.
    Idle,
    /// Its container does not run.
    Dead,
    /// Its container is paused: nothing in it can run, and nothing can be read from it.
    Paused,
    /// Its agent does not answer.
    Unhealthy,
    /// It sends the server more or other data than its protocol needs.
    Hostile,
    /// It was built by version 0.1, whose agents speak another protocol.
    Outdated,
    /// Its conversation's configuration now wants another image or size.
    Reconfigured,
    /// A run in it exceeded its time limit.
    Timeout,
    /// Its container has the deployment's label, but no record and no server's table has the room.
    Orphan,
    /// A socket directory without a container.
    StaleDirectory,
    /// A record without a container.
    StaleRecord,
    /// An earlier release did not complete.
    Unfinished,
    /// Its build failed.
    FailedCreation,
    /// Its conversation was archived.
    Conversation,
    /// Its conversation was deleted, together with its files.
    Deletion,
    /// A tenant requested it, to have its conversation continue in a new one.
    Tenant,
    /// An operator requested it.
    Operator,
    /// The warm pool is larger than its maximum.
    Surplus,
    /// The server stops with `SHUTDOWN_WORKSPACES=destroy`.
    Shutdown,
}

impl ReleaseReason {
    /// Reasons for which garbage collection releases a room.
    pub(crate) const COLLECTED: [Self; 9] = [
        Self::Idle,
        Self::Dead,
        Self::Paused,
        Self::Unhealthy,
        Self::Outdated,
        Self::Unfinished,
        Self::Orphan,
        Self::StaleDirectory,
        Self::StaleRecord,
    ];

    /// The name in logs, API responses and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Dead => "dead",
            Self::Paused => "paused",
            Self::Unhealthy => "unhealthy",
            Self::Hostile => "hostile",
            Self::Outdated => "outdated",
            Self::Reconfigured => "reconfigured",
            Self::Timeout => "timeout",
            Self::Orphan => "orphan",
            Self::StaleDirectory => "stale_directory",
            Self::StaleRecord => "stale_record",
            Self::Unfinished => "unfinished",
            Self::FailedCreation => "failed_creation",
            Self::Conversation => "conversation",
            Self::Deletion => "deletion",
            Self::Tenant => "tenant",
            Self::Operator => "operator",
            Self::Surplus => "surplus",
            Self::Shutdown => "shutdown",
        }
    }

    /// A description for people, in the output of garbage collection.
    #[must_use]
    pub fn explanation(self) -> &'static str {
        match self {
            Self::Idle => "idle for longer than CONTAINER_TTL",
            Self::Dead => "its container does not run",
            Self::Paused => "its container is paused",
            Self::Unhealthy => "its agent does not answer",
            Self::Hostile => "it sends the server more or other data than an agent may send",
            Self::Outdated => "it was built by version 0.1 and serves no further run",
            Self::Reconfigured => "its conversation's configuration wants another image or size",
            Self::Timeout => "a run in it exceeded its time limit",
            Self::Orphan => "a container of this deployment without a record, unknown to every server",
            Self::StaleDirectory => "a socket directory without a container",
            Self::StaleRecord => "a record without a container",
            Self::Unfinished => "an earlier release did not complete",
            Self::FailedCreation => "it failed to start",
            Self::Conversation => "its conversation was archived",
            Self::Deletion => "its conversation was deleted",
            Self::Tenant => "its conversation's tenant requested a new one",
            Self::Operator => "an operator requested it",
            Self::Surplus => "the warm pool is larger than its maximum",
            Self::Shutdown => "the server stops with SHUTDOWN_WORKSPACES=destroy",
        }
    }

    /// Whether the room must not do anything any more, not even end in good order.
    pub(crate) fn is_hostile(self) -> bool {
        self == Self::Hostile
    }

    /// Whether a conversation loses its workspace against everybody's intention.
    pub(crate) fn is_loss(self) -> bool {
        matches!(self, Self::Dead | Self::Paused | Self::Unhealthy | Self::Hostile | Self::Timeout)
    }

    /// Whether no process in the room could make use of the grace period.
    pub(crate) fn skips_grace_period(self) -> bool {
        matches!(self, Self::Dead | Self::Paused | Self::Unhealthy) || self.is_hostile()
    }

    /// Whether the room's files cannot be read any more or need not be saved.
    pub(crate) fn skips_final_sync(self) -> bool {
        self.skips_grace_period() || matches!(self, Self::Deletion | Self::Surplus | Self::FailedCreation)
    }
}

impl fmt::Display for ReleaseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::ReleaseReason as R;

    const ALL: [R; 19] = [
        R::Idle,
        R::Dead,
        R::Paused,
        R::Unhealthy,
        R::Hostile,
        R::Outdated,
        R::Reconfigured,
        R::Timeout,
        R::Orphan,
        R::StaleDirectory,
        R::StaleRecord,
        R::Unfinished,
        R::FailedCreation,
        R::Conversation,
        R::Deletion,
        R::Tenant,
        R::Operator,
        R::Surplus,
        R::Shutdown,
    ];

    fn those(holds: fn(R) -> bool) -> Vec<R> {
        ALL.into_iter().filter(|why| holds(*why)).collect()
    }

    #[test]
    fn what_a_release_does_depends_on_its_reason() {
        assert_eq!(those(R::is_hostile), [R::Hostile]);
        assert_eq!(those(R::is_loss), [R::Dead, R::Paused, R::Unhealthy, R::Hostile, R::Timeout]);
        assert_eq!(those(R::skips_grace_period), [R::Dead, R::Paused, R::Unhealthy, R::Hostile]);
        let unsaved = [R::Dead, R::Paused, R::Unhealthy, R::Hostile, R::FailedCreation, R::Deletion, R::Surplus];
        assert_eq!(those(R::skips_final_sync), unsaved);
    }

    #[test]
    fn no_two_reasons_are_told_alike() {
        let names: BTreeSet<&str> = ALL.into_iter().map(R::name).collect();
        let explanations: BTreeSet<&str> = ALL.into_iter().map(R::explanation).collect();
        assert_eq!((names.len(), explanations.len()), (ALL.len(), ALL.len()));
        let word = |name: &&str| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        assert!(names.iter().all(word) && ALL.iter().all(|why| why.to_string() == why.name()));
    }
}
