//! The life of the process: configuration → parts → bind → run → bounded drain.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_credential_types::provider::SharedCredentialsProvider;
use nagaya_egress::{AllowList, Egress, RequestRecord, Trail};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::api::rate_limit::RateLimits;
use crate::api::{self, AppState, Regions};
use crate::cli::Exit;
use crate::config::{AtShutdown, Config, EgressSettings, bedrock_runtime_host};
use crate::conversation::journal::Shelf;
use crate::conversation::run::Outlook;
use crate::conversation::runs::{Means, Runs};
use crate::conversation::store::Store;
use crate::conversation::uploads::Uploads;
use crate::engine::Docker;
use crate::files::Bucket;
use crate::state::directory::{StateDir, write_whole};
use crate::state::{Embedded, Redis, State, StateError};
use crate::telemetry::{audit::Audit, logs, metrics::Metrics};
use crate::workspace::clock::Clock;
use crate::workspace::peers::Peers;
use crate::workspace::sockets::{self, SocketBase};
use crate::workspace::{Parts, Template, Workspaces};

/// How long answers under way may take once no run is left.
const HTTP_DRAIN: Duration = Duration::from_secs(5);
/// Beyond twice the time in which its server refreshes it, how long a record lives that nobody refreshes.
const RECORD_SLACK: Duration = Duration::from_secs(3600);
/// Beyond the grace period, how long releasing or keeping the rooms may take.
const ROOMS_DRAIN: Duration = Duration::from_secs(30);

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    State(#[from] crate::state::directory::DirectoryError),
    #[error("the workspace records in {0:?}: {1}")]
    Records(PathBuf, sqlx::Error),
    #[error("REDIS_URL: {0}")]
    Redis(#[from] StateError),
    #[error("the database {0}: {1}")]
    Database(String, crate::conversation::store::OpenError),
    #[error("the runs' journals in {0:?}: {1}; give a STATE_DIR this user may write to")]
    Journals(PathBuf, io::Error),
    #[error("WORKSPACE_SOCKET_BASE_PATH={0:?}: {1}; give a directory this user may write to")]
    Sockets(PathBuf, io::Error),
    #[error("AUDIT_LOG={0:?}: {1}; give a file this user may write to")]
    Audit(PathBuf, io::Error),
    #[error("S3_BUCKET_NAME: {0}")]
    Bucket(#[from] crate::files::SetupError),
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

fn bind_cure(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "stop what listens there, or give this server another address",
        io::ErrorKind::PermissionDenied => "a port below 1024 is root's; give this server another",
        io::ErrorKind::AddrNotAvailable => "give an address that this machine has, or 0.0.0.0 for all of them",
        _ => "give another address",
    }
}

/// Serves until told to stop.
pub async fn run(config: Config, addr_file: Option<PathBuf>) -> Exit {
    logs::start(config.service.logs);
    match serve(config, addr_file.as_deref()).await {
        Ok(()) => Exit::Ok,
        Err(error) => {
            tracing::error!(%error, "the server does not start");
            match error {
                StartError::Metrics(_) => Exit::Bug,
                StartError::State(_)
                | StartError::Sockets(..)
                | StartError::Database(..)
                | StartError::Records(..)
                | StartError::Journals(..)
                | StartError::Bind(..)
                | StartError::Audit(..) => Exit::Unavailable,
                _ => Exit::Failed,
            }
        }
    }
}

async fn serve(config: Config, addr_file: Option<&Path>) -> Result<(), StartError> {
    let mut signals = Signals::new().map_err(StartError::Signals)?;
    let state = Arc::new(StateDir::open(&config.storage.state_dir)?);
    let deployment = config.storage.deployment_id.clone().map_or_else(|| state.deployment_id(), Ok)?;
    let database = &config.storage.database;
    let store = Store::open(database).await.map_err(|error| StartError::Database(database.to_string(), error))?;
    let metrics = Arc::new(Metrics::new()?);
    let trail = config.storage.audit_log.clone().unwrap_or_else(|| state.file("audit.jsonl"));
    let audit = Arc::new(Audit::open(&trail, metrics.clone()).map_err(|error| StartError::Audit(trail, error))?);
    // Bound before any room is touched: a second server on this address must not get as far as that.
    let listener =
        TcpListener::bind(config.service.bind).await.map_err(|error| StartError::Bind(config.service.bind, error))?;
    let workspaces = workspaces(&config, &state, deployment.clone(), metrics.clone(), audit.clone()).await?;
    let journals = state.file("runs");
    let told = |error| StartError::Journals(journals.clone(), error);
    let uploads = state.file("uploads");
    let uploads = Uploads::open(uploads.clone()).map_err(|error| StartError::Journals(uploads, error))?;
    let runs = Runs::new(Means {
        workspaces: workspaces.clone(),
        store: store.clone(),
        metrics: metrics.clone(),
        audit: audit.clone(),
        execution_timeout: config.rooms.execution_timeout,
        uploads: uploads.clone(),
        shelf: Shelf::open(journals.clone()).map_err(told)?,
        outlook: match config.service.at_shutdown {
            AtShutdown::Keep => Outlook::GoesOn,
            AtShutdown::Destroy => Outlook::Ends,
        },
    })
    .map_err(told)?;
    let keys = config.service.keys.len();
    let rate_limits = config.service.rate_limit.map(|limit| RateLimits::new(limit, keys));
    let app = AppState {
        environment: config.service.environment,
        keys: Arc::new(config.service.keys.clone()),
        rate_limits: rate_limits.map(Arc::new),
        state_dir: state,
        uploads,
        store: store.clone(),
        runs: runs.clone(),
        workspaces: workspaces.clone(),
        metrics,
        audit: audit.clone(),
        regions: Arc::new(ByAllowList(config.egress.allowed.clone())),
    };

    workspaces.start();
    let addr = listener.local_addr().map_err(|error| StartError::Bind(config.service.bind, error))?;
    if let Some(path) = addr_file {
        write_whole(path, &format!("{addr}\n")).map_err(|error| StartError::AddrFile(path.into(), error))?;
    }
    tracing::info!(%addr, deployment, environment = config.service.environment.name(), "serving");
    match workspaces.bucket() {
        Some(bucket) => tracing::info!(bucket = bucket.name(), "rooms' files are kept in a bucket"),
        None => tracing::info!("no S3_BUCKET_NAME: file sync is off"),
    }
    if config.service.keys.is_empty() {
        tracing::warn!("no API_KEYS: whoever reaches this address is an operator");
    }

    let door = workspaces.open_door().map_err(|error| StartError::Sockets(config.rooms.socket_base.clone(), error))?;
    let for_servers = api::door(app.clone()).into_make_service();
    let closing = CancellationToken::new();
    let shutdown = closing.clone().cancelled_owned();
    let door = door.map(|door| {
        let serve = axum::serve(door, for_servers).with_graceful_shutdown(closing.clone().cancelled_owned());
        tokio::spawn(serve.into_future())
    });
    // Made once: the router as it is would be copied, route by route, for each connection.
    let router = api::router(app).into_make_service();
    let http = tokio::spawn(axum::serve(listener, router).with_graceful_shutdown(shutdown).into_future());
    let signal = signals.next().await;
    tracing::info!(signal, "stopping; once more to hasten");
    tokio::select! {
        () = runs.drain(config.service.shutdown_timeout) => {}
        signal = signals.next() => {
            tracing::warn!(signal, "hastened");
            runs.hasten();
            workspaces.hasten();
            runs.drain(Duration::ZERO).await;
        }
    }
    closing.cancel();
    let shutdown = workspaces.shutdown(config.service.at_shutdown, config.rooms.grace + ROOMS_DRAIN);
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            signal = signals.next() => {
                tracing::warn!(signal, "hastened");
                workspaces.hasten();
            }
        }
    }
    drained(http).await;
    if let Some(door) = door {
        drained(door).await;
    }
    store.close().await;
    audit.close();
    tracing::info!("stopped");
    Ok(())
}

