//! How a room comes to be.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nagaya_egress::Identity;
use nagaya_protocol::PROXY_SOCKET;
use tracing::Instrument;

use super::agent;
use super::id::RoomId;
use super::release::Why;
use super::room::{Room, RoomState};
use super::sockets::RoomDir;
use super::{Workspaces, room::Occupant};
use crate::engine::EngineError;
use crate::state::{Record, StateError, Swap};
use crate::telemetry::audit::{Event, Whose};

/// How long a room may take from the engine's answer until its agent answers.
const READY_DEADLINE: Duration = Duration::from_secs(30);
/// First and longest pause between two looks for the agent.
const POLL: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));
/// How often, while waiting, the engine is asked whether the container still lives.
const LIVENESS: Duration = Duration::from_millis(500);

/// Why a room could not be made. Nothing of it is left, or the garbage collector knows.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Its directory or its listener could not be made.
    #[error("the room's socket directory: {0}")]
    Sockets(#[from] std::io::Error),
    /// The engine did not run the container.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The engine's host does not have the socket directory.
    #[error(
        "the engine's host does not have {0}: set WORKSPACE_SOCKET_HOST_PATH to the host's path of the socket base"
    )]
    HostPath(String),
    /// The container ended before its agent answered.
    #[error("the room's container ended before its agent answered")]
    Died,
    /// The agent did not answer in time.
    #[error(
        "the room's agent did not answer within {READY_DEADLINE:?}; where the server itself runs in a container, \
         WORKSPACE_SOCKET_HOST_PATH must be the host's path of WORKSPACE_SOCKET_BASE_PATH"
    )]
    NotReady,
    /// The room could not be recorded.
    #[error(transparent)]
    State(#[from] StateError),
    /// The conversation has got a room elsewhere meanwhile.
    #[error("the conversation has got another room meanwhile")]
    Taken,
    /// There are as many rooms as there may be.
    #[error("all {0} rooms that there may be are taken (CONTAINER_MAX)")]
    Full(usize),
    /// The server is stopping, or somebody has ended the room while it was made.
    #[error("the server is stopping")]
    Stopping,
}

impl Workspaces {
    /// Makes a room, for a conversation or, without one, for the pool. Goes on to its end, good or bad, also where the
    /// caller has left.
    pub(super) async fn build(self: &Arc<Self>, occupant: Option<Occupant>) -> Result<Arc<Room>, BuildError> {
        if self.stop.is_cancelled() {
            return Err(BuildError::Stopping);
        }
        let this = self.clone();
        let built = self.tasks.spawn(async move { this.build_and_clean_up(occupant).await }.in_current_span());
        built.await.unwrap_or(Err(BuildError::Stopping))
    }

    async fn build_and_clean_up(self: &Arc<Self>, occupant: Option<Occupant>) -> Result<Arc<Room>, BuildError> {
        let began = Instant::now();
        let room = self.prepare(occupant.as_ref())?;
        match self.run(&room, occupant).await {
            Ok(()) => {
                tracing::info!(workspace = %room.id, took_ms = began.elapsed().as_millis(), "room ready");
                let occupant = room.occupant();
                self.parts.audit.tell(&Event::RoomCreated { whose: whose(&room.id, occupant.as_ref()) });
                Ok(room)
            }
            Err(error) => {
                tracing::warn!(workspace = %room.id, %error, "room not made");
                // Also where it was released meanwhile and nobody knows it any more: the engine may have been in the middle of
                // making its container, of which that release saw nothing.
                if let Err(error) = self.release_left(&room.id, Why::FailedCreation).await {
                    tracing::error!(workspace = %room.id, %error, "what was made of the room is left to the garbage collector");
                }
                Err(error)
            }
        }
    }

    /// Directory and listener, and the entry in the table that makes them ours to release.
    fn prepare(&self, occupant: Option<&Occupant>) -> Result<Arc<Room>, BuildError> {
        self.has_place()?;
        let id = RoomId::generate(&self.parts.template.deployment);
        let _incoming = self.announce(&id);
        let opened = self.parts.sockets.create(&id).and_then(|dir| {
            let listener = self.open_listener(&id, &dir, occupant)?;
            Ok((dir, listener))
        });
        let (dir, listener) = opened.inspect_err(|_| {
            if let Err(error) = self.parts.sockets.remove(&id) {
                tracing::error!(workspace = %id, %error, "socket directory left behind");
            }
        })?;
        let room = Arc::new(Room::new(id, jiff::Timestamp::now(), Some(dir), Some(listener)));
        if self.rooms.insert_within(room.clone(), self.parts.most) {
            return Ok(room);
        }
        self.parts.sockets.remove(&room.id)?;
        Err(BuildError::Full(self.parts.most))
    }

