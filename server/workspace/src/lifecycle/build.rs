//! Builds a room: socket directory, egress listener, container, agent, record.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nagaya_egress::{Identity, Policy};
use nagaya_protocol::PROXY_SOCKET;
use nagaya_telemetry::audit::{Event, Subject};
use tracing::Instrument;

use crate::agent::Agent;
use crate::directory::RoomDir;
use crate::engine::{Condition, EngineError};
use crate::id::RoomId;
use crate::reason::ReleaseReason;
use crate::records::RecordError;
use crate::rooms::{Occupant, Opened, Room, RoomState};
use crate::session::Session;
use crate::spec::{LABEL_UID, Variant};
use crate::starts::{NoTurn, Turn};
use crate::state::StateError;
use crate::uids::Uid;
use crate::workspaces::Workspaces;

/// Time limit from the engine's response until the agent answers.
const READY_DEADLINE: Duration = Duration::from_secs(30);
/// How many users are tried if servers of other deployments choose the same ones at the same time.
const UID_ATTEMPTS: usize = 8;
/// Interval, while waiting for the agent, at which the engine is asked whether the container still runs.
const LIVENESS: Duration = Duration::from_millis(500);

/// Why a room could not be built. Whatever was created of it is removed, by this build or by garbage collection.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The socket directory or the egress listener could not be created.
    #[error("the workspace's socket directory: {0}")]
    Sockets(#[from] std::io::Error),
    /// The engine did not create or start the container.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The socket directory does not exist on the engine's host.
    #[error(
        "the engine's host does not have {0}: set WORKSPACE_SOCKET_HOST_PATH to the host's path of the socket base"
    )]
    HostPath(String),
    /// The container exited before its agent answered.
    #[error("the container of a workspace {how} before its agent answered; image {image}, {output}")]
    Died {
        /// The image that it was started from (`CONTAINER_IMAGE`).
        image: String,
        /// How it ended, with the exit code where there is one.
        how: String,
        /// The last that the container has written, for people.
        output: String,
    },
    /// The agent did not answer within the limit.
    #[error(
        "the workspace's agent did not answer within {READY_DEADLINE:?}; image {image}, {output}. The image must contain the \
         agent (`make image`); where the server itself runs in a container, WORKSPACE_SOCKET_HOST_PATH must be the host's path of \
         WORKSPACE_SOCKET_BASE_PATH"
    )]
    NotReady {
        /// The image that it was started from (`CONTAINER_IMAGE`).
        image: String,
        /// The last that the container has written, for people.
        output: String,
    },
    /// As many conversations wait for the start of a container as may.
    #[error(
        "{0} conversations wait for the start of their workspaces already (CONTAINER_START_QUEUE); try again later"
    )]
    Crowded(usize),
    /// As many conversations of the tenant wait for the start of a container as may.
    #[error(
        "{0} conversations of this tenant wait for the start of their workspaces already, which is its share of the queue \
         (CONTAINER_START_QUEUE); try again later"
    )]
    CrowdedByTenant(usize),
    /// Whoever wanted the room does not want it any more.
    #[error("the run was cancelled while it waited for the start of its workspace")]
    Left,
    /// The record could not be written.
    #[error(transparent)]
    State(#[from] StateError),
    /// The conversation received another room, on this or another server, while this one was built.
    #[error("the conversation has received another workspace meanwhile")]
    Taken,
    /// The limit on rooms is reached.
    #[error("the limit of {0} workspaces is reached (CONTAINER_MAX)")]
    Full(usize),
    /// Every user of `CONTAINER_UIDS` has a room.
    #[error("all user ids of CONTAINER_UIDS ({0}) are in use; choose a larger range")]
    NoUid(crate::uids::UidRange),
    /// A room of another server has received the same user id at the same time.
    #[error("a workspace of another server has the user id {0}, too")]
    UidTaken(u32),
    /// The server is stopping, or the room was released while it was built.
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

impl From<NoTurn> for BuildError {
    fn from(error: NoTurn) -> Self {
        match error {
            NoTurn::Full(limit) => Self::Crowded(limit),
            NoTurn::Share(limit) => Self::CrowdedByTenant(limit),
            NoTurn::Left => Self::Left,
        }
    }
}

impl Workspaces {
    /// Builds a room for the pool. Runs as a task of its own, so it completes or cleans up after itself even if the caller is dropped.
    pub(crate) async fn build_for_pool(self: &Arc<Self>) -> Result<Arc<Room>, BuildError> {
        self.check_limit()?;
        let turn = self.turn_to_start(None).await?;
        self.build_at_once(None, turn).await
    }

    /// Waits in the queue for starts. Whoever is dropped meanwhile leaves it.
    pub(crate) async fn turn_to_start(&self, occupant: Option<&Occupant>) -> Result<Turn, BuildError> {
        let turn = self.starts.turn(occupant).await;
        if self.stop.is_cancelled() {
            return Err(BuildError::Stopping);
        }
        Ok(turn?)
    }

    /// Builds a room for a conversation, or for the pool, by somebody who has waited; as [`Workspaces::build_for_pool`].
    pub(crate) async fn build_at_once(
        self: &Arc<Self>,
        owner: Option<(Occupant, Variant)>,
        turn: Turn,
    ) -> Result<Arc<Room>, BuildError> {
        if self.stop.is_cancelled() {
            return Err(BuildError::Stopping);
        }
        let this = self.clone();
        let work = async move {
            let built = this.build_and_clean_up(owner).await;
            drop(turn);
            built
        };
        self.tasks.spawn(work.in_current_span()).await.unwrap_or(Err(BuildError::Stopping))
    }

    async fn build_and_clean_up(self: &Arc<Self>, owner: Option<(Occupant, Variant)>) -> Result<Arc<Room>, BuildError> {
        let (occupant, variant) = owner.map_or((None, Variant::default()), |(of, variant)| (Some(of), variant));
        let mut avoid = Vec::new();
        loop {
            match self.try_to_build(occupant.clone(), &variant, &avoid).await {
                Err(BuildError::UidTaken(uid)) if avoid.len() + 1 < UID_ATTEMPTS => avoid.push(uid),
                built => return built,
            }
        }
    }

    async fn try_to_build(
        self: &Arc<Self>,
        occupant: Option<Occupant>,
        variant: &Variant,
        avoid: &[u32],
    ) -> Result<Arc<Room>, BuildError> {
        let began = Instant::now();
        let (room, uid) = self.prepare(occupant.as_ref(), variant, avoid)?;
        match self.run(&room, uid, occupant).await {
            Ok(()) => {
                *self.start_problem.lock() = None;
                tracing::info!(workspace = %room.id, took_ms = began.elapsed().as_millis(), "workspace ready");
                let occupant = room.occupant();
                self.parts.audit.record(&Event::RoomCreated { subject: subject(&room.id, occupant.as_ref()) });
                Ok(room)
            }
            Err(error) => {
                tracing::warn!(workspace = %room.id, %error, "workspace not created");
                if matches!(error, BuildError::Died { .. } | BuildError::NotReady { .. }) {
                    *self.start_problem.lock() = Some((Instant::now(), error.to_string()));
                }
                // Necessary even if the room was released meanwhile and is no longer in the table: that release may have run while
                // the engine was still creating the container, and seen none.
                if let Err(error) = self.release_unowned(&room.id, ReleaseReason::FailedCreation).await {
                    tracing::error!(workspace = %room.id, %error, "a workspace that failed to start was not removed; garbage collection tries again");
                }
                Err(error)
            }
        }
    }

    /// Creates directory and sockets, and adds the room to the table, from where it can be released. Returns it with its user.
    fn prepare(
        self: &Arc<Self>,
        occupant: Option<&Occupant>,
        variant: &Variant,
        avoid: &[u32],
    ) -> Result<(Arc<Room>, u32), BuildError> {
        self.check_limit()?;
        let uid = self.uids.take(avoid).ok_or(BuildError::NoUid(self.parts.template.uids))?;
        let number = uid.number();
        let id = RoomId::generate(&self.parts.template.deployment);
        let _incoming = self.rooms.reserve(&id);
        let opened = self.parts.sockets.create(&id, number).and_then(|dir| self.open(&id, dir, Some(uid), occupant));
        let opened = opened.inspect_err(|_| {
            if let Err(error) = self.parts.sockets.remove(&id) {
                tracing::error!(workspace = %id, %error, "the socket directory was not removed; garbage collection removes it");
            }
        })?;
        let room = Arc::new(Room::new(id, jiff::Timestamp::now(), Some(opened)));
        room.variant.get_or_init(|| variant.clone());
        if self.rooms.insert_within(room.clone(), self.parts.settings.max_rooms) {
            return Ok((room, number));
        }
        self.parts.sockets.remove(&room.id)?;
        Err(BuildError::Full(self.parts.settings.max_rooms))
    }

    /// Checks the limit on rooms.
    ///
    /// # Errors
    /// [`BuildError::Full`] if the limit is reached.
    pub fn check_limit(&self) -> Result<(), BuildError> {
        match self.parts.settings.max_rooms {
            0 => Ok(()),
            limit if self.rooms.len() < limit => Ok(()),
            limit => Err(BuildError::Full(limit)),
        }
    }

    /// Listens on both sockets of a room.
    pub(crate) fn open(
        self: &Arc<Self>,
        id: &RoomId,
        dir: RoomDir,
        uid: Option<Uid>,
        occupant: Option<&Occupant>,
    ) -> std::io::Result<Opened> {
        // Nothing of a tenant's runs before the listener gets its policy. Nothing runs in a room of the pool, unless it may have a driver.
        let listener = match occupant {
            occupant if occupant.is_some() || self.starter.get().is_some() => {
                let closed = Arc::new(Policy::closed());
                self.parts.egress.open_with(dir.bind(PROXY_SOCKET)?, identity(id, occupant), closed)
            }
            _ => self.parts.egress.open(dir.bind(PROXY_SOCKET)?, identity(id, occupant)),
        };
        let agent = Agent::open(dir, self.on_hostile(id))?;
        Ok(Opened { agent, listener, uid })
    }

    async fn run(&self, room: &Arc<Room>, uid: u32, occupant: Option<Occupant>) -> Result<(), BuildError> {
        let host_path = self.parts.sockets.host_path(&room.id);
        let spec = self.parts.template.room(&room.id, uid, host_path.clone(), &variant_of(room));
        self.parts.engine.run(spec).await.map_err(|error| match error {
            EngineError::NoSuchHostPath(_) => BuildError::HostPath(host_path.display().to_string()),
            other => other.into(),
        })?;
        let ready = async {
            let ready = tokio::time::timeout(READY_DEADLINE, self.agent_answers(room)).await;
            match ready {
                Ok(ready) => ready,
                Err(_) => Err(self.not_ready(room).await),
            }
        };
        tokio::try_join!(ready, self.has_user_alone(uid))?;
        if occupant.is_none() {
            self.start_driver(room).await;
        }
        match self.write_record(room, occupant.as_ref(), room.started().map(Session::of_nobody)).await {
            Ok(true) => {}
            Ok(false) => return Err(BuildError::Stopping),
            // A pooled room has no occupant yet; its record is written once the shared state answers again.
            Err(RecordError::State(error)) if occupant.is_none() => {
                tracing::warn!(workspace = %room.id, %error, "the record of a pooled workspace was not written; it is written once the shared state answers");
                self.set_records_stale(true);
            }
            Err(error) => return Err(error.into()),
        }
        let state = match occupant.clone() {
            Some(occupant) => RoomState::Bound { occupant, leased: true, session: None },
            None => RoomState::Pooled,
        };
        if !self.rooms.advance(&room.id, state) {
            return Err(BuildError::Stopping);
        }
        // Only now do changes of policies reach the room; what changed before is in the policy that is asked for here.
        if let Some(occupant) = &occupant {
            self.assign(room, occupant).await;
        }
        Ok(())
    }

    async fn agent_answers(&self, room: &Room) -> Result<(), BuildError> {
        let Ok(agent) = room.agent() else { return Err(self.not_ready(room).await) };
        let answers = async {
            loop {
                agent.connected().await;
                match agent.health().await {
                    Ok(_) => return Ok(()),
                    Err(error) => tracing::debug!(workspace = %room.id, %error, "agent not ready"),
                }
            }
        };
        let died = async {
            loop {
                tokio::time::sleep(LIVENESS).await;
                let how = match self.parts.engine.condition(&room.id.container()).await? {
                    Condition::Running | Condition::Paused => continue,
                    Condition::Stopped(code) => format!("exited with code {code}"),
                    Condition::Missing => "was removed".to_owned(),
                };
                return Err(BuildError::Died { image: self.image_of(room), how, output: self.last_output(room).await });
            }
        };
        tokio::select! {
            answers = answers => answers,
            died = died => died,
        }
    }

    async fn not_ready(&self, room: &Room) -> BuildError {
        BuildError::NotReady { image: self.image_of(room), output: self.last_output(room).await }
    }

    /// Reference of the image that a room was started from.
    fn image_of(&self, room: &Room) -> String {
        self.parts.template.image_of(&variant_of(room)).to_owned()
    }

    /// What a room's container has written last, for people.
    async fn last_output(&self, room: &Room) -> String {
        match self.parts.engine.last_output(&room.id.container()).await {
            Ok(text) if text.is_empty() => "no output".to_owned(),
            Ok(text) => format!("last output {text:?}"),
            Err(error) => format!("output unknown: {error}"),
        }
    }

    /// Checks that no other room on the engine, of whatever deployment, runs as this user. Nothing but the agent has run in this
    /// one yet.
    async fn has_user_alone(&self, uid: u32) -> Result<(), BuildError> {
        if !self.uids.are_exclusive() {
            return Ok(());
        }
        let same = self.parts.engine.list(LABEL_UID, &uid.to_string()).await?;
        if same.len() > 1 { Err(BuildError::UidTaken(uid)) } else { Ok(()) }
    }
}

/// What the container of a room has of its own.
fn variant_of(room: &Room) -> Variant {
    room.variant.get().cloned().unwrap_or_default()
}

/// The identity under which a room's egress listener logs and audits.
pub(crate) fn identity(id: &RoomId, occupant: Option<&Occupant>) -> Identity {
    Identity {
        workspace: id.to_string(),
        conversation: occupant.map(|o| o.conversation.clone()),
        tenant: occupant.map(|o| o.tenant.clone()),
    }
}

/// The subject of a room's audit events.
pub(crate) fn subject<'a>(id: &'a RoomId, occupant: Option<&'a Occupant>) -> Subject<'a> {
    Subject {
        workspace: Some(id.as_str()),
        conversation: occupant.map(|occupant| occupant.conversation.as_str()),
        tenant: occupant.map(|occupant| occupant.tenant.as_str()),
    }
}
