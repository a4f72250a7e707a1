//! Reasons for which a room ends.

use std::fmt;

/// What ended a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReleaseReason {
    /// It was not used for longer than `CONTAINER_TTL`.
    Idle,
    /// Its container ended by itself.
    Dead,
    /// Its agent stopped answering.
    Unhealthy,
    /// It fills the directory that it shares with the server.
    Hostile,
    /// A run in it used up its time.
    Timeout,
    /// Its container is ours by its label, but nobody knows it.
    Orphan,
    /// Only its directory is left.
    StaleDirectory,
    /// Only its record is left.
    StaleRecord,
    /// An earlier release was cut off.
    Unfinished,
    /// It could not be made whole.
    FailedCreation,
    /// Its conversation was archived.
    Conversation,
    /// Its conversation was deleted, and its files with it.
    Deletion,
    /// An operator asked for it.
    Operator,
    /// The pool is larger than it should be.
    Surplus,
    /// The server stops and keeps nothing.
    Shutdown,
}

impl ReleaseReason {
    /// Reasons for which a cycle of garbage collection releases a room.
    pub(crate) const COLLECTED: [Self; 7] = [
        Self::Idle,
        Self::Dead,
        Self::Unhealthy,
        Self::Unfinished,
        Self::Orphan,
        Self::StaleDirectory,
        Self::StaleRecord,
    ];

    /// The name in logs, answers and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Dead => "dead",
            Self::Unhealthy => "unhealthy",
            Self::Hostile => "hostile",
            Self::Timeout => "timeout",
            Self::Orphan => "orphan",
            Self::StaleDirectory => "stale_directory",
            Self::StaleRecord => "stale_record",
            Self::Unfinished => "unfinished",
            Self::FailedCreation => "failed_creation",
            Self::Conversation => "conversation",
            Self::Deletion => "deletion",
            Self::Operator => "operator",
            Self::Surplus => "surplus",
            Self::Shutdown => "shutdown",
        }
    }

    /// For a person: what was found.
    #[must_use]
    pub fn explanation(self) -> &'static str {
        match self {
            Self::Idle => "not used for longer than CONTAINER_TTL",
            Self::Dead => "its container does not run",
            Self::Unhealthy => "its agent does not answer",
            Self::Hostile => "it fills the directory that it shares with the server",
            Self::Timeout => "a run in it used up its time",
            Self::Orphan => "a container with our label that no record and no server knows",
            Self::StaleDirectory => "a socket directory without a container",
            Self::StaleRecord => "a record without a container",
            Self::Unfinished => "an earlier release was cut off",
            Self::FailedCreation => "it could not be made whole",
            Self::Conversation => "its conversation was archived",
            Self::Deletion => "its conversation was deleted",
            Self::Operator => "an operator asked for it",
            Self::Surplus => "the pool is larger than it should be",
            Self::Shutdown => "the server stops and keeps nothing",
        }
    }

    /// Whether nobody is left in the room who could use a grace period.
    pub(crate) fn skips_grace_period(self) -> bool {
        matches!(self, Self::Dead | Self::Unhealthy)
    }

    /// Whether files cannot be had from the room any more, or nobody wants them.
    pub(crate) fn skips_final_sync(self) -> bool {
        self.skips_grace_period() || matches!(self, Self::Deletion | Self::Surplus | Self::FailedCreation)
    }
}

impl fmt::Display for ReleaseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
