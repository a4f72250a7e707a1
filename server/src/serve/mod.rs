//! The life cycle of the server process: build the parts, bind, run until a signal, drain with time limits.

mod http;
mod parts;
mod reload;
mod signals;
mod trail;
mod waiting;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nagaya_driver::{Driver, Kind};
use nagaya_telemetry::audit::Audit;
use nagaya_telemetry::logs::{self, Verbosity};
use nagaya_telemetry::metrics::Metrics;
use nagaya_workspace::Workspaces;
use nagaya_workspace::state::StateError;
use nagaya_workspace::state::directory::{DirectoryError, StateDir, write_atomically};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::auth::{Keys, Oidc};
use crate::api::rate_limit::RateLimits;
use crate::api::{self, AppState};
use crate::cli::Exit;
use crate::cluster::Cluster;
use crate::config::Config;
use crate::conversation::journal::Journals;
use crate::conversation::journal::shared::SharedLog;
use crate::conversation::run::PoolDriver;
use crate::conversation::runs::Runs;
use crate::conversation::services::RunServices;
use crate::conversation::store::{Database, OpenError, Store, StoreError};
use crate::conversation::uploads::Uploads;
use crate::descriptors::{self, Descriptors};
use crate::providers::Provider;

use parts::ByAllowList;
use reload::Reload;
use signals::Signals;

