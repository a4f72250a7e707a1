//! Rooms: made, lent to conversations, watched, taken down.
//!
//! This is the only place that knows everything that belongs to a room — directory, egress listener, container, record —
//! and [`release`](Workspaces::release) the only way out.

mod acquire;
pub mod agent;
mod agent_files;
pub mod browse;
mod build;
mod clear;
pub mod clock;
mod follow;
pub mod gc;
mod hostile;
pub mod id;
mod lease;
pub mod peers;
pub mod pool;
mod prove;
mod reconcile;
mod release;
pub mod room;
mod share;
pub mod sockets;
mod spec;
mod sync;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use nagaya_egress::{Egress, METHODS, POLICY_DENIALS};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use acquire::AcquireError;
pub use build::BuildError;
pub use lease::{Lease, Origin};
pub use release::{ReleaseError, Why};
pub use spec::{LABEL_DEPLOYMENT, LABEL_WORKSPACE, Template};

use crate::config::AtShutdown;
use crate::engine::Engine;
use crate::files::Bucket;
use crate::state::State;
use crate::telemetry::audit::Audit;
use crate::telemetry::metrics::{Metrics, Reality};
use clock::Clock;
use id::RoomId;
use peers::Peers;
use pool::PoolSize;
use room::{Entry, RoomState, Rooms};
use sockets::SocketBase;

/// How long a scrape waits for the engine's list.
const COUNT_DEADLINE: Duration = Duration::from_secs(2);
/// How long, at a shutdown, answers to other servers may take.
const DOOR_DEADLINE: Duration = Duration::from_secs(5);

/// What the workspaces of a deployment are made with.
#[derive(Debug)]
pub struct Parts {
    /// Runs containers.
    pub engine: Arc<dyn Engine>,
    /// Opens the way out of each room.
    pub egress: Arc<Egress>,
    /// Holds the rooms' directories.
    pub sockets: SocketBase,
    /// What a room looks like.
    pub template: Template,
    /// Remembers whose a room is.
    pub state: Arc<dyn State>,
    /// Keeps rooms' files; `None` where nobody does.
    pub bucket: Option<Bucket>,
    /// The other servers of the deployment.
    pub peers: Peers,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Keeps what happens to rooms.
    pub audit: Arc<Audit>,
    /// The time.
    pub clock: Clock,
    /// Idle time after which a conversation's room is reclaimed.
    pub ttl: Duration,
    /// Between SIGTERM and SIGKILL; also how young an orphan may be before it is one.
    pub grace: Duration,
    /// Between garbage-collection cycles.
    pub gc_interval: Duration,
    /// Rooms that wait.
    pub pool: PoolSize,
    /// Never more rooms than this; 0 is no limit.
    pub most: usize,
}

/// All rooms of a deployment.
#[derive(Debug)]
pub struct Workspaces {
    parts: Parts,
    rooms: Rooms,
    pool_size: watch::Sender<PoolSize>,
    /// Whether what an earlier server left has been looked through.
    reconciled: watch::Sender<bool>,
    /// Why it is not known yet that the engine's host has our socket directories; `None` where it is, or goes without saying.
    unproven: Mutex<Option<String>>,
    /// Why the pool is not full, since the last time it could be filled.
    pool_trouble: Mutex<Option<String>>,
    pool_changed: Notify,
    turnstiles: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
    /// Rooms that are about to stand in the table.
    incoming: Mutex<HashSet<RoomId>>,
    /// Conversations whose room is being looked for or made.
    getting: Mutex<HashSet<String>>,
    /// Whether shared state may not have what the table has.
    behind: AtomicBool,
    /// Last count of running containers, for when the engine does not answer.
    counted: AtomicUsize,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Other servers' questions, and when no more are taken.
    doors: TaskTracker,
    door: CancellationToken,
    /// Nothing gets its grace period any more.
    haste: CancellationToken,
}

