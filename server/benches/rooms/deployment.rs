//! Workspaces with the services that a server gives them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use nagaya_server::cluster::Cluster;
use nagaya_server::cluster::peers::Peers;
use nagaya_workspace::directory::SocketBase;
use nagaya_workspace::engine::{Docker, Engine, EngineAddress};
use nagaya_workspace::id::RoomId;
use nagaya_workspace::rooms::{Entry, Occupant, RoomState};
use nagaya_workspace::state::PoolSize;
use nagaya_workspace::{Parts, RoomLimits, Settings, Template, UidRange, Workspaces, testing};

use crate::engine::Counting;

/// Idle time after which a room is reclaimed.
pub(crate) const TTL: Duration = Duration::from_secs(3600);
/// A warm pool that is turned off.
pub(crate) const NO_POOL: PoolSize = PoolSize { min: 0, max: 0 };

/// Rooms on the real engine.
#[derive(Debug)]
pub(crate) struct Deployment {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) workspaces: Arc<Workspaces>,
    pub(crate) engine: Arc<Counting>,
    pub(crate) sockets: SocketBase,
    pub(crate) template: Template,
    base: PathBuf,
}

impl Deployment {
    /// Starts the deployment; to be called within a Tokio runtime.
    pub(crate) async fn start(name: &str, dir: &Path) -> Result<Self> {
        let engine = Arc::new(Counting::new(docker()?));
        let parts = parts(engine.clone(), name, dir).await?;
        let (sockets, template) = (parts.sockets.clone(), parts.template.clone());
        let cluster = Cluster::new(Workspaces::new(parts), Peers::alone(name));
        cluster.start();
        Ok(Self { workspaces: cluster.workspaces().clone(), cluster, engine, sockets, template, base: base(dir) })
    }

    /// The socket directory of a room.
    pub(crate) fn dir(&self, room: &str) -> PathBuf {
        self.base.join(room)
    }
}

/// The directory that holds the rooms' socket directories.
pub(crate) fn base(dir: &Path) -> PathBuf {
    dir.join("s")
}

/// The engine that a server would use.
pub(crate) fn docker() -> Result<Docker> {
    let address = std::env::var("DOCKER_SOCKET_PATH").unwrap_or_else(|_| "unix:///var/run/docker.sock".into());
    let address = EngineAddress::parse(&address).ok_or_else(|| anyhow::anyhow!("DOCKER_SOCKET_PATH={address:?}"))?;
    Ok(Docker::new(address))
}

/// Parts with a server's default limits and image, with all files in `dir`. Garbage collection runs only on request.
pub(crate) async fn parts(engine: Arc<dyn Engine>, name: &str, dir: &Path) -> Result<Parts> {
    let parts = testing::parts(engine, name, dir).await.map_err(|error| anyhow::anyhow!(error))?;
    let template = Template {
        image: image(),
        images: std::collections::BTreeMap::new(),
        limits: RoomLimits { nano_cpus: 2_000_000_000, memory: 2 << 30, pids: 256, disk: 5 << 30 },
        uids: UidRange::parse(UidRange::DEFAULT).context("a range of users")?,
        ..parts.template.clone()
    };
    let settings = Settings { ttl: TTL, grace: Duration::from_secs(30), ..parts.settings.clone() };
    Ok(Parts { template, settings, ..parts })
}

/// The image that rooms start from.
pub(crate) fn image() -> String {
    std::env::var("CONTAINER_IMAGE").unwrap_or_else(|_| "workspace-base:latest".into())
}

pub(crate) fn occupant(conversation: &str) -> Occupant {
    Occupant { conversation: conversation.into(), tenant: "bench".into() }
}

/// Name of the container of the room that a label names.
pub(crate) fn container(label: &str) -> Option<String> {
    RoomId::parse(label).map(|id| id.container())
}

/// The rooms in the warm pool.
pub(crate) fn pooled(workspaces: &Workspaces) -> Vec<Entry> {
    workspaces.rooms().all().into_iter().filter(|entry| entry.state == RoomState::Pooled).collect()
}