/// Waits until a listener has answered what was asked of it, for a while.
async fn drained(listener: tokio::task::JoinHandle<io::Result<()>>) {
    match tokio::time::timeout(HTTP_DRAIN, listener).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => tracing::error!(%error, "the listener failed"),
        Ok(Err(error)) => tracing::error!(%error, "the listener's task failed"),
        Err(_) => tracing::warn!("connections were still open"),
    }
}

async fn workspaces(
    config: &Config,
    state: &StateDir,
    deployment: String,
    metrics: Arc<Metrics>,
    audit: Arc<Audit>,
) -> Result<Arc<Workspaces>, StartError> {
    let rooms = &config.rooms;
    let sockets = SocketBase::prepare(rooms.socket_base.clone(), rooms.socket_host_base.clone())
        .map_err(|error| StartError::Sockets(rooms.socket_base.clone(), error))?;
    let (shared, peers) = shared_state(config, state, &deployment).await?;
    let aws = credentials(&config.egress.region).await;
    let bucket = config.storage.bucket.clone();
    let bucket = bucket.map(|bucket| Bucket::open(bucket, &config.egress.region, aws.clone())).transpose()?;
    let egress = Egress::new(
        egress_settings(&config.egress),
        aws,
        Arc::new(Observed { metrics: metrics.clone(), audit: audit.clone() }),
    )?;
    Ok(Workspaces::new(Parts {
        engine: Arc::new(Docker::new(rooms.engine.clone())),
        egress,
        sockets,
        template: Template {
            deployment,
            image: rooms.image.clone(),
            limits: rooms.limits,
            user: sockets::room_user(),
            region: config.egress.region.clone(),
        },
        state: shared,
        bucket,
        peers,
        metrics,
        audit,
        clock: Clock::default(),
        ttl: rooms.ttl,
        grace: rooms.grace,
        gc_interval: rooms.gc_interval,
        pool: rooms.pool,
        most: rooms.most,
    }))
}