    /// Whether another room may be made.
    ///
    /// # Errors
    /// [`BuildError::Full`]
    pub(super) fn has_place(&self) -> Result<(), BuildError> {
        match self.parts.most {
            0 => Ok(()),
            most if self.rooms.len() < most => Ok(()),
            most => Err(BuildError::Full(most)),
        }
    }

    pub(super) fn open_listener(
        &self,
        id: &RoomId,
        dir: &RoomDir,
        occupant: Option<&Occupant>,
    ) -> std::io::Result<nagaya_egress::Listener> {
        self.parts.egress.open(dir.descriptor()?, PROXY_SOCKET, identity(id, occupant))
    }

    async fn run(&self, room: &Room, occupant: Option<Occupant>) -> Result<(), BuildError> {
        let host_path = self.parts.sockets.host_path(&room.id);
        let spec = self.parts.template.room(&room.id, host_path.clone());
        self.parts.engine.run(spec).await.map_err(|error| match error {
            EngineError::Refused { why, .. } if why.contains("bind source path does not exist") => {
                BuildError::HostPath(host_path.display().to_string())
            }
            other => other.into(),
        })?;
        let ready = tokio::time::timeout(READY_DEADLINE, self.agent_answers(room)).await;
        ready.unwrap_or(Err(BuildError::NotReady))?;
        match self.remember(room, occupant.as_ref(), None).await {
            Ok(true) => {}
            Ok(false) => return Err(BuildError::Stopping),
            // A room that waits is nobody's yet, and can be recorded when shared state is there again.
            Err(BuildError::State(error)) if occupant.is_none() => {
                tracing::warn!(workspace = %room.id, %error, "room not recorded yet");
                self.set_behind(true);
            }
            Err(error) => return Err(error),
        }
        let state = match occupant {
            Some(occupant) => RoomState::Bound { occupant, leased: true, session: None },
            None => RoomState::Pooled,
        };
        if self.rooms.advance(&room.id, state) { Ok(()) } else { Err(BuildError::Stopping) }
    }

    async fn agent_answers(&self, room: &Room) -> Result<(), BuildError> {
        let Some(dir) = &room.dir else { return Err(BuildError::NotReady) };
        let mut pause = POLL.0;
        let mut looked = Instant::now();
        loop {
            match agent::health(dir).await {
                Ok(_) => return Ok(()),
                Err(error) => tracing::trace!(workspace = %room.id, %error, "agent not ready"),
            }
            if looked.elapsed() > LIVENESS {
                if !self.parts.engine.is_running(&room.id.container()).await? {
                    return Err(BuildError::Died);
                }
                looked = Instant::now();
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(POLL.1);
        }
    }

    /// Records whose a room is; `false` where it is being taken down, and nothing was recorded.
    pub(super) async fn remember(
        &self,
        room: &Room,
        occupant: Option<&Occupant>,
        session: Option<String>,
    ) -> Result<bool, BuildError> {
        // Under the gate: a release that comes between the look and the writing would leave a record of nothing.
        let _gate = room.gate.lock().await;
        if !self.rooms.stands(&room.id) {
            return Ok(false);
        }
        let record = self.record_for(&room.id, occupant, session);
        let mut kept = self.parts.state.keep(&record).await?;
        if kept == Swap::Taken
            && let Some(occupant) = occupant
        {
            self.vacate(&occupant.conversation).await?;
            kept = self.parts.state.keep(&record).await?;
        }
        if kept == Swap::Done { Ok(true) } else { Err(BuildError::Taken) }
    }

    /// A room that this server is taking down is no longer its conversation's.
    async fn vacate(&self, conversation: &str) -> Result<(), StateError> {
        let Some(old) = self.parts.state.record_of(conversation).await? else { return Ok(()) };
        let stands = RoomId::parse(&old.workspace).is_some_and(|id| self.rooms.stands(&id));
        if old.owner == self.parts.peers.id() && !stands {
            let vacant = Record { occupant: None, ..old.clone() };
            self.parts.state.swap(&old.workspace, Some(&old), Some(&vacant)).await?;
        }
        Ok(())
    }
}

/// Who is behind a room's way out.
pub(super) fn identity(id: &RoomId, occupant: Option<&Occupant>) -> Identity {
    Identity {
        workspace: id.to_string(),
        conversation: occupant.map(|o| o.conversation.clone()),
        tenant: occupant.map(|o| o.tenant.clone()),
    }
}

/// The same for the audit trail.
pub(super) fn whose<'a>(id: &'a RoomId, occupant: Option<&'a Occupant>) -> Whose<'a> {
    Whose {
        workspace: Some(id.as_str()),
        conversation: occupant.map(|occupant| occupant.conversation.as_str()),
        tenant: occupant.map(|occupant| occupant.tenant.as_str()),
    }
}
