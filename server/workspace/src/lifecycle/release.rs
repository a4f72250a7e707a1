//! The one way out of a room.
//!
//! Stop new work, stop the proxy, take the files out, destroy the container, remove the directory, delete the record,
//! forget. Every path that ends a room comes here; each step may be repeated; a release that is cut off leaves the room in
//! the table as `Releasing`, and the garbage collector, or the next start, takes it up again.

use std::sync::Arc;
use std::time::Duration;

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
use nagaya_telemetry::audit::Event;

/// Beyond the grace period, how long a caller waits for a release, which then goes on without it.
const PATIENCE: Duration = Duration::from_secs(15);
/// What a room gets instead of the grace period where nobody in it could make use of that.
const NO_GRACE: Duration = Duration::from_secs(1);

/// Why a release did not come to its end. It will be taken up again.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// The container may still be there.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The directory is still there.
    #[error("the workspace's socket directory: {0}")]
    Directory(#[from] std::io::Error),
    /// Whether there is a room with another server cannot be told.
    #[error(transparent)]
    State(#[from] StateError),
    /// Another server does not say whether it has the room.
    #[error(transparent)]
    Peer(#[from] PeerUnavailable),
    /// Another server has the room, and something runs in it.
    #[error("a run is going on in the conversation's workspace, on another server; cancel it first")]
    BusyElsewhere,
    /// It takes its time, and goes on.
    #[error("the workspace is not gone after {0:?}; its release goes on")]
    Timeout(Duration),
    /// The task was ended.
    #[error("the release was cut off")]
    Interrupted,
}

impl Workspaces {
    /// Takes a room of this server down. Idempotent, also for one it does not know; goes on to its end also where the
    /// caller has left.
    ///
    /// # Errors
    /// The step that failed; the garbage collector will try again.
    pub async fn release(self: &Arc<Self>, id: &RoomId, why: ReleaseReason) -> Result<(), ReleaseError> {
        match self.rooms.begin_release(id) {
            Some(room) => self.finish_release(room, why).await,
            None => Ok(()),
        }
    }

    /// Takes down a room that somebody left and this server has claimed.
    ///
    /// # Errors
    /// As [`Workspaces::release`].
    pub async fn release_unowned(self: &Arc<Self>, id: &RoomId, why: ReleaseReason) -> Result<(), ReleaseError> {
        let room = self.rooms.begin_release_unowned(id);
        self.finish_release(room, why).await
    }

    async fn finish_release(self: &Arc<Self>, room: Arc<Room>, why: ReleaseReason) -> Result<(), ReleaseError> {
        // The pool is smaller from here on, also where the rest of it takes its time or has to be tried again.
        self.pool_changed.notify_one();
        let this = self.clone();
        let work = self.tasks.spawn(async move { this.take_down(&room, why).await }.in_current_span());
        let files = self.bucket().map_or(Duration::ZERO, Bucket::sync_timeout);
        let patience = self.parts.settings.grace + files + PATIENCE;
        match tokio::time::timeout(patience, work).await {
            Ok(done) => done.unwrap_or(Err(ReleaseError::Interrupted)),
            Err(_) => Err(ReleaseError::Timeout(patience)),
        }
    }

    async fn take_down(&self, room: &Room, why: ReleaseReason) -> Result<(), ReleaseError> {
        let _gate = room.teardown_lock.lock().await;
        if !self.rooms.contains(&room.id) {
            return Ok(());
        }
        room.close_listener(LISTENER_DEADLINE).await;
        // While the container still has them.
        if !why.skips_final_sync() && !self.no_grace.is_cancelled() {
            self.final_sync(room).await;
        }
        let warned = !why.skips_grace_period() && !self.no_grace.is_cancelled();
        let grace = if warned { self.parts.settings.grace } else { self.parts.settings.grace.min(NO_GRACE) };
        self.parts.engine.remove(&room.id.container(), grace).await?;
        let (sockets, id) = (self.parts.sockets.clone(), room.id.clone());
        let removed = tokio::task::spawn_blocking(move || sockets.remove(&id)).await;
        removed.map_err(|_| ReleaseError::Interrupted)??;
        if let Err(error) = self.parts.state.delete_owned(room.id.as_str(), self.server_id()).await {
            // The room is gone. A record of no room misleads nobody for long: the collector removes it.
            tracing::warn!(workspace = %room.id, %error, "the record of a room that is gone is left to the collector");
        }
        self.rooms.remove(&room.id);
        self.pool_changed.notify_one();
        tracing::info!(workspace = %room.id, %why, "room released");
        let occupant = room.occupant();
        self.parts
            .audit
            .record(&Event::RoomDestroyed { subject: subject(&room.id, occupant.as_ref()), reason: why.name() });
        Ok(())
    }
}
