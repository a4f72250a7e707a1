//! Acquisition: leases a conversation its own room, else one from the warm pool, else a newly built one.

use std::sync::Arc;
use std::time::Instant;

use nagaya_telemetry::audit::Event;
use nagaya_telemetry::metrics::StartSource;

use crate::engine::{Condition, EngineError};
use crate::id::RoomId;
use crate::lifecycle::build::{BuildError, subject};
use crate::lifecycle::lease::{Lease, Origin};
use crate::peers::PeerUnavailable;
use crate::policies::VariantUnknown;
use crate::reason::ReleaseReason;
use crate::records::RecordError;
use crate::rooms::{Occupant, Room};
use crate::spec::{LABEL_WORKSPACE, Variant};
use crate::state::StateError;
use crate::workspaces::Workspaces;

/// Why no room could be leased to a conversation.
#[derive(Debug, thiserror::Error)]
pub enum AcquireError {
    /// A run holds the lease of the conversation's room.
    #[error("a run is in progress in the conversation's workspace")]
    Busy,
    /// The shared state does not answer, so it is unknown whether another server has a room of the conversation.
    #[error(transparent)]
    State(StateError),
    /// Another server did not answer whether it has the conversation's room.
    #[error(transparent)]
    Peer(#[from] PeerUnavailable),
    /// What the room is to be is unknown.
    #[error(transparent)]
    Variant(#[from] VariantUnknown),
    /// A room could not be built.
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
    /// Whether the cause is temporary: an engine, shared state or server that does not answer, a reached limit, or a shutdown.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        matches!(
            self,
            Self::State(_)
                | Self::Peer(_)
                | Self::Variant(_)
                | Self::Build(
                    BuildError::Engine(EngineError::Unreachable { .. } | EngineError::Timeout { .. })
                        | BuildError::Full(_)
                        | BuildError::Crowded(_)
                        | BuildError::CrowdedByTenant(_)
                        | BuildError::Stopping
                )
        )
    }
}

impl Workspaces {
    /// What the container of a conversation is to be.
    ///
    /// # Errors
    /// That cannot be found out now.
    pub async fn variant(&self, occupant: &Occupant) -> Result<Variant, AcquireError> {
        Ok(self.parts.policies.variant(occupant).await?)
    }

    /// The lease of a room whose container is what it is to be; the room of any other one is released. One of which the engine does not
    /// say what it is, is kept.
    pub async fn fitting(&self, lease: Lease, wanted: &Variant) -> Option<Lease> {
        let room = lease.room();
        if room.variant.get().is_none() {
            match self.parts.engine.list(LABEL_WORKSPACE, room.id.as_str()).await {
                // A container that is gone is found out by its agent's silence.
                Ok(listed) => listed.first().map(|found| room.variant.get_or_init(|| Variant::of(&found.labels))),
                Err(error) => {
                    tracing::warn!(workspace = %room.id, %error, "the image of an adopted workspace is unknown");
                    None
                }
            };
        }
        if room.variant.get().is_none_or(|variant| variant == wanted) {
            return Some(lease);
        }
        tracing::info!(workspace = %room.id, ?wanted, "the workspace is replaced by one of another image or size");
        lease.release(ReleaseReason::Reconfigured).await;
        None
    }

    /// Leases the room that the conversation has on this server; `None` if it has none here. A room whose agent does not answer, or
    /// whose container is not what it is to be, is released, and the result is `None`.
    ///
    /// # Errors
    /// [`AcquireError::Busy`] if a run holds the lease.
    pub async fn reuse(self: &Arc<Self>, occupant: &Occupant, wanted: &Variant) -> Result<Option<Lease>, AcquireError> {
        let Some((room, session)) = self.rooms.lease_bound(&occupant.conversation) else {
            return match self.rooms.of_conversation(&occupant.conversation) {
                Some(_) => Err(AcquireError::Busy),
                None => Ok(None),
            };
        };
        let lease = Lease::new(self.clone(), room, occupant.clone(), Origin::Reused, session);
        let Some(lease) = self.fitting(lease, wanted).await else { return Ok(None) };
        let why = match lease.room().is_outdated() {
            true => ReleaseReason::Outdated,
            false if is_responding(lease.room()).await => return Ok(Some(lease)),
            false => self.reason_of_silence(lease.room()).await,
        };
        lease.release(why).await;
        Ok(None)
    }

    /// Why a room whose agent does not answer is released.
    pub(crate) async fn reason_of_silence(&self, room: &Room) -> ReleaseReason {
        match self.parts.engine.condition(&room.id.container()).await {
            Ok(Condition::Paused) => ReleaseReason::Paused,
            _ => ReleaseReason::Dead,
        }
    }

    /// Leases a room to a conversation that has none: from the pool, whose rooms have nothing of their own, else newly built. `began` is
    /// when the conversation began to wait; the start-time metric counts from it.
    ///
    /// # Errors
    /// No room is available.
    pub async fn take_or_build(
        self: &Arc<Self>,
        occupant: &Occupant,
        wanted: &Variant,
        began: Instant,
    ) -> Result<Lease, AcquireError> {
        let pools = *wanted == Variant::default();
        if pools && let Some(lease) = self.from_pool(occupant).await? {
            self.parts.metrics.started(StartSource::Warm, began.elapsed());
            return Ok(lease);
        }
        if pools && self.pool_size.borrow().min > 0 {
            self.parts.metrics.pool_exhausted();
        }
        self.check_limit()?;
        let turn = self.turn_to_start(Some(occupant)).await?;
        // A workspace of the pool may have become ready meanwhile.
        if pools && let Some(lease) = self.from_pool(occupant).await? {
            self.parts.metrics.started(StartSource::Warm, began.elapsed());
            return Ok(lease);
        }
        let room = self.build_at_once(Some((occupant.clone(), wanted.clone())), turn).await?;
        self.parts.metrics.started(StartSource::Cold, began.elapsed());
        Ok(Lease::new(self.clone(), room, occupant.clone(), Origin::Cold, None))
    }

