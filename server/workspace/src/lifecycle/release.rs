//! Release: the only code that removes a room.
//!
//! The steps: stop new leases, close its egress listener, save its files, remove the container, the directory, the record
//! and the entry in the table. Every step can be repeated. An interrupted release leaves the room in the table as `Releasing`, and
//! garbage collection or the next start repeats it.

use std::sync::Arc;
use std::time::Duration;

use nagaya_telemetry::audit::Event;
use tracing::Instrument;

use crate::engine::EngineError;
use crate::id::RoomId;
use crate::lifecycle::build::subject;
use crate::objects::Bucket;
use crate::peers::PeerUnavailable;
use crate::reason::ReleaseReason;
use crate::rooms::{LISTENER_DEADLINE, Room};
use crate::state::StateError;
use crate::workspaces::Workspaces;

/// How long a caller waits for a release, beyond the grace period and the sync of files. The release then continues in the background.
const EXTRA_WAIT: Duration = Duration::from_secs(15);
/// Grace period of a room in which no process can make use of it.
const MIN_GRACE: Duration = Duration::from_secs(1);

/// Why a release did not complete. Garbage collection or the next start repeats it.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// The engine did not confirm that the container is removed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The socket directory could not be removed.
    #[error("the workspace's socket directory: {0}")]
    Directory(#[from] std::io::Error),
    /// The shared state does not answer, so it is unknown whether another server has the room.
    #[error(transparent)]
    State(#[from] StateError),
    /// Another server did not answer whether it has the room.
    #[error(transparent)]
    Peer(#[from] PeerUnavailable),
    /// Another server has the room, and a run is in it.
    #[error("a run is in progress in the conversation's workspace on another server; cancel it first")]
    BusyElsewhere,
    /// The release takes longer than this and continues in the background.
    #[error("the workspace is not removed after {0:?}; the release continues in the background")]
    Timeout(Duration),
    /// The task of the release panicked or was aborted.
    #[error("the release was interrupted")]
    Interrupted,
}

impl Workspaces {
    /// Releases a room of this server. Idempotent: a room that is not in the table counts as released. Runs as a task of its own, so
    /// it completes even if the caller is dropped.
    ///
    /// # Errors
    /// The step that failed; garbage collection tries again.
    pub async fn release(self: &Arc<Self>, id: &RoomId, why: ReleaseReason) -> Result<(), ReleaseError> {
        match self.rooms.begin_release(id) {
            Some(room) => self.finish_release(room, why).await,
            None => Ok(()),
        }
    }

    /// Releases a room outside the table whose record this server has claimed.
    ///
    /// # Errors
    /// As [`Workspaces::release`].
    pub async fn release_unowned(self: &Arc<Self>, id: &RoomId, why: ReleaseReason) -> Result<(), ReleaseError> {
        let room = self.rooms.begin_release_unowned(id);
        self.finish_release(room, why).await
    }

    async fn finish_release(self: &Arc<Self>, room: Arc<Room>, why: ReleaseReason) -> Result<(), ReleaseError> {
        // The room has left the pool, whether or not the rest of the release succeeds.
        self.pool_changed.notify_one();
        let this = self.clone();
        let work = self.tasks.spawn(async move { this.tear_down(&room, why).await }.in_current_span());
        let files = self.bucket().map_or(Duration::ZERO, Bucket::sync_timeout);
        let limit = self.parts.settings.grace + files + EXTRA_WAIT;
        match tokio::time::timeout(limit, work).await {
            Ok(done) => done.unwrap_or(Err(ReleaseError::Interrupted)),
            Err(_) => Err(ReleaseError::Timeout(limit)),
        }
    }

    async fn tear_down(&self, room: &Room, why: ReleaseReason) -> Result<(), ReleaseError> {
        let _teardown = room.teardown_lock.lock().await;
        if !self.rooms.contains(&room.id) {
            return Ok(());
        }
        // It counts no longer, and that it ends with its room is no event.
        room.take_started();
        if why.is_hostile() {
            // A hostile room is killed first, because it can harm others until then.
            self.parts.engine.remove(&room.id.container(), Duration::ZERO).await?;
        }
        room.close_listener(LISTENER_DEADLINE).await;
        // Files are saved while the container, whose memory holds them, still runs.
        if !why.skips_final_sync() && !self.no_grace.is_cancelled() {
            self.final_sync(room).await;
        }
        self.note_loss(room, why);
        let graceful = !why.skips_grace_period() && !self.no_grace.is_cancelled();
        let grace = if graceful { self.parts.settings.grace } else { self.parts.settings.grace.min(MIN_GRACE) };
        self.parts.engine.remove(&room.id.container(), grace).await?;
        room.leave(Duration::ZERO).await;
        let (sockets, id) = (self.parts.sockets.clone(), room.id.clone());
        let removed = tokio::task::spawn_blocking(move || sockets.remove(&id)).await;
        removed.map_err(|_| ReleaseError::Interrupted)??;
        if let Err(error) = self.parts.state.delete_owned(room.id.as_str(), self.server_id()).await {
            // The room itself is removed. Garbage collection removes a record without a container or a directory.
            tracing::warn!(workspace = %room.id, %error, "the record of a removed workspace was not deleted; garbage collection deletes it");
        }
        self.rooms.remove(&room.id);
        self.pool_changed.notify_one();
        tracing::info!(workspace = %room.id, %why, "workspace released");
        let occupant = room.occupant();
        self.parts
            .audit
            .record(&Event::RoomDestroyed { subject: subject(&room.id, occupant.as_ref()), reason: why.name() });
        Ok(())
    }
}