/// How long a client's connection may take to send the head of a request, and how long an idle one is kept.
const HEAD_DEADLINE: Duration = Duration::from_secs(30);
/// Workspaces that are given the memory of a former driver at the same time: each takes some 200 MiB of this process at most.
const RESTORING: usize = 2;
/// How long responses in progress may take once no run is left.
const HTTP_DRAIN: Duration = Duration::from_secs(5);
/// How much longer than the grace period releasing or keeping the workspaces may take.
const ROOMS_DRAIN: Duration = Duration::from_secs(30);

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    State(#[from] DirectoryError),
    #[error("the workspace records in {0:?}: {1}")]
    Records(PathBuf, sqlx::Error),
    #[error("REDIS_URL: {0}")]
    Redis(#[from] StateError),
    #[error("the database {0}: {1}")]
    Database(String, OpenError),
    #[error("the keys in the database: {0}")]
    Keys(StoreError),
    #[error("OIDC_ISSUER: the host's certificate authorities cannot be read: {0}; install them, or set SSL_CERT_FILE")]
    Oidc(io::Error),
    #[error("the log in the database: {0}")]
    Log(sqlx::Error),
    #[error("the runs' journals in {0:?}: {1}; set STATE_DIR to a directory that this user may write to")]
    Journals(PathBuf, io::Error),
    #[error("WORKSPACE_SOCKET_BASE_PATH={0:?}: {1}; set it to a directory that this user may write to")]
    Sockets(PathBuf, io::Error),
    #[error("AUDIT_LOG={0:?}: {1}; set it to a file that this user may write to")]
    Audit(PathBuf, io::Error),
    #[error("S3_BUCKET_NAME: {0}")]
    Bucket(#[from] nagaya_workspace::objects::SetupError),
    #[error("the egress proxy: {0}")]
    Egress(#[from] nagaya_egress::SetupError),
    #[error("BIND_ADDR={0}: {1}; {cure}", cure = bind_cure(.1))]
    Bind(std::net::SocketAddr, io::Error),
    #[error("--addr-file {0:?}: {1}")]
    AddrFile(PathBuf, io::Error),
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error("signals: {0}")]
    Signals(io::Error),
}

impl StartError {
    fn exit(&self) -> Exit {
        match self {
            Self::Metrics(_) => Exit::Bug,
            Self::State(_)
            | Self::Sockets(..)
            | Self::Database(..)
            | Self::Keys(_)
            | Self::Log(_)
            | Self::Records(..)
            | Self::Journals(..)
            | Self::Bind(..)
            | Self::Audit(..) => Exit::Unavailable,
            Self::Redis(_)
            | Self::Oidc(_)
            | Self::Bucket(_)
            | Self::Egress(_)
            | Self::AddrFile(..)
            | Self::Signals(_) => Exit::Failed,
        }
    }
}

fn bind_cure(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "stop the program that listens there, or set another address",
        io::ErrorKind::PermissionDenied => "ports below 1024 are reserved for root; set another port",
        io::ErrorKind::AddrNotAvailable => "set an address that this machine has, or 0.0.0.0 for all of them",
        _ => "set another address",
    }
}

/// Serves until a signal ends the process. `file` is the configuration file, which SIGHUP reads again.
pub async fn run(config: Config, file: Option<PathBuf>, addr_file: Option<PathBuf>) -> Exit {
    let verbosity = logs::start(config.service.logs);
    descriptors::raise_limit();
    match Box::pin(serve(config, (file, verbosity), addr_file.as_deref())).await {
        Ok(()) => Exit::Ok,
        Err(error) => {
            tracing::error!(%error, "the server does not start");
            error.exit()
        }
    }
}

async fn serve(
    config: Config,
    (file, verbosity): (Option<PathBuf>, Verbosity),
    addr_file: Option<&Path>,
) -> Result<(), StartError> {
    let mut signals = Signals::new().map_err(StartError::Signals)?;
    let bind = config.service.bind;
    let state = Arc::new(StateDir::open(&config.storage.state_dir)?);
    // The address is bound before any workspace is touched: a second server on it must not get that far.
    let listener = TcpListener::bind(bind).await.and_then(TcpListener::into_std);
    let listener = listener.map_err(|error| StartError::Bind(bind, error))?;
    let address = listener.local_addr().map_err(|error| StartError::Bind(bind, error))?;
    if let Some(path) = addr_file {
        write_atomically(path, &format!("{address}\n")).map_err(|error| StartError::AddrFile(path.into(), error))?;
    }
    let database = &config.storage.database;
    let store = tokio::select! {
        store = waiting::open(database, &listener) => store,
        signal = signals.stop(|| {}) => {
            tracing::info!(signal, "stopped");
            return Ok(());
        }
    };
    let store = store.map_err(|error| StartError::Database(database.to_string(), error))?;
    let listener = TcpListener::from_std(listener).map_err(|error| StartError::Bind(bind, error))?;
    let server = Server::build(&config, state, store).await?;
    server.cluster.start();
    announce(&config, &server, address);
    let listeners = server.listen(listener, &config)?;
    let reload = Reload { file, started: config.clone(), audit: server.audit.clone(), verbosity };
    let signal = signals.stop(|| reload.run()).await;
    tracing::info!(signal, "stopping; a second signal hastens it");
    server.stop(&config, (&mut signals, &reload), listeners).await;
    tracing::info!("stopped");
    Ok(())
}

/// Everything that serves requests.
struct Server {
    deployment: String,
    app: AppState,
    cluster: Arc<Cluster>,
    runs: Arc<Runs>,
    store: Store,
    audit: Arc<Audit>,
}

/// Tasks that accept connections.
struct Listeners {
    closing: CancellationToken,
    tasks: Vec<JoinHandle<io::Result<()>>>,
    /// Ends the work beside requests, once none can arrive any more.
    enough: CancellationToken,
    beside: TaskTracker,
}

impl Server {
    /// Opens what is kept, and takes up the runs of an earlier process.
    async fn build(config: &Config, state: Arc<StateDir>, store: Store) -> Result<Self, StartError> {
        let deployment = config.storage.deployment_id.clone().map_or_else(|| state.deployment_id(), Ok)?;
        let metrics = Arc::new(Metrics::new()?);
        let audit_log = config.storage.audit_log.clone().unwrap_or_else(|| state.file("audit.jsonl"));
        let audit = Audit::open(&audit_log, metrics.clone()).map_err(|error| StartError::Audit(audit_log, error))?;
        let audit = Arc::new(audit);
        let (cluster, tenancy) =
            parts::cluster(config, &state, deployment.clone(), metrics.clone(), audit.clone(), store.clone()).await?;
        let following = tenancy.clone();
        let workspaces = cluster.workspaces().clone();
        cluster
            .workspaces()
            .spawn(async move { workspaces.unless_stopped(following.follow_changes()).await.unwrap_or(()) });
        let providers = Arc::new(config.providers.clone());
        let driver: Arc<dyn Driver> = config.drivers.kind.driver();
        if let Some(model) = config.rooms.pool_model.clone() {
            let (driver, store, providers) = (driver.clone(), store.clone(), providers.clone());
            cluster.workspaces().start_drivers(Arc::new(PoolDriver { model, driver, store, providers }));
        }
        let uploads = state.file("uploads");
        let uploads = Uploads::open(uploads.clone()).map_err(|error| StartError::Journals(uploads, error))?;
        let journals = state.file("runs");
        let unusable = |error| StartError::Journals(journals.clone(), error);
        let shared = match &config.storage.database {
            Database::Postgres(url) => {
                Some(SharedLog::open(Database::address(url).as_str(), cluster.id()).map_err(StartError::Log)?)
            }
            Database::Sqlite(_) => None,
        };
        let runs = Runs::new(RunServices {
            cluster: cluster.clone(),
            store: store.clone(),
            providers: providers.clone(),
            metrics: metrics.clone(),
            audit: audit.clone(),
            execution_timeout: config.rooms.execution_timeout,
            driver,
            driver_keep_alive: config.drivers.keep_alive,
            approval_timeout: config.drivers.approval_timeout,
            restoring: Arc::new(Semaphore::new(RESTORING)),
            uploads: uploads.clone(),
            waiting: Arc::default(),
            journals: Journals::open(journals.clone(), state.file("log"), shared.map(Arc::new)).map_err(unusable)?,
            on_shutdown: config.service.at_shutdown,
        })
        .await
        .map_err(unusable)?;
        let keys = Keys::open(config.service.keys.clone(), store.clone()).await.map_err(StartError::Keys)?;
        let oidc = config.service.oidc.clone().map(Oidc::new).transpose().map_err(StartError::Oidc)?;
        let rate_limits = config.service.rate_limit.map(RateLimits::new);
        let app = AppState {
            environment: config.service.environment,
            keys: Arc::new(keys),
            oidc: oidc.map(Arc::new),
            idempotency: Arc::default(),
            rate_limits: rate_limits.map(Arc::new),
            state_dir: state,
            uploads,
            store: store.clone(),
            tenancy,
            runs: runs.clone(),
            workspaces: cluster.workspaces().clone(),
            cluster: cluster.clone(),
            metrics,
            audit: audit.clone(),
            probes: Arc::default(),
            reach: Arc::new(ByAllowList(config.egress.allowed.clone())),
            providers,
        };
        Ok(Self { deployment, app, cluster, runs, store, audit })
    }

    /// Accepts connections: those of clients, and those of the other servers.
    fn listen(&self, listener: TcpListener, config: &Config) -> Result<Listeners, StartError> {
        let sockets = |error| StartError::Sockets(config.rooms.socket_base.clone(), error);
        let for_peers = self.cluster.bind_peer_api().map_err(sockets)?;
        let closing = CancellationToken::new();
        let mut tasks = Vec::new();
        if let Some(for_peers) = for_peers {
            let serve = axum::serve(for_peers, api::peer_router(self.app.clone()).into_make_service())
                .with_graceful_shutdown(closing.clone().cancelled_owned());
            tasks.push(tokio::spawn(serve.into_future()));
        }
        let limits = http::Limits { head: HEAD_DEADLINE, connections: Descriptors::now().for_clients() };
        tasks.push(tokio::spawn(http::serve(listener, api::router(self.app.clone()), limits, closing.clone())));
        let (beside, enough) = (TaskTracker::new(), CancellationToken::new());
        let (keys, until) = (self.app.keys.clone(), enough.clone());
        beside.spawn(async move { keys.follow(until).await });
        if let Some(oidc) = self.app.oidc.clone() {
            let until = enough.clone();
            beside.spawn(async move { oidc.follow(until).await });
        }
        let (idempotency, store, until) = (self.app.idempotency.clone(), self.store.clone(), enough.clone());
        beside.spawn(async move { idempotency.follow(store, until).await });
        let (runs, retention, until) = (self.runs.clone(), config.storage.log, enough.clone());
        beside.spawn(async move { runs.follow_log(retention, until).await });
        beside.close();
        Ok(Listeners { closing, tasks, enough, beside })
    }

    /// Drains runs, then workspaces, then connections, each with a time limit. Another signal ends grace periods.
    async fn stop(self, config: &Config, (signals, reload): (&mut Signals, &Reload), listeners: Listeners) {
        let workspaces = self.cluster.workspaces();
        tokio::select! {
            () = self.runs.drain(config.service.shutdown_timeout) => {}
            signal = signals.stop(|| reload.run()) => {
                tracing::warn!(signal, "hastened");
                self.runs.hasten();
                workspaces.skip_grace_periods();
                self.runs.drain(Duration::ZERO).await;
            }
        }
        listeners.closing.cancel();
        let deadline = config.rooms.settings.grace + ROOMS_DRAIN;
        let shutdown = self.cluster.shutdown(config.service.at_shutdown, deadline);
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                signal = signals.stop(|| reload.run()) => {
                    tracing::warn!(signal, "hastened");
                    workspaces.skip_grace_periods();
                }
            }
        }
        for task in listeners.tasks {
            drained(task).await;
        }
        listeners.enough.cancel();
        if tokio::time::timeout(2 * HTTP_DRAIN, listeners.beside.wait()).await.is_err() {
            tracing::warn!("work beside requests was not ended in time");
        }
        self.runs.close_log().await;
        self.store.close().await;
        self.audit.close();
    }
}

