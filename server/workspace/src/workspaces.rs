//! All rooms of one server, with the services they need.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use nagaya_egress::{Egress, METHODS, POLICY_DENIALS};
use nagaya_telemetry::audit::Audit;
use nagaya_telemetry::metrics::{Counts, Metrics};
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedMutexGuard, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::directory::SocketBase;
use crate::engine::Engine;
use crate::id::RoomId;
use crate::losses::Losses;
use crate::objects::Bucket;
use crate::policies::Policies;
use crate::reason::ReleaseReason;
use crate::rooms::{Entry, LISTENER_DEADLINE, Occupant, Room, RoomState, Rooms};
use crate::spec::{LABEL_DEPLOYMENT, Template};
use crate::starter::Starter;
use crate::starts::Starts;
use crate::state::{PoolSize, State};
use crate::uids::Uids;

/// How long a scrape waits for the engine's list of containers.
const COUNT_DEADLINE: Duration = Duration::from_secs(2);

/// How long a start that failed counts as a problem.
const START_PROBLEM_AGE: Duration = Duration::from_secs(60);

/// What happens to workspaces when the server stops (`SHUTDOWN_WORKSPACES`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnShutdown {
    /// They stay, runs in them included, and the next start adopts them.
    Keep,
    /// All are released; runs in them end.
    Destroy,
}

/// Settings of the workspaces of a deployment.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Idle time after which a conversation's workspace is reclaimed (`CONTAINER_TTL`).
    pub ttl: Duration,
    /// Time between SIGTERM and SIGKILL, and the age below which an unknown container or directory is left alone
    /// (`CONTAINER_GRACE_PERIOD`).
    pub grace: Duration,
    /// Time between two garbage-collection cycles (`CONTAINER_GC_INTERVAL`).
    pub gc_interval: Duration,
    /// Size of the warm pool (`WARM_POOL_MIN_SIZE`, `WARM_POOL_MAX_SIZE`).
    pub pool: PoolSize,
    /// Limit on workspaces (`CONTAINER_MAX`); 0 means no limit.
    pub max_rooms: usize,
    /// Containers that are started at the same time (`CONTAINER_STARTS`).
    pub starts: usize,
    /// Conversations that may wait for the start of their container (`CONTAINER_START_QUEUE`).
    pub start_queue: usize,
    /// Drivers that may wait at the same time, for another turn of their conversation or in the pool (`DRIVER_KEEP_ALIVE_MAX`).
    pub most_waiting_drivers: usize,
}

/// What [`Workspaces`] is built from.
#[derive(Debug)]
pub struct Parts {
    /// Runs the containers.
    pub engine: Arc<dyn Engine>,
    /// Opens the egress listener of each room.
    pub egress: Arc<Egress>,
    /// Decides what the workspace of each conversation may do at its egress proxy.
    pub policies: Arc<dyn Policies>,
    /// The directory that holds the rooms' socket directories.
    pub sockets: SocketBase,
    /// Describes the container of a room.
    pub template: Template,
    /// Keeps the rooms' records.
    pub state: Arc<dyn State>,
    /// Keeps the rooms' files; `None` where no bucket is configured.
    pub bucket: Option<Bucket>,
    /// Id of this process among the servers of the deployment; records name it as the owner of a room.
    pub server_id: String,
    /// Metrics of the process.
    pub metrics: Arc<Metrics>,
    /// Audit trail of the process.
    pub audit: Arc<Audit>,
    /// Time source.
    pub clock: Clock,
    /// Settings.
    pub settings: Settings,
}