    /// Leases the room in which an earlier process left a run of this conversation. Waits for reconciliation, which decides which
    /// rooms are left; `None` if `workspace` is not the conversation's room any more.
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

    /// Checks whether a room is available for a tenant's conversation that has none here. The answer can be outdated a moment later; the run
    /// then fails with the same error.
    ///
    /// # Errors
    /// The reason why no room is available.
    pub async fn check_available(&self, tenant: &str) -> Result<(), AcquireError> {
        if self.rooms.pooled() > 0 {
            return Ok(());
        }
        self.check_limit()?;
        self.starts.check(tenant).map_err(BuildError::from)?;
        self.parts.engine.ping().await.map_err(BuildError::from)?;
        Ok(())
    }

    async fn from_pool(self: &Arc<Self>, occupant: &Occupant) -> Result<Option<Lease>, AcquireError> {
        while let Some(room) = self.rooms.lease_pooled(occupant) {
            self.pool_changed.notify_one();
            let lease = Lease::new(self.clone(), room, occupant.clone(), Origin::Warm, None);
            let room = lease.room();
            let bound = match !room.is_outdated() && is_responding(room).await {
                true => self.bind(room, occupant).await,
                false => Ok(false),
            };
            if matches!(bound, Ok(true)) {
                self.parts.audit.record(&Event::RoomAssigned { subject: subject(&room.id, Some(occupant)) });
                return Ok(Some(lease));
            }
            self.release_in_background(room.id.clone(), ReleaseReason::Unhealthy);
            // A state that does not take this record would not take that of another room either.
            bound.map_err(BuildError::from)?;
        }
        Ok(None)
    }

    /// Binds a pooled room to a conversation: gives its egress listener identity and policy, and writes its record; `false` if the room
    /// is being released.
    async fn bind(&self, room: &Room, occupant: &Occupant) -> Result<bool, RecordError> {
        room.set_running(false);
        self.assign(room, occupant).await;
        let written = self.write_record(room, Some(occupant), None).await;
        written
            .inspect_err(|error| tracing::error!(workspace = %room.id, %error, "the record of a pooled workspace was not written, so the workspace is not used"))
    }

    /// Releases a room in a background task.
    pub(crate) fn release_in_background(self: &Arc<Self>, id: RoomId, why: ReleaseReason) {
        let this = self.clone();
        self.tasks.spawn(async move {
            if let Err(error) = this.release(&id, why).await {
                tracing::error!(workspace = %id, %error, "workspace not released; garbage collection tries again");
            }
        });
    }

    /// What happens to a room that sends more than its protocol needs: it is released.
    pub(crate) fn on_hostile(self: &Arc<Self>, id: &RoomId) -> impl FnOnce() + Send + 'static {
        let (this, id) = (Arc::downgrade(self), id.clone());
        move || {
            if let Some(this) = this.upgrade() {
                tracing::warn!(workspace = %id, why = ReleaseReason::Hostile.explanation(), "releasing a hostile workspace");
                this.release_in_background(id, ReleaseReason::Hostile);
            }
        }
    }

    /// As [`Workspaces::release_in_background`], for a room outside the table whose record this server has claimed.
    pub(crate) fn release_unowned_in_background(self: &Arc<Self>, id: RoomId, why: ReleaseReason) {
        self.rooms.begin_release_unowned(&id);
        self.release_in_background(id, why);
    }
}

/// Makes one health round trip to the room's agent.
pub(crate) async fn is_responding(room: &Room) -> bool {
    let Ok(agent) = room.agent() else { return false };
    match agent.health().await {
        Ok(_) => true,
        Err(error) => {
            tracing::warn!(workspace = %room.id, %error, "the workspace's agent does not answer");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_passes_by_itself_is_said_to() {
        let refused = || EngineError::Refused { what: "run a container", why: "no".into() };
        let away = EngineError::Unreachable { address: "a".into(), why: "no".into(), io_error: None };
        let slow = EngineError::Timeout { what: "run a container", limit: Duration::from_secs(1) };
        let not_ready = BuildError::NotReady { image: "i".into(), output: String::new() };
        for (error, passes) in [
            (AcquireError::Busy, false),
            (AcquireError::State(StateError::Contended("w".into())), true),
            (AcquireError::Peer(PeerUnavailable("p".into())), true),
            (BuildError::Engine(away).into(), true),
            (BuildError::Engine(slow).into(), true),
            (BuildError::Engine(refused()).into(), false),
            (BuildError::Engine(EngineError::NotFound("i".into())).into(), false),
            (BuildError::Crowded(1).into(), true),
            (BuildError::CrowdedByTenant(1).into(), true),
            (BuildError::Full(1).into(), true),
            (BuildError::Stopping.into(), true),
            (BuildError::Left.into(), false),
            (BuildError::HostPath("/a".into()).into(), false),
            (not_ready.into(), false),
            (BuildError::State(StateError::Contended("w".into())).into(), true),
            (BuildError::Taken.into(), false),
        ] {
            let error: AcquireError = error;
            assert_eq!(error.is_unavailable(), passes, "{error}");
        }
        assert!(matches!(AcquireError::from(BuildError::Taken), AcquireError::Busy));
    }
}
