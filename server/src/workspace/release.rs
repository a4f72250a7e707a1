//! The one way out of a room.
//!
//! Stop new work, stop the proxy, take the files out, destroy the container, remove the directory, delete the record,
//! forget. Every path that ends a room comes here; each step may be repeated; a release that is cut off leaves the room in
//! the table as `Releasing`, and the garbage collector, or the next start, takes it up again.

use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tracing::Instrument;

use super::Workspaces;
use super::build::whose;
use super::id::RoomId;
use super::peers::PeerError;
use super::room::Room;
use crate::engine::EngineError;
use crate::files::Bucket;
use crate::state::StateError;
use crate::telemetry::audit::Event;

/// How long an egress listener's requests and tunnels get to end.
pub(super) const LISTENER_DEADLINE: Duration = Duration::from_secs(5);

/// Beyond the grace period, how long a caller waits for a release, which then goes on without it.
const PATIENCE: Duration = Duration::from_secs(15);
/// What a room gets instead of the grace period where nobody in it could make use of that.
const NO_GRACE: Duration = Duration::from_secs(1);

/// What ended a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
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

impl Why {
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
}

impl Why {
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
    fn is_beyond_warning(self) -> bool {
        matches!(self, Self::Dead | Self::Unhealthy)
    }

    /// Whether files cannot be had from the room any more, or nobody wants them.
    fn is_without_files(self) -> bool {
        self.is_beyond_warning() || matches!(self, Self::Deletion | Self::Surplus | Self::FailedCreation)
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a release did not come to its end. It will be taken up again.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// The container may still be there.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The directory is still there.
    #[error("the room's socket directory: {0}")]
    Directory(#[from] std::io::Error),
    /// Whether there is a room with another server cannot be told.
    #[error(transparent)]
    State(#[from] StateError),
    /// The same, because that server does not answer.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// Another server has the room, and something runs in it.
    #[error("a run is going on in the conversation's room, on another server; cancel it there first")]
    Elsewhere,
    /// It takes its time, and goes on.
    #[error("the room is not gone after {0:?}; its release goes on")]
    Slow(Duration),
    /// The task was ended.
    #[error("the release was cut off")]
    CutOff,
}

impl Workspaces {
    /// Takes a room of this server down. Idempotent, also for one it does not know; goes on to its end also where the
    /// caller has left.
    ///
    /// # Errors
    /// The step that failed; the garbage collector will try again.
    pub async fn release(self: &Arc<Self>, id: &RoomId, why: Why) -> Result<(), ReleaseError> {
        match self.rooms.begin_release(id) {
            Some(room) => self.finish_release(room, why).await,
            None => Ok(()),
        }
    }

    /// Takes down a room that somebody left and this server has claimed.
    pub(super) async fn release_left(self: &Arc<Self>, id: &RoomId, why: Why) -> Result<(), ReleaseError> {
        let room = self.rooms.begin_release_left(id);
        self.finish_release(room, why).await
    }

    async fn finish_release(self: &Arc<Self>, room: Arc<Room>, why: Why) -> Result<(), ReleaseError> {
        // The pool is smaller from here on, also where the rest of it takes its time or has to be tried again.
        self.pool_changed.notify_one();
        let this = self.clone();
        let work = self.tasks.spawn(async move { this.take_down(&room, why).await }.in_current_span());
        let files = self.bucket().map_or(Duration::ZERO, Bucket::patience);
        let patience = self.parts.grace + files + PATIENCE;
        match tokio::time::timeout(patience, work).await {
            Ok(done) => done.unwrap_or(Err(ReleaseError::CutOff)),
            Err(_) => Err(ReleaseError::Slow(patience)),
        }
    }

    async fn take_down(&self, room: &Room, why: Why) -> Result<(), ReleaseError> {
        let _gate = room.gate.lock().await;
        if !self.rooms.contains(&room.id) {
            return Ok(());
        }
        stop_listener(room, LISTENER_DEADLINE).await;
        // While the container still has them.
        if !why.is_without_files() && !self.haste.is_cancelled() {
            self.sync_last(room).await;
        }
        let warned = !why.is_beyond_warning() && !self.haste.is_cancelled();
        let grace = if warned { self.parts.grace } else { self.parts.grace.min(NO_GRACE) };
        self.parts.engine.remove(&room.id.container(), grace).await?;
        let (sockets, id) = (self.parts.sockets.clone(), room.id.clone());
        let removed = tokio::task::spawn_blocking(move || sockets.remove(&id)).await;
        removed.map_err(|_| ReleaseError::CutOff)??;
        if let Err(error) = self.parts.state.forget(room.id.as_str(), self.parts.peers.id()).await {
            // The room is gone. A record of no room misleads nobody for long: the collector removes it.
            tracing::warn!(workspace = %room.id, %error, "the record of a room that is gone is left to the collector");
        }
        self.rooms.remove(&room.id);
        self.pool_changed.notify_one();
        tracing::info!(workspace = %room.id, %why, "room released");
        let occupant = room.occupant();
        self.parts.audit.tell(&Event::RoomDestroyed { whose: whose(&room.id, occupant.as_ref()), reason: why.name() });
        Ok(())
    }
}

/// Closes a room's way out, if it is open; what goes through it gets so long to end.
pub(super) async fn stop_listener(room: &Room, deadline: Duration) {
    let listener = room.listener.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(listener) = listener {
        listener.stop(deadline).await;
    }
}
