//! `get_or_create(conversation)`: its own room, else one from the pool, else a new one.

use std::sync::Arc;
use std::sync::PoisonError;
use std::time::Instant;

use super::agent;
use super::build::{BuildError, identity, whose};
use super::lease::{Lease, Origin};
use super::release::Why;
use super::room::{Occupant, Room};
use super::{Workspaces, id::RoomId, peers::PeerError};
use crate::engine::EngineError;
use crate::state::StateError;
use crate::telemetry::audit::Event;
use crate::telemetry::metrics::StartSource;

/// Why a conversation got no room.
#[derive(Debug, thiserror::Error)]
pub enum AcquireError {
    /// A run is in its room.
    #[error("a run is going on in the conversation's room")]
    Busy,
    /// Whether it has a room elsewhere cannot be told.
    #[error(transparent)]
    State(StateError),
    /// The same, because another server does not answer.
    #[error(transparent)]
    Peer(#[from] PeerError),
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
    /// A room for a run of this conversation, proven to answer.
    ///
    /// # Errors
    /// There is none to be had.
    pub async fn acquire(self: &Arc<Self>, occupant: Occupant) -> Result<Lease, AcquireError> {
        let began = Instant::now();
        let turn = self.turnstile(&occupant.conversation);
        let _turn = turn.lock().await;
        if let Some(lease) = self.reuse(&occupant).await? {
            return Ok(lease);
        }
        // From here on it is about a room that this server does not have.
        self.while_held(&occupant.conversation, self.find_or_make(&occupant, began)).await
    }

    async fn find_or_make(self: &Arc<Self>, occupant: &Occupant, began: Instant) -> Result<Lease, AcquireError> {
        if let Some(lease) = self.fetch(occupant).await? {
            return Ok(lease);
        }
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
        let turn = self.turnstile(&occupant.conversation);
        let _turn = turn.lock().await;
        if self.rooms.of_conversation(&occupant.conversation)?.as_str() != workspace {
            return None;
        }
        let (room, session) = self.rooms.take_bound(&occupant.conversation)?;
        Some(Lease::new(self.clone(), room, occupant, Origin::Reused, session))
    }

    /// The conversation's room, wherever it is, whether or not a run is in it; `None` where it has none.
    ///
    /// # Errors
    /// It is another server's, and a run is in it; or whether there is one cannot be told.
    pub(super) async fn room_of(self: &Arc<Self>, occupant: &Occupant) -> Result<Option<Arc<Room>>, AcquireError> {
        if let Some(room) = self.rooms.used_by(&occupant.conversation) {
            return Ok(Some(room));
        }
        if !self.may_be_elsewhere() {
            return Ok(None);
        }
        let turn = self.turnstile(&occupant.conversation);
        let _turn = turn.lock().await;
        if let Some(room) = self.rooms.used_by(&occupant.conversation) {
            return Ok(Some(room));
        }
        let lease = self.while_held(&occupant.conversation, self.fetch(occupant)).await?;
        Ok(lease.map(|lease| lease.room().clone()))
    }

    /// Whether a run of this conversation could get a room now. It may be gone a moment later; then the run says so.
    ///
    /// # Errors
    /// Why not.
    pub async fn admit(&self, conversation: &str) -> Result<(), AcquireError> {
        if self.rooms.of_conversation(conversation).is_some() {
            return Ok(());
        }
        self.admit_among(conversation).await?;
        if self.rooms.pooled() > 0 {
            return Ok(());
        }
        self.has_place()?;
        self.parts.engine.ping().await.map_err(BuildError::from)?;
        Ok(())
    }

    async fn reuse(self: &Arc<Self>, occupant: &Occupant) -> Result<Option<Lease>, AcquireError> {
        let Some((room, session)) = self.rooms.take_bound(&occupant.conversation) else {
            return match self.rooms.of_conversation(&occupant.conversation) {
                Some(_) => Err(AcquireError::Busy),
                None => Ok(None),
            };
        };
        let lease = Lease::new(self.clone(), room, occupant.clone(), Origin::Reused, session);
        if answers(lease.room()).await {
            return Ok(Some(lease));
        }
        lease.abandon(Why::Dead).await;
        Ok(None)
    }

    async fn from_pool(self: &Arc<Self>, occupant: &Occupant) -> Result<Option<Lease>, AcquireError> {
        while let Some(room) = self.rooms.take_pooled(occupant) {
            self.pool_changed.notify_one();
            let lease = Lease::new(self.clone(), room, occupant.clone(), Origin::Warm, None);
            let room = lease.room();
            let bound = match answers(room).await {
                true => self.bind(room, occupant).await,
                false => Ok(false),
            };
            if matches!(bound, Ok(true)) {
                self.parts.audit.tell(&Event::RoomAssigned { whose: whose(&room.id, Some(occupant)) });
                return Ok(Some(lease));
            }
            self.release_in_background(room.id.clone(), Why::Unhealthy);
            // Another room would fare no better.
            bound?;
        }
        Ok(None)
    }

    /// Makes a pooled room the conversation's: its way out, and its record; `false` where it is being taken down.
    async fn bind(&self, room: &Room, occupant: &Occupant) -> Result<bool, BuildError> {
        if let Some(listener) = room.listener.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            listener.identify(identity(&room.id, Some(occupant)));
        }
        let remembered = self.remember(room, Some(occupant), None).await;
        remembered
            .inspect_err(|error| tracing::error!(workspace = %room.id, %error, "room not recorded, so it is not used"))
    }

    pub(super) fn release_in_background(self: &Arc<Self>, id: RoomId, why: Why) {
        let this = self.clone();
        self.tasks.spawn(async move {
            if let Err(error) = this.release(&id, why).await {
                tracing::error!(workspace = %id, %error, "room not released; the garbage collector will try again");
            }
        });
    }

    /// As [`Workspaces::release_in_background`], for a room that somebody left and this server has claimed.
    pub(super) fn release_left_in_background(self: &Arc<Self>, id: RoomId, why: Why) {
        self.rooms.begin_release_left(&id);
        self.release_in_background(id, why);
    }
}

/// One health round trip.
pub(super) async fn answers(room: &Room) -> bool {
    let Some(dir) = &room.dir else { return false };
    match agent::health(dir).await {
        Ok(_) => true,
        Err(error) => {
            tracing::warn!(workspace = %room.id, %error, "room does not answer");
            false
        }
    }
}
