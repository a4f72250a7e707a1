//! `get_or_create(conversation)`: its own room, else one from the pool, else a new one.

use std::sync::Arc;
use std::sync::PoisonError;
use std::time::Instant;

use super::agent;
use super::build::{BuildError, identity};
use super::lease::{Lease, Origin};
use super::release::Why;
use super::room::{Occupant, Room};
use super::{Workspaces, id::RoomId};
use crate::engine::EngineError;
use crate::telemetry::metrics::StartSource;

/// Why a conversation got no room.
#[derive(Debug, thiserror::Error)]
pub enum AcquireError {
    /// A run is in its room.
    #[error("a run is going on in the conversation's room")]
    Busy,
    /// A room could not be made.
    #[error(transparent)]
    Build(#[from] BuildError),
}

impl AcquireError {
    /// Whether the engine's absence is to blame, which may pass.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        matches!(
            self,
            Self::Build(
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
        if let Some(lease) = self.from_pool(&occupant).await {
            self.parts.metrics.started(StartSource::Warm, began.elapsed());
            return Ok(lease);
        }
        if self.pool_size.borrow().min > 0 {
            self.parts.metrics.pool_exhausted();
        }
        let room = self.build(Some(occupant.clone())).await?;
        self.parts.metrics.started(StartSource::Cold, began.elapsed());
        Ok(Lease::new(self.clone(), room, occupant, Origin::Cold, None))
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

    /// Whether a run of this conversation could get a room now. It may be gone a moment later; then the run says so.
    ///
    /// # Errors
    /// Why not.
    pub async fn admit(&self, conversation: &str) -> Result<(), AcquireError> {
        if self.rooms.of_conversation(conversation).is_some() || self.rooms.pooled() > 0 {
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

    async fn from_pool(self: &Arc<Self>, occupant: &Occupant) -> Option<Lease> {
        while let Some(room) = self.rooms.take_pooled(occupant) {
            self.pool_changed.notify_one();
            let lease = Lease::new(self.clone(), room, occupant.clone(), Origin::Warm, None);
            let room = lease.room();
            let bound = answers(room).await && self.bind(room, occupant).await;
            if bound {
                return Some(lease);
            }
            self.release_in_background(room.id.clone(), Why::Unhealthy);
        }
        None
    }

    /// Makes a pooled room the conversation's: its way out, and its record.
    async fn bind(&self, room: &Room, occupant: &Occupant) -> bool {
        if let Some(listener) = room.listener.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            listener.identify(identity(&room.id, Some(occupant)));
        }
        let remembered = self.remember(room, Some(occupant), None).await;
        if let Err(error) = &remembered {
            tracing::error!(workspace = %room.id, %error, "room not recorded, so it is not used");
        }
        remembered.is_ok_and(|stands| stands)
    }

    pub(super) fn release_in_background(self: &Arc<Self>, id: RoomId, why: Why) {
        let this = self.clone();
        self.tasks.spawn(async move {
            if let Err(error) = this.release(&id, why).await {
                tracing::error!(workspace = %id, %error, "room not released; the garbage collector will try again");
            }
        });
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
