//! Workspaces with all that belongs to them, as a server has them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use nagaya_egress::{Egress, RequestRecord, Settings, Trail};
use nagaya_server::config::RoomLimits;
use nagaya_server::engine::{Docker, Engine, EngineAddress};
use nagaya_server::state::{Embedded, PoolSize};
use nagaya_server::telemetry::audit::Audit;
use nagaya_server::telemetry::metrics::Metrics;
use nagaya_server::workspace::clock::Clock;
use nagaya_server::workspace::id::RoomId;
use nagaya_server::workspace::peers::Peers;
use nagaya_server::workspace::room::{Entry, Occupant, RoomState};
use nagaya_server::workspace::sockets::{self, SocketBase};
use nagaya_server::workspace::{Parts, Template, Workspaces};

use crate::engine::Counting;

/// Idle time after which a room is reclaimed.
pub(crate) const TTL: Duration = Duration::from_secs(3600);
/// No room waits.
pub(crate) const NO_POOL: PoolSize = PoolSize { min: 0, max: 0 };

#[derive(Debug)]
struct Nobody;

impl Trail for Nobody {
    fn request(&self, _: &RequestRecord) {}
}

/// Rooms on the real engine.
#[derive(Debug)]
pub(crate) struct Deployment {
    pub(crate) workspaces: Arc<Workspaces>,
    pub(crate) engine: Arc<Counting>,
    pub(crate) sockets: SocketBase,
    pub(crate) template: Template,
    base: PathBuf,
}

impl Deployment {
    /// Needs a runtime around it.
    pub(crate) async fn start(name: &str, dir: &Path) -> Result<Self> {
        let engine = Arc::new(Counting::new(docker()?));
        let parts = parts(engine.clone(), name, dir).await?;
        let (sockets, template) = (parts.sockets.clone(), parts.template.clone());
        let workspaces = Workspaces::new(parts);
        workspaces.start();
        Ok(Self { workspaces, engine, sockets, template, base: base(dir) })
    }

    /// The directory of a room.
    pub(crate) fn dir(&self, room: &str) -> PathBuf {
        self.base.join(room)
    }
}

/// Where sockets lie.
pub(crate) fn base(dir: &Path) -> PathBuf {
    dir.join("s")
}

/// The engine that a server would use.
pub(crate) fn docker() -> Result<Docker> {
    let address = std::env::var("DOCKER_SOCKET_PATH").unwrap_or_else(|_| "unix:///var/run/docker.sock".into());
    let address = EngineAddress::parse(&address).ok_or_else(|| anyhow::anyhow!("DOCKER_SOCKET_PATH={address:?}"))?;
    Ok(Docker::new(address))
}

/// A server's own limits and image, with everything it keeps in `dir`; nothing is collected unless it is asked for.
pub(crate) async fn parts(engine: Arc<dyn Engine>, name: &str, dir: &Path) -> Result<Parts> {
    let base = base(dir);
    let metrics = Arc::new(Metrics::new()?);
    Ok(Parts {
        engine,
        egress: Egress::new(Settings::default(), None, Arc::new(Nobody))?,
        sockets: SocketBase::prepare(base.clone(), base)?,
        template: Template {
            deployment: name.into(),
            image: image(),
            limits: RoomLimits { nano_cpus: 2_000_000_000, memory: 2 << 30, pids: 256, disk: 5 << 30 },
            user: sockets::room_user(),
            region: "us-east-1".into(),
        },
        state: Arc::new(Embedded::open(&dir.join("workspaces.sqlite")).await?),
        bucket: None,
        peers: Peers::alone(name),
        audit: Arc::new(Audit::open(&dir.join("audit.jsonl"), metrics.clone())?),
        metrics,
        clock: Clock::default(),
        ttl: TTL,
        grace: Duration::from_secs(30),
        gc_interval: Duration::from_secs(1_000_000),
        pool: NO_POOL,
        most: 0,
    })
}

/// The image that rooms start from.
pub(crate) fn image() -> String {
    std::env::var("CONTAINER_IMAGE").unwrap_or_else(|_| "workspace-base:latest".into())
}

pub(crate) fn occupant(conversation: &str) -> Occupant {
    Occupant { conversation: conversation.into(), tenant: "bench".into() }
}

/// A room's container's name, by its label.
pub(crate) fn container(label: &str) -> Option<String> {
    RoomId::parse(label).map(|id| id.container())
}

/// The rooms of the pool.
pub(crate) fn waiting(workspaces: &Workspaces) -> Vec<Entry> {
    workspaces.list().into_iter().filter(|entry| entry.state == RoomState::Pooled).collect()
}