/// Says in the log what serves where.
fn announce(config: &Config, server: &Server, addr: std::net::SocketAddr) {
    let environment = config.service.environment.name();
    tracing::info!(%addr, deployment = server.deployment, environment, "serving");
    match server.cluster.workspaces().bucket() {
        Some(bucket) => tracing::info!(bucket = bucket.name(), "workspaces' files are kept in a bucket"),
        None => tracing::info!("no S3_BUCKET_NAME: file sync is off"),
    }
    for provider in Provider::ALL {
        let Some((host, _)) = config.providers.endpoint(provider, None) else { continue };
        let allowed = |host: &str, port| config.egress.allowed.allows_host(host, port);
        match config.providers.unreachable(provider, None, allowed) {
            None => tracing::info!(provider = provider.as_str(), host, "models are called at this provider"),
            Some(why) => tracing::warn!(provider = provider.as_str(), why, "models of this provider cannot be called"),
        }
    }
    let driver = config.drivers.kind;
    if driver != Kind::default() {
        tracing::warn!(driver = driver.as_str(), "this driver calls no model; it is for tests and measurements");
    }
    let (workspaces, images) = (server.cluster.workspaces().clone(), config.rooms.images.clone());
    server.cluster.workspaces().spawn(async move {
        workspaces.unless_stopped(missing_images(&workspaces, &images)).await;
    });
    if config.service.keys.is_empty() {
        if let Some(oidc) = &config.service.oidc {
            tracing::info!(issuer = oidc.issuer, "tokens are accepted");
        } else if server.app.keys.are_required() {
            tracing::info!("no API_KEYS, but operators' keys were created: every request needs a key");
        } else {
            tracing::warn!("no API_KEYS: whoever reaches this address is an operator");
        }
    }
}

/// Says which images of `CONTAINER_IMAGES` the engine does not have.
async fn missing_images(workspaces: &Workspaces, images: &BTreeMap<String, String>) {
    for (name, reference) in images {
        match workspaces.engine().has_image(reference).await {
            Ok(true) => tracing::info!(name, reference, "workspaces may have this image"),
            Ok(false) => {
                tracing::error!(
                    name,
                    reference,
                    "an image of CONTAINER_IMAGES does not exist: conversations that choose it cannot run"
                );
            }
            Err(error) => tracing::warn!(name, reference, %error, "whether an image exists was not found out"),
        }
    }
}

/// Waits, for a while, until a listener's responses have ended.
async fn drained(listener: JoinHandle<io::Result<()>>) {
    match tokio::time::timeout(HTTP_DRAIN, listener).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => tracing::error!(%error, "the listener failed"),
        Ok(Err(error)) => tracing::error!(%error, "the listener's task failed"),
        Err(_) => tracing::warn!("connections were still open"),
    }
}
