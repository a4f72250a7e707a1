//! Acquisition: a conversation's own room, else one from the pool, else a new one.

use std::sync::Arc;
use std::time::Instant;

use crate::agent;
use crate::engine::EngineError;
use crate::id::RoomId;
use crate::lifecycle::build::{BuildError, identity, subject};
use crate::lifecycle::lease::{Lease, Origin};
use crate::peers::PeerUnavailable;
use crate::reason::ReleaseReason;
use crate::records::RecordError;
use crate::rooms::{Occupant, Room};
use crate::state::StateError;
use crate::workspaces::Workspaces;
use nagaya_telemetry::audit::Event;
use nagaya_telemetry::metrics::StartSource;

/// Why a conversation got no room.
#[derive(Debug, thiserror::Error)]
pub enum AcquireError {
    /// A run is in its room.
    #[error("a run is going on in the conversation's workspace")]
    Busy,
    /// Whether it has a room elsewhere cannot be told.
    #[error(transparent)]
    State(StateError),
    /// Another server does not say whether it has the conversation's room.
    #[error(transparent)]
    Peer(#[from] PeerUnavailable),
    /// A room could not be made.
    #[error(transparent)]
    Build(BuildError),
}

impl From<StateError> for AcquireError {
    fn from(error: StateError) -> Self {
        Self::State(error)
    }
}

impl From<BuildError> for AcquireError {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::Taken => Self::Busy,
            BuildError::State(error) => Self::State(error),
            other => Self::Build(other),
        }
    }
}

impl AcquireError {
    /// Whether the engine's absence is to blame, which may pass.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        matches!(
            self,
            Self::State(_)
                | Self::Peer(_)
                | Self::Build(
                    BuildError::Engine(EngineError::Unreachable { .. } | EngineError::Timeout { .. })
                        | BuildError::Full(_)
                        | BuildError::Stopping
                )
        )
    }
}

impl Workspaces {
    /// The conversation's room of this server, leased; `None` where it has none here.
    ///
    /// # Errors
    /// [`AcquireError::Busy`] where a run is in the room.
    pub async fn reuse(self: &Arc<Self>, occupant: &Occupant) -> Result<Option<Lease>, AcquireError> {
        let Some((room, session)) = self.rooms.lease_bound(&occupant.conversation) else {
            return match self.rooms.of_conversation(&occupant.conversation) {
                Some(_) => Err(AcquireError::Busy),
                None => Ok(None),
            };
        };
        let lease = Lease::new(self.clone(), room, occupant.clone(), Origin::Reused, session);
        if is_responding(lease.room()).await {
            return Ok(Some(lease));
        }
        lease.release(ReleaseReason::Dead).await;
        Ok(None)
    }

    /// A room for a conversation that has none, leased: from the pool, else built. `began` is when the conversation began to
    /// wait, for the metrics.
    ///
    /// # Errors
    /// No room can be had.
    pub async fn take_or_build(self: &Arc<Self>, occupant: &Occupant, began: Instant) -> Result<Lease, AcquireError> {
        if let Some(lease) = self.from_pool(occupant).await? {
            self.parts.metrics.started(StartSource::Warm, began.elapsed());
            return Ok(lease);
        }
        if self.pool_size.borrow().min > 0 {
            self.parts.metrics.pool_exhausted();
        }
        let room = self.build(Some(occupant.clone())).await?;
        self.parts.metrics.started(StartSource::Cold, began.elapsed());
        Ok(Lease::new(self.clone(), room, occupant.clone(), Origin::Cold, None))
    }

    /// The very room in which an earlier server left a run of this conversation, once it is known what of that server's is
    /// left; `None` where the room is not.
    pub async fn reattach(self: &Arc<Self>, occupant: Occupant, workspace: &str) -> Option<Lease> {
        let mut reconciled = self.reconciled.subscribe();
        reconciled.wait_for(|reconciled| *reconciled).await.ok()?;
        let _turn = self.lock_conversation(&occupant.conversation).await;
        if self.rooms.of_conversation(&occupant.conversation)?.as_str() != workspace {
            return None;
        }
        let (room, session) = self.rooms.lease_bound(&occupant.conversation)?;
        Some(Lease::new(self.clone(), room, occupant, Origin::Reused, session))
    }

    /// Whether a room could be had for a conversation that has none here. It may be gone a moment later; then the run says so.
    ///
    /// # Errors
    /// Why no room could be had.
    pub async fn check_available(&self) -> Result<(), AcquireError> {
        if self.rooms.pooled() > 0 {
            return Ok(());
        }
        self.check_limit()?;
        self.parts.engine.ping().await.map_err(BuildError::from)?;
        Ok(())
    }

    async fn from_pool(self: &Arc<Self>, occupant: &Occupant) -> Result<Option<Lease>, AcquireError> {
        while let Some(room) = self.rooms.lease_pooled(occupant) {
            self.pool_changed.notify_one();
            let lease = Lease::new(self.clone(), room, occupant.clone(), Origin::Warm, None);
            let room = lease.room();
            let bound = match is_responding(room).await {
                true => self.bind(room, occupant).await,
                false => Ok(false),
            };
            if matches!(bound, Ok(true)) {
                self.parts.audit.record(&Event::RoomAssigned { subject: subject(&room.id, Some(occupant)) });
                return Ok(Some(lease));
            }
            self.release_in_background(room.id.clone(), ReleaseReason::Unhealthy);
            // Another room would fare no better.
            bound.map_err(BuildError::from)?;
        }
        Ok(None)
    }

    /// Makes a pooled room the conversation's: its way out, and its record; `false` where it is being taken down.
    async fn bind(&self, room: &Room, occupant: &Occupant) -> Result<bool, RecordError> {
        if let Some(listener) = room.listener.lock().as_ref() {
            listener.identify(identity(&room.id, Some(occupant)));
        }
        let remembered = self.write_record(room, Some(occupant), None).await;
        remembered
            .inspect_err(|error| tracing::error!(workspace = %room.id, %error, "room not recorded, so it is not used"))
    }

    /// Releases a room without waiting for the end.
    pub(crate) fn release_in_background(self: &Arc<Self>, id: RoomId, why: ReleaseReason) {
        let this = self.clone();
        self.tasks.spawn(async move {
            if let Err(error) = this.release(&id, why).await {
                tracing::error!(workspace = %id, %error, "room not released; the garbage collector will try again");
            }
        });
    }

    /// As [`Workspaces::release_in_background`], for a room that somebody left and this server has claimed.
    pub(crate) fn release_unowned_in_background(self: &Arc<Self>, id: RoomId, why: ReleaseReason) {
        self.rooms.begin_release_unowned(&id);
        self.release_in_background(id, why);
    }
}

/// One health round trip.
pub(crate) async fn is_responding(room: &Room) -> bool {
    let Some(dir) = &room.dir else { return false };
    match agent::health(dir).await {
        Ok(_) => true,
        Err(error) => {
            tracing::warn!(workspace = %room.id, %error, "room does not answer");
            false
        }
    }
}