/// Whose rooms are whose: in Redis, among the servers that share it, or in a file of this server alone.
async fn shared_state(
    config: &Config,
    state: &StateDir,
    deployment: &str,
) -> Result<(Arc<dyn State>, Peers), StartError> {
    let Some(address) = config.storage.redis.clone() else {
        let path = state.file("workspaces.sqlite");
        let embedded = Embedded::open(&path).await.map_err(|error| StartError::Records(path, error))?;
        return Ok((Arc::new(embedded), Peers::alone(deployment)));
    };
    let rooms = &config.rooms;
    let redis = Redis::new(address, deployment, rooms.ttl.max(rooms.gc_interval) * 2 + RECORD_SLACK)?;
    // Not there, or not willing: rooms that are known go on, the rest waits until it is.
    match redis.ping().await {
        Ok(()) => tracing::info!("workspace records, locks and the pool's size are in Redis"),
        Err(error) => {
            tracing::error!(%error, "starting without shared state; conversations get no new rooms until it answers");
        }
    }
    let peers = Peers::among(&rooms.socket_base, deployment)
        .map_err(|error| StartError::Sockets(rooms.socket_base.clone(), error))?;
    Ok((Arc::new(redis), peers))
}

fn egress_settings(egress: &EgressSettings) -> nagaya_egress::Settings {
    nagaya_egress::Settings {
        allowed: egress.allowed.clone(),
        networks: egress.networks.clone(),
        pins: egress.pins.clone(),
        name_servers: egress.name_servers.clone(),
        opaque: egress.opaque.clone(),
        credentials: egress.credentials.clone(),
        gateway: Some(bedrock_runtime_host(&egress.region)),
        extra_ca_pem: egress.extra_ca_pem.clone(),
        limits: nagaya_egress::Limits::default(),
    }
}

/// The standard AWS credential chain: environment, profile, container, instance. Nothing is asked until a request needs
/// to be signed; what is found is kept and refreshed before it expires.
pub(crate) async fn credentials(region: &str) -> Option<SharedCredentialsProvider> {
    use aws_smithy_http_client::{Builder, tls};
    let ring = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring);
    aws_config::from_env()
        .region(aws_config::Region::new(region.to_owned()))
        .http_client(Builder::new().tls_provider(ring).build_https())
        .load()
        .await
        .credentials_provider()
}

/// What the egress proxy tells of each request: for the metrics, the audit trail and the log.
#[derive(Debug)]
struct Observed {
    metrics: Arc<Metrics>,
    audit: Arc<Audit>,
}

impl Trail for Observed {
    fn request(&self, record: &RequestRecord) {
        let reason = record.decision.reason();
        let denied = matches!(record.decision, nagaya_egress::Decision::Denied(_));
        self.audit.egress(record);
        self.metrics.proxied(&record.method, record.duration, reason.filter(|_| denied));
        tracing::info!(
            workspace = record.identity.workspace,
            conversation = record.identity.conversation,
            tenant = record.identity.tenant,
            method = record.method,
            host = record.host,
            port = record.port,
            rule = record.rule,
            status = record.status,
            reason,
            bytes_up = record.bytes_up,
            bytes_down = record.bytes_down,
            took_ms = record.duration.as_millis(),
            "egress"
        );
    }
}

/// A region's models can be reached if the rooms may reach the region's endpoint.
#[derive(Debug)]
struct ByAllowList(AllowList);

impl Regions for ByAllowList {
    fn unreachable(&self, region: &str) -> Option<String> {
        let host = bedrock_runtime_host(region);
        (!self.0.allows_host(&host, 443))
            .then(|| format!("rooms may not reach {host}; add it to PROXY_ALLOWED_DOMAINS"))
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nagaya_egress::{Decision, Identity};

    #[test]
    fn a_request_is_counted_and_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("audit.jsonl");
        let metrics = Arc::new(Metrics::new().expect("metrics"));
        let audit = Arc::new(Audit::open(&path, metrics.clone()).expect("opens"));
        let observed = Observed { metrics: metrics.clone(), audit: audit.clone() };
        observed.request(&RequestRecord {
            identity: Identity { workspace: "w".into(), conversation: None, tenant: None },
            method: "GET".into(),
            host: "evil.example".into(),
            port: 80,
            decision: Decision::Denied("not_allowed"),
            rule: None,
            status: 403,
            bytes_up: 0,
            bytes_down: 0,
            duration: Duration::ZERO,
        });
        audit.close();
        let kept = std::fs::read_to_string(&path).expect("reads");
        assert!(kept.contains(r#""host":"evil.example""#) && kept.lines().count() == 1, "{kept}");
        let scraped = metrics.render(crate::telemetry::metrics::Reality::default(), &[]).expect("metrics");
        let scraped = String::from_utf8(scraped).expect("text");
        assert!(scraped.contains(r#"workspace_proxy_blocked_total{reason="not_allowed"} 1"#), "{scraped}");
    }
}