/// All rooms of one server.
#[derive(Debug)]
pub struct Workspaces {
    pub(crate) parts: Parts,
    pub(crate) rooms: Rooms,
    pub(crate) pool_size: watch::Sender<PoolSize>,
    /// Whether everything that an earlier server left has been adopted or released.
    pub(crate) reconciled: watch::Sender<bool>,
    /// Why the host path of the socket directories is not verified yet; `None` once it is, or if it need not be.
    pub(crate) host_path_problem: Mutex<Option<String>>,
    /// The last failure to fill the pool; `None` once it is filled.
    pub(crate) pool_problem: Mutex<Option<String>>,
    pub(crate) pool_changed: Notify,
    /// The users that rooms run as.
    pub(crate) uids: Arc<Uids>,
    /// One lock per conversation, under which its room is looked for, built or released.
    conversation_locks: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
    /// Who waits for the start of a container.
    pub(crate) starts: Arc<Starts>,
    /// Names the drivers of the pool's rooms, where they have any.
    pub(crate) starter: OnceLock<Arc<dyn Starter>>,
    /// Held while one of these is started.
    pub(crate) starting: tokio::sync::Mutex<()>,
    /// Lost workspaces of which no client has been told.
    pub(crate) losses: Losses,
    /// Why the last container that was started did not become a workspace, and when that was; `None` if it did.
    pub(crate) start_problem: Mutex<Option<(Instant, String)>>,
    /// Rooms with runs that journals of this server are about to take up.
    pub(crate) expected: Mutex<HashSet<RoomId>>,
    /// Rooms of no server in which an execution runs, and since when this server knows.
    pub(crate) running_elsewhere: Mutex<HashMap<RoomId, Instant>>,
    /// Whether records may be missing from the shared state.
    pub(crate) records_stale: AtomicBool,
    /// Last count of running containers, for scrapes that the engine does not answer in time.
    counted: AtomicUsize,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
    /// Once cancelled, releases give no grace period any more.
    pub(crate) no_grace: CancellationToken,
}

impl Workspaces {
    /// Creates an empty table of rooms; nothing runs yet.
    #[must_use]
    pub fn new(parts: Parts) -> Arc<Self> {
        parts.metrics.show_reasons(&ReleaseReason::COLLECTED.map(ReleaseReason::name), &METHODS, &POLICY_DENIALS);
        Arc::new(Self {
            pool_size: watch::Sender::new(parts.settings.pool),
            reconciled: watch::Sender::new(false),
            host_path_problem: Mutex::default(),
            pool_problem: Mutex::default(),
            rooms: Rooms::new(parts.clock.clone()),
            uids: Uids::new(parts.template.uids),
            starts: Starts::new(parts.settings.starts, parts.settings.start_queue),
            starter: OnceLock::new(),
            starting: tokio::sync::Mutex::default(),
            losses: Losses::default(),
            start_problem: Mutex::default(),
            parts,
            pool_changed: Notify::new(),
            conversation_locks: Mutex::default(),
            expected: Mutex::default(),
            running_elsewhere: Mutex::default(),
            records_stale: AtomicBool::new(false),
            counted: AtomicUsize::new(0),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            no_grace: CancellationToken::new(),
        })
    }