impl Workspaces {
    /// No room yet; [`Workspaces::start`] finds and makes them.
    #[must_use]
    pub fn new(parts: Parts) -> Arc<Self> {
        parts.metrics.show_reasons(&gc::REASONS.map(Why::name), &METHODS, &POLICY_DENIALS);
        Arc::new(Self {
            pool_size: watch::Sender::new(parts.pool),
            reconciled: watch::Sender::new(false),
            unproven: Mutex::default(),
            pool_trouble: Mutex::default(),
            rooms: Rooms::new(parts.clock.clone()),
            parts,
            pool_changed: Notify::new(),
            turnstiles: Mutex::default(),
            incoming: Mutex::default(),
            getting: Mutex::default(),
            behind: AtomicBool::new(false),
            counted: AtomicUsize::new(0),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            doors: TaskTracker::new(),
            door: CancellationToken::new(),
            haste: CancellationToken::new(),
        })
    }

    /// Starts the background work: reconcile with what an earlier server left, then keep the pool full and collect
    /// garbage. Returns at once; an engine that is not there yet is waited for.
    pub fn start(self: &Arc<Self>) {
        if let Some(listener) = self.parts.peers.listener() {
            self.doors.spawn(self.clone().answer_peers(listener));
            let this = self.clone();
            self.tasks.spawn(async move { this.follow_state().await });
        }
        let this = self.clone();
        self.tasks.spawn(async move {
            if this.stop.run_until_cancelled(this.reconcile_when_possible()).await.is_some() {
                let doubtful = this.doubts_host_path().await;
                this.reconciled.send_replace(true);
                let pool = async {
                    if doubtful {
                        this.prove_host_path().await;
                    }
                    this.keep_pool().await;
                };
                tokio::join!(pool, this.collect_regularly(), this.watch_directories());
            }
        });
    }

    /// Ends all background work, then leaves or releases every room, as configured.
    pub async fn shutdown(self: &Arc<Self>, what: AtShutdown, deadline: Duration) {
        self.stop.cancel();
        let until = tokio::time::Instant::now() + deadline;
        self.leave_rooms(what).await;
        self.tasks.close();
        if tokio::time::timeout_at(until, self.tasks.wait()).await.is_err() {
            tracing::error!(tasks = self.tasks.len(), "work on rooms did not end in time; the next start finishes it");
        }
        // What was only just begun to be made when the stop came stands in the table now.
        self.leave_rooms(what).await;
        if tokio::time::timeout_at(until, self.tasks.wait()).await.is_err() {
            tracing::error!(tasks = self.tasks.len(), "rooms made at the last moment are left to the next start");
        }
        // Until here the others were told which rooms are not theirs to touch.
        self.door.cancel();
        self.doors.close();
        if tokio::time::timeout(DOOR_DEADLINE, self.doors.wait()).await.is_err() {
            tracing::error!("other servers' questions did not end in time");
        }
        self.parts.state.close().await;
        tracing::info!("rooms {}", if what == AtShutdown::Keep { "kept for the next start" } else { "released" });
    }

    /// Closes the way out of every room there is, or begins to release it.
    async fn leave_rooms(self: &Arc<Self>, what: AtShutdown) {
        let rooms = self.rooms.all();
        if what == AtShutdown::Keep {
            let stopped = rooms.iter().map(|entry| release::stop_listener(&entry.room, release::LISTENER_DEADLINE));
            futures::future::join_all(stopped).await;
            return;
        }
        for Entry { room, .. } in rooms {
            let this = self.clone();
            self.tasks.spawn(async move {
                if let Err(error) = this.release(&room.id, Why::Shutdown).await {
                    tracing::error!(workspace = %room.id, %error, "room not released at shutdown; the next start will");
                }
            });
        }
    }

    /// From here on nothing that is taken down gets its grace period; what is already being stopped gets the rest of it.
    pub fn hasten(&self) {
        self.haste.cancel();
    }

    /// What a scrape should see. The engine is asked; where it does not answer, or not soon, the last count stands.
    pub async fn reality(&self) -> Reality {
        let list = self.parts.engine.list(LABEL_DEPLOYMENT, &self.parts.template.deployment);
        match tokio::time::timeout(COUNT_DEADLINE, list).await {
            Ok(Ok(containers)) => {
                self.counted.store(containers.iter().filter(|c| c.running).count(), Ordering::Relaxed);
            }
            Ok(Err(error)) => tracing::debug!(%error, "containers not counted"),
            Err(_) => tracing::debug!("containers not counted in time"),
        }
        Reality {
            active_containers: self.counted.load(Ordering::Relaxed),
            warm_pool_size: self.rooms.pooled(),
            proxies: self.parts.egress.open_listeners(),
            limit: self.parts.most,
        }
    }

