//! How a room comes to be.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nagaya_egress::Identity;
use nagaya_protocol::PROXY_SOCKET;
use nagaya_telemetry::audit::{Event, Subject};
use tracing::Instrument;

use crate::agent;
use crate::backoff::Backoff;
use crate::directory::RoomDir;
use crate::engine::EngineError;
use crate::id::RoomId;
use crate::reason::ReleaseReason;
use crate::records::RecordError;
use crate::rooms::Occupant;
use crate::rooms::{Room, RoomState};
use crate::state::StateError;
use crate::workspaces::Workspaces;

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

impl From<RecordError> for BuildError {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::State(error) => Self::State(error),
            RecordError::Taken => Self::Taken,
        }
    }
}

impl Workspaces {
    /// Makes a room, for a conversation or, without one, for the pool. Goes on to its end, good or bad, also where the
    /// caller has left.
    pub(crate) async fn build(self: &Arc<Self>, occupant: Option<Occupant>) -> Result<Arc<Room>, BuildError> {
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
                self.parts.audit.record(&Event::RoomCreated { subject: subject(&room.id, occupant.as_ref()) });
                Ok(room)
            }
            Err(error) => {
                tracing::warn!(workspace = %room.id, %error, "room not made");
                // Also where it was released meanwhile and nobody knows it any more: the engine may have been in the middle of
                // making its container, of which that release saw nothing.
                if let Err(error) = self.release_unowned(&room.id, ReleaseReason::FailedCreation).await {
                    tracing::error!(workspace = %room.id, %error, "what was made of the room is left to the garbage collector");
                }
                Err(error)
            }
        }
    }

    /// Directory and listener, and the entry in the table that makes them ours to release.
    fn prepare(&self, occupant: Option<&Occupant>) -> Result<Arc<Room>, BuildError> {
        self.check_limit()?;
        let id = RoomId::generate(&self.parts.template.deployment);
        let _incoming = self.rooms.reserve(&id);
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
        if self.rooms.insert_within(room.clone(), self.parts.settings.max_rooms) {
            return Ok(room);
        }
        self.parts.sockets.remove(&room.id)?;
        Err(BuildError::Full(self.parts.settings.max_rooms))
    }

    /// Whether another room may be made.
    ///
    /// # Errors
    /// [`BuildError::Full`]
    pub fn check_limit(&self) -> Result<(), BuildError> {
        match self.parts.settings.max_rooms {
            0 => Ok(()),
            most if self.rooms.len() < most => Ok(()),
            most => Err(BuildError::Full(most)),
        }
    }

    pub(crate) fn open_listener(
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
            EngineError::NoSuchHostPath(_) => BuildError::HostPath(host_path.display().to_string()),
            other => other.into(),
        })?;
        let ready = tokio::time::timeout(READY_DEADLINE, self.agent_answers(room)).await;
        ready.unwrap_or(Err(BuildError::NotReady))?;
        match self.write_record(room, occupant.as_ref(), None).await {
            Ok(true) => {}
            Ok(false) => return Err(BuildError::Stopping),
            // A room that waits is nobody's yet, and can be recorded when shared state is there again.
            Err(RecordError::State(error)) if occupant.is_none() => {
                tracing::warn!(workspace = %room.id, %error, "room not recorded yet");
                self.set_behind(true);
            }
            Err(error) => return Err(error.into()),
        }
        let state = match occupant {
            Some(occupant) => RoomState::Bound { occupant, leased: true, session: None },
            None => RoomState::Pooled,
        };
        if self.rooms.advance(&room.id, state) { Ok(()) } else { Err(BuildError::Stopping) }
    }

    async fn agent_answers(&self, room: &Room) -> Result<(), BuildError> {
        let Some(dir) = &room.dir else { return Err(BuildError::NotReady) };
        let mut poll = Backoff::new(POLL);
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
            poll.pause().await;
        }
    }
}

/// Who is behind a room's way out.
pub(crate) fn identity(id: &RoomId, occupant: Option<&Occupant>) -> Identity {
    Identity {
        workspace: id.to_string(),
        conversation: occupant.map(|o| o.conversation.clone()),
        tenant: occupant.map(|o| o.tenant.clone()),
    }
}

/// The same for the audit trail.
pub(crate) fn subject<'a>(id: &'a RoomId, occupant: Option<&'a Occupant>) -> Subject<'a> {
    Subject {
        workspace: Some(id.as_str()),
        conversation: occupant.map(|occupant| occupant.conversation.as_str()),
        tenant: occupant.map(|occupant| occupant.tenant.as_str()),
    }
}