    /// Runs background work that [`Workspaces::shut_down`] waits for.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(work);
    }

    /// The result of `work`, or `None` where the server stops first.
    pub async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.stop.run_until_cancelled(work).await
    }

    /// Verifies the host path of the socket base where necessary, and keeps the pool at its size, until the server stops. Call it once, after [`Workspaces::reconcile`].
    pub async fn maintain(self: &Arc<Self>) {
        let unverified = self.must_verify_host_path().await;
        self.expected.lock().clear();
        self.reconciled.send_replace(true);
        if unverified {
            self.verify_host_path().await;
        }
        self.maintain_pool().await;
    }

    /// Stops all background work, then keeps or releases every room.
    pub async fn shut_down(self: &Arc<Self>, what: OnShutdown, deadline: Duration) {
        self.stop.cancel();
        self.starts.close();
        let until = tokio::time::Instant::now() + deadline;
        self.leave_rooms(what).await;
        self.tasks.close();
        if tokio::time::timeout_at(until, self.tasks.wait()).await.is_err() {
            tracing::error!(
                tasks = self.tasks.len(),
                "work on workspaces did not end in time; the next start finishes it"
            );
        }
        // A build that was under way when the stop came has put its room into the table by now.
        self.leave_rooms(what).await;
        if tokio::time::timeout_at(until, self.tasks.wait()).await.is_err() {
            tracing::error!(
                tasks = self.tasks.len(),
                "workspaces created during shutdown were not released in time; the next start releases them"
            );
        }
    }

    /// Closes the shared state, the last step of a shutdown.
    pub async fn close(&self) {
        self.parts.state.close().await;
    }

    /// Leaves all rooms to the next server, or begins to release all rooms.
    async fn leave_rooms(self: &Arc<Self>, what: OnShutdown) {
        let rooms = self.rooms.all();
        if what == OnShutdown::Keep {
            // One that is being built still needs its agent; the second call finds it finished.
            let finished = rooms.iter().filter(|entry| entry.state != RoomState::Starting);
            let left = finished.map(|entry| entry.room.leave(LISTENER_DEADLINE));
            futures::future::join_all(left).await;
            return;
        }
        for Entry { room, .. } in rooms {
            let this = self.clone();
            self.tasks.spawn(async move {
                if let Err(error) = this.release(&room.id, ReleaseReason::Shutdown).await {
                    tracing::error!(workspace = %room.id, %error, "workspace not released at shutdown; the next start releases it");
                }
            });
        }
    }

    /// From now on, releases kill containers without a grace period. Containers that are already being stopped keep theirs.
    pub fn skip_grace_periods(&self) {
        self.no_grace.cancel();
    }

    /// Counts for a scrape. If the engine does not answer in time, the last count of running containers is used.
    pub async fn counts(&self) -> Counts {
        let list = self.parts.engine.list(LABEL_DEPLOYMENT, &self.parts.template.deployment);
        match tokio::time::timeout(COUNT_DEADLINE, list).await {
            Ok(Ok(containers)) => {
                self.counted.store(containers.iter().filter(|c| c.running).count(), Ordering::Relaxed);
            }
            Ok(Err(error)) => tracing::debug!(%error, "containers not counted"),
            Err(_) => tracing::debug!("containers not counted in time"),
        }
        Counts {
            active_containers: self.counted.load(Ordering::Relaxed),
            warm_pool_size: self.rooms.pooled(),
            proxies: self.parts.egress.open_listeners(),
            limit: self.parts.settings.max_rooms,
        }
    }

    /// Whether everything that an earlier server left has been adopted or released. From then on the table is complete.
    #[must_use]
    pub fn is_reconciled(&self) -> bool {
        *self.reconciled.borrow()
    }

    /// The table of this server's rooms.
    #[must_use]
    pub fn rooms(&self) -> &Rooms {
        &self.rooms
    }

    /// Adds a conversation's room that has neither a directory nor an egress listener. For tests with more rooms than a process
    /// may have descriptors.
    pub fn insert_bound(&self, id: &RoomId, occupant: Occupant) {
        let room = Arc::new(Room::new(id.clone(), jiff::Timestamp::now(), None));
        self.rooms.insert(room, RoomState::Bound { occupant, leased: false, session: None });
    }

    /// Time since a room was last used.
    #[must_use]
    pub fn idle_time(&self, entry: &Entry) -> Duration {
        self.parts.clock.now().duration_since(entry.last_used)
    }

    /// How many conversations' containers are started before this conversation's; `None` if it does not wait for a start.
    #[must_use]
    pub fn start_position(&self, conversation: &str) -> Option<usize> {
        self.starts.position(conversation)
    }

    /// Ends a conversation's wait for the start of a container: whoever waits gets an error. Has no effect once the start has begun.
    pub fn leave_start_queue(&self, conversation: &str) {
        self.starts.leave(conversation);
    }

    /// Why the last container that was started did not become a workspace; `None` if it did, or if that was more than a minute ago:
    /// only another start shows whether the cause is gone, and it must be possible.
    #[must_use]
    pub fn start_problem(&self) -> Option<String> {
        let problem = self.start_problem.lock().clone();
        problem.filter(|(when, _)| when.elapsed() < START_PROBLEM_AGE).map(|(_, why)| why)
    }

    /// The container engine.
    #[must_use]
    pub fn engine(&self) -> &dyn Engine {
        self.parts.engine.as_ref()
    }

    /// The shared state.
    #[must_use]
    pub fn state(&self) -> &dyn State {
        self.parts.state.as_ref()
    }

    /// Id of this process among the servers of the deployment.
    #[must_use]
    pub fn server_id(&self) -> &str {
        &self.parts.server_id
    }

    /// The egress proxy of all workspaces.
    #[must_use]
    pub fn egress(&self) -> &Arc<Egress> {
        &self.parts.egress
    }

    /// The image that rooms start from.
    #[must_use]
    pub fn image(&self) -> &str {
        &self.parts.template.image
    }

    /// Takes the conversation's lock, under which its room is looked up, built or released. It covers this server only.
    pub async fn lock_conversation(&self, conversation: &str) -> OwnedMutexGuard<()> {
        let lock = {
            let mut conversation_locks = self.conversation_locks.lock();
            conversation_locks.retain(|_, lock| lock.strong_count() > 0);
            match conversation_locks.get(conversation).and_then(Weak::upgrade) {
                Some(lock) => lock,
                None => {
                    let lock = Arc::new(tokio::sync::Mutex::new(()));
                    conversation_locks.insert(conversation.to_owned(), Arc::downgrade(&lock));
                    lock
                }
            }
        };
        lock.lock_owned().await
    }
}