    /// Whether what an earlier server left has been adopted or given up: from then on the table is the truth.
    #[must_use]
    pub fn is_reconciled(&self) -> bool {
        *self.reconciled.borrow()
    }

    /// Every room this server knows.
    #[must_use]
    pub fn list(&self) -> Vec<Entry> {
        self.rooms.all()
    }

    /// Takes in a conversation's room that has neither directory nor proxy: for tests with more rooms than a process may
    /// have descriptors.
    pub fn put_bound(&self, id: &id::RoomId, occupant: room::Occupant) {
        let room = Arc::new(room::Room::new(id.clone(), jiff::Timestamp::now(), None, None));
        self.rooms.insert(room, RoomState::Bound { occupant, leased: false, session: None });
    }

    /// How long a room was not used.
    #[must_use]
    pub fn idle(&self, entry: &Entry) -> Duration {
        self.parts.clock.now().duration_since(entry.last_used)
    }

    /// The engine the rooms run on.
    #[must_use]
    pub fn engine(&self) -> &dyn Engine {
        self.parts.engine.as_ref()
    }

    /// Where it is remembered whose a room is.
    #[must_use]
    pub fn state(&self) -> &dyn State {
        self.parts.state.as_ref()
    }

    /// This life of this server, as the others and the records know it.
    #[must_use]
    pub fn server_id(&self) -> &str {
        self.parts.peers.id()
    }

    /// Where this server answers the others what callers ask of it; `None` where there are no others.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open_door(&self) -> std::io::Result<Option<tokio::net::UnixListener>> {
        self.parts.peers.open_door()
    }

    /// Where the other servers do.
    ///
    /// # Errors
    /// Their directory cannot be read.
    pub fn doors_of_others(&self) -> std::io::Result<Vec<std::path::PathBuf>> {
        self.parts.peers.doors_of_others()
    }

    /// Whether this server is one of several.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        !self.parts.peers.is_alone()
    }

    fn is_behind(&self) -> bool {
        self.behind.load(Ordering::Relaxed)
    }

    fn set_behind(&self, behind: bool) {
        self.behind.store(behind, Ordering::Relaxed);
    }

    /// The image rooms start from.
    #[must_use]
    pub fn image(&self) -> &str {
        &self.parts.template.image
    }

    /// Releases the room of a conversation, if it has one.
    ///
    /// # Errors
    /// As [`Workspaces::release`].
    pub async fn release_conversation(self: &Arc<Self>, conversation: &str, why: Why) -> Result<(), ReleaseError> {
        // A room that is just being made for it is waited for: it would be found by nobody afterwards.
        let turn = self.turnstile(conversation);
        let _turn = turn.lock().await;
        match self.rooms.of_conversation(conversation) {
            Some(id) => self.release(&id, why).await,
            None => self.release_elsewhere(conversation, why).await,
        }
    }

    /// One conversation at a time: the lock under which its room is looked for, made or released.
    fn turnstile(&self, conversation: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut turnstiles = self.turnstiles.lock().unwrap_or_else(PoisonError::into_inner);
        turnstiles.retain(|_, turnstile| turnstile.strong_count() > 0);
        if let Some(turnstile) = turnstiles.get(conversation).and_then(Weak::upgrade) {
            return turnstile;
        }
        let turnstile = Arc::new(tokio::sync::Mutex::new(()));
        turnstiles.insert(conversation.to_owned(), Arc::downgrade(&turnstile));
        turnstile
    }
}

/// How a room's state is called in answers.
#[must_use]
pub fn state_name(state: &RoomState) -> &'static str {
    match state {
        RoomState::Starting => "starting",
        RoomState::Pooled => "pooled",
        RoomState::Bound { leased: true, .. } => "running",
        RoomState::Bound { leased: false, .. } => "idle",
        RoomState::Releasing => "releasing",
    }
}
