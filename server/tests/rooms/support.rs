//! A host whose engine and directories outlive the servers on it, and servers that can be started and killed.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nagaya_egress::Egress;
use nagaya_fixtures::redis::RedisServer;
use nagaya_server::cluster::Cluster;
use nagaya_server::cluster::peers::Peers;
use nagaya_telemetry::metrics::Metrics;
use nagaya_workspace::clock::Clock;
use nagaya_workspace::engine::memory::Memory;
use nagaya_workspace::engine::{ContainerSpec, Engine};
use nagaya_workspace::id::RoomId;
use nagaya_workspace::rooms::{Entry, Occupant, RoomState};
use nagaya_workspace::state::{Embedded, PoolSize, Record, Redis, RedisAddress, State};
use nagaya_workspace::{
    LABEL_DEPLOYMENT, LABEL_WORKSPACE, Parts, RoomLimits, Settings, Template, UidRange, Variant, Workspaces, testing,
};
use tokio::runtime::Runtime;

/// The deployment under test.
pub(crate) const DEPLOYMENT: &str = "ours";
/// Another deployment on the same host, which must stay untouched.
const OTHERS: &str = "theirs";
/// Deadline for every wait.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
pub(crate) const TTL: Duration = Duration::from_secs(60);
pub(crate) const GRACE: Duration = Duration::from_secs(30);
/// How far [`Host::age`] advances the clock: beyond every age limit.
pub(crate) const AGES: Duration = Duration::from_secs(100);

/// Everything that outlives a server: engine, directories, records and clock.
pub(crate) struct Host {
    pub(crate) engine: Arc<Memory>,
    pub(crate) clock: Clock,
    _agents: Runtime,
    dir: tempfile::TempDir,
    others: (String, PathBuf),
}

impl Host {
    /// A host on which another deployment has a room and a directory.
    pub(crate) fn new() -> Self {
        let agents =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let engine = Arc::new(Memory::new(Some(agents.handle().clone())));
        let dir = tempfile::tempdir().expect("a directory");
        let id = RoomId::generate(OTHERS);
        let theirs = dir.path().join("s").join(id.as_str());
        fs::create_dir_all(&theirs).expect("makes");
        fs::write(theirs.join("kept"), "x").expect("writes");
        let others = (id.container(), theirs.clone());
        agents.block_on(engine.run(spec(&id, OTHERS, theirs))).expect("runs");
        Self { engine, clock: Clock::default(), _agents: agents, dir, others }
    }

    pub(crate) fn base(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    pub(crate) fn records_path(&self) -> PathBuf {
        self.dir.path().join("workspaces.sqlite")
    }

    /// The deployment's containers: name, and whether the container is running.
    pub(crate) fn containers(&self) -> Vec<(String, bool)> {
        self.engine.containers().into_iter().filter(|(name, _)| *name != self.others.0).collect()
    }

    /// Names of the deployment's directories.
    pub(crate) fn directories(&self) -> BTreeSet<String> {
        let entries = fs::read_dir(self.base()).expect("a base").flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| RoomId::parse(name).is_some() && !self.others.1.ends_with(name)).collect()
    }

    /// Asserts that the other deployment's container and directory are untouched.
    pub(crate) fn check_others(&self) {
        let theirs = self.engine.containers().into_iter().find(|(name, _)| *name == self.others.0);
        assert_eq!(theirs.map(|(_, running)| running), Some(true), "the other deployment's container");
        assert!(self.others.1.join("kept").exists(), "the other deployment's directory");
    }

    /// Advances the clock by [`AGES`].
    pub(crate) fn age(&self) {
        self.clock.advance(AGES);
    }

    /// Starts a container of the deployment that no server knows, unless the engine refuses it.
    pub(crate) fn stray_container(&self, runtime: &Runtime) {
        let id = RoomId::generate(DEPLOYMENT);
        let dir = self.base().join(id.as_str());
        fs::create_dir_all(&dir).expect("makes");
        // An injected fault may hit this call; then only the directory is left.
        let _ = runtime.block_on(self.engine.run(spec(&id, DEPLOYMENT, dir)));
    }

    /// Creates a directory of the deployment that no server knows.
    pub(crate) fn stray_directory(&self) {
        let id = RoomId::generate(DEPLOYMENT);
        fs::create_dir_all(self.base().join(id.as_str())).expect("makes");
    }

    /// The records in the file of a server without shared state.
    pub(crate) async fn records(&self) -> Vec<Record> {
        let state = Embedded::open(&self.records_path()).await.expect("opens");
        let records = state.records().await.expect("reads");
        state.close().await;
        records
    }

    pub(crate) async fn parts(&self, pool: PoolSize) -> Parts {
        let parts = testing::parts(self.engine.clone(), DEPLOYMENT, self.dir.path()).await.expect("parts");
        // Collection runs only when a test calls it.
        let settings = Settings { ttl: TTL, grace: GRACE, pool, ..parts.settings.clone() };
        Parts { template: template(), clock: self.clock.clone(), settings, ..parts }
    }
}

pub(crate) fn template() -> Template {
    Template {
        deployment: DEPLOYMENT.into(),
        image: "image".into(),
        images: std::collections::BTreeMap::from([("tools".into(), "tools:1".into())]),
        limits: RoomLimits { nano_cpus: 1, memory: 1 << 20, pids: 16, disk: 1 << 20 },
        // The agents in memory are tasks of this process.
        uids: UidRange::shared(rustix::process::geteuid().as_raw()),
        driver_environment: Vec::new(),
    }
}

/// User of a room that no server has built.
pub(crate) const UID: u32 = 50_000;

fn spec(id: &RoomId, deployment: &str, dir: PathBuf) -> ContainerSpec {
    let template = Template { deployment: deployment.into(), ..template() };
    let spec = template.room(id, UID, dir, &Variant::default());
    assert!(spec.labels.contains_key(LABEL_DEPLOYMENT) && spec.labels.contains_key(LABEL_WORKSPACE));
    spec
}

/// A running server. Dropping it acts like SIGKILL: every task ends where it is.
pub(crate) struct Server {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) workspaces: Arc<Workspaces>,
    pub(crate) runtime: Runtime,
    pub(crate) egress: Arc<Egress>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Server {
    pub(crate) fn start(host: &Host, pool: PoolSize) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let parts = runtime.block_on(host.parts(pool));
        Self::with(runtime, parts)
    }

    /// Starts one of several servers. It has its own thread, since the others may call it at any time.
    pub(crate) fn start_among(host: &Host, redis: &RedisServer, pool: PoolSize) -> Self {
        Self::start_among_with(host, redis, pool, None)
    }

    /// The same, with a journal of a run that was in `workspace`.
    pub(crate) fn start_among_expecting(host: &Host, redis: &RedisServer, pool: PoolSize, workspace: &str) -> Self {
        Self::start_among_with(host, redis, pool, Some(workspace))
    }

    fn start_among_with(host: &Host, redis: &RedisServer, pool: PoolSize, expected: Option<&str>) -> Self {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().expect("a runtime");
        let mut parts = runtime.block_on(host.parts(pool));
        runtime.block_on(parts.state.close());
        let address = RedisAddress::parse(&redis.url()).expect("an address");
        parts.state = Arc::new(Redis::new(address, DEPLOYMENT, TTL * 2).expect("a client"));
        let peers = {
            let _guard = runtime.enter();
            Peers::among(&host.base(), DEPLOYMENT).expect("a socket")
        };
        parts.server_id = peers.id().into();
        Self::among(runtime, parts, peers, expected)
    }

    /// Acts like SIGKILL: every task ends where it is.
    pub(crate) fn kill(self) {
        // The runtime goes first, so that no task can clean up.
        drop(self.runtime);
    }

    /// Number of pooled rooms.
    pub(crate) fn pooled(&self) -> usize {
        self.entries().iter().filter(|entry| entry.state == RoomState::Pooled).count()
    }

    /// Conversations that have a room on this server.
    pub(crate) fn conversations(&self) -> Vec<String> {
        let bound = self.entries().into_iter().filter_map(|entry| match entry.state {
            RoomState::Bound { occupant, .. } => Some(occupant.conversation),
            _ => None,
        });
        bound.collect()
    }

    pub(crate) fn with(runtime: Runtime, parts: Parts) -> Self {
        Self::among(runtime, parts, Peers::alone(DEPLOYMENT), None)
    }

    fn among(runtime: Runtime, parts: Parts, peers: Peers, expected: Option<&str>) -> Self {
        let (egress, metrics) = (parts.egress.clone(), parts.metrics.clone());
        let cluster = Cluster::new(Workspaces::new(parts), peers);
        expected.into_iter().for_each(|workspace| cluster.workspaces().expect_run_in(workspace));
        let _guard = runtime.enter();
        cluster.start();
        drop(_guard);
        Self { workspaces: cluster.workspaces().clone(), cluster, runtime, egress, metrics }
    }

    /// Runs background work until a condition holds.
    pub(crate) fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let wait = async {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let waited = self.runtime.block_on(async { tokio::time::timeout(DEADLINE, wait).await });
        assert!(waited.is_ok(), "deadline exceeded waiting for {what}; rooms: {:?}", self.rooms());
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.workspaces.rooms().all()
    }

    /// Rooms with their states, for messages.
    pub(crate) fn rooms(&self) -> Vec<(String, RoomState)> {
        self.entries().into_iter().map(|entry| (entry.room.id.to_string(), entry.state)).collect()
    }
}

pub(crate) fn occupant(conversation: &str) -> Occupant {
    Occupant { conversation: conversation.into(), tenant: "tenant".into() }
}

pub(crate) const NO_POOL: PoolSize = PoolSize { min: 0, max: 0 };

/// Runs a cycle of garbage collection; returns the reasons for which rooms were released.
pub(crate) fn collect(server: &Server) -> BTreeSet<&'static str> {
    let report = server.runtime.block_on(server.cluster.collect());
    assert!(report.errors.is_empty(), "{:?}", report.errors);
    report.reclaimed.iter().map(|(_, why)| why.name()).collect()
}
