//! The environment of the measurements: a runtime, a directory, and on demand a deployment on the real engine. Everything is removed
//! at the end, also after an interruption.

use std::cell::OnceCell;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use nagaya_workspace::engine::Engine;
use nagaya_workspace::state::PoolSize;
use nagaya_workspace::{LABEL_DEPLOYMENT, LABEL_WORKSPACE, Lease, OnShutdown, ReleaseReason};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::deployment::{Deployment, container, docker, occupant, pooled};
use crate::process::raise_descriptors;
use crate::run::Place;

/// Time limit for building or releasing one room.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Time limit for building or releasing all rooms.
const LONG_PATIENCE: Duration = Duration::from_secs(300);

#[derive(Debug)]
pub(crate) struct Stage {
    runtime: Runtime,
    interrupted: CancellationToken,
    deployment: OnceCell<Result<Deployment, String>>,
    /// Ids of the deployments of this run.
    pub(crate) names: [String; 2],
    dir: tempfile::TempDir,
    closed: bool,
}

impl Place for Stage {
    fn open() -> Result<Self> {
        raise_descriptors()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let interrupted = CancellationToken::new();
        runtime.spawn(watch(interrupted.clone()));
        let name = format!("bench-{}", std::process::id());
        let dir = tempfile::Builder::new().prefix("nagaya-bench-").tempdir()?;
        let names = [name.clone(), name + "-start"];
        Ok(Self { runtime, interrupted, deployment: OnceCell::new(), names, dir, closed: false })
    }

    fn peers(&self) -> Vec<String> {
        let info = docker().and_then(|docker| Ok(self.runtime.block_on(docker.info())?));
        info.map(|info| vec![format!("Docker {}", info.version)]).unwrap_or_default()
    }

    fn close(mut self) -> Result<()> {
        self.clear()
    }
}

impl Stage {
    /// Runs `work` until it completes, the limit has passed or the run is interrupted.
    pub(crate) fn within<T>(&self, limit: Duration, what: &str, work: impl Future<Output = T>) -> Result<T> {
        self.runtime.block_on(async {
            let work = self.interrupted.run_until_cancelled(work);
            let done =
                tokio::time::timeout(limit, work).await.with_context(|| format!("{what}: not within {limit:?}"))?;
            done.context("interrupted")
        })
    }

    /// Runs background work until a condition holds.
    pub(crate) fn until(&self, what: &str, holds: impl FnMut() -> bool) -> Result<()> {
        self.within(LONG_PATIENCE, what, until(holds))
    }

    /// The deployment on the real engine, started at the first call.
    pub(crate) fn deployment(&self) -> Result<&Deployment> {
        let started = self.deployment.get_or_init(|| self.start().map_err(|error| format!("{error:#}")));
        started.as_ref().map_err(|why| anyhow!("{why}"))
    }

    fn start(&self) -> Result<Deployment> {
        let image = crate::deployment::image();
        let exists = self.within(PATIENCE, "looking for the image", async {
            docker()?.has_image(&image).await.map_err(anyhow::Error::from)
        })??;
        ensure!(exists, "the image {image} does not exist; build it with `make image`");
        let deployment = self.within(PATIENCE, "a start", Deployment::start(&self.names[0], self.dir.path()))??;
        self.until("reconciliation", || deployment.workspaces.is_reconciled())?;
        Ok(deployment)
    }

    /// Acquires a room for a conversation.
    pub(crate) fn acquire(&self, deployment: &Deployment, conversation: &str) -> Result<Lease> {
        Ok(self.within(PATIENCE, "a room", deployment.cluster.acquire(occupant(conversation)))??)
    }

    /// Releases a conversation's room.
    pub(crate) fn release(&self, deployment: &Deployment, conversation: &str) -> Result<()> {
        let release = deployment.cluster.release_conversation(conversation, ReleaseReason::Conversation);
        Ok(self.within(PATIENCE, "a release", release)??)
    }

    /// Fills the pool with `rooms` rooms, and then keeps it from being refilled.
    pub(crate) fn fill_pool(&self, deployment: &Deployment, rooms: usize) -> Result<()> {
        deployment.workspaces.set_pool_size(PoolSize { min: rooms, max: rooms });
        self.until("a full pool", || pooled(&deployment.workspaces).len() == rooms)?;
        deployment.workspaces.set_pool_size(PoolSize { min: 0, max: rooms });
        Ok(())
    }

    /// Releases all rooms of the pool.
    pub(crate) fn empty_pool(&self, deployment: &Deployment) -> Result<()> {
        deployment.workspaces.set_pool_size(crate::deployment::NO_POOL);
        self.until("an empty table", || deployment.workspaces.rooms().all().is_empty())
    }

    fn clear(&mut self) -> Result<()> {
        self.closed = true;
        let Some(deployment) = self.deployment.take() else { return self.sweep() };
        if let Ok(deployment) = deployment {
            self.runtime.block_on(deployment.cluster.shutdown(OnShutdown::Destroy, LONG_PATIENCE));
        }
        self.sweep()
    }

    /// Removes containers of this run that are left: after an interrupted start, or created without the server.
    fn sweep(&self) -> Result<()> {
        let docker = docker()?;
        self.runtime.block_on(async {
            for name in &self.names {
                for left in docker.list(LABEL_DEPLOYMENT, name).await? {
                    let container = left.labels.get(LABEL_WORKSPACE).and_then(|label| container(label));
                    docker.remove(&container.unwrap_or(left.id), Duration::from_secs(1)).await?;
                }
            }
            Ok(())
        })
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !self.closed
            && let Err(error) = self.clear()
        {
            eprintln!("containers of this run may be left: {error:#}");
        }
    }
}

/// Runs background work until a condition holds.
pub(crate) async fn until(mut holds: impl FnMut() -> bool) {
    while !holds() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn watch(interrupted: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        (Ok(mut interrupt), Ok(mut terminate)) => {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            eprintln!("interrupted; removing the containers of this run");
            interrupted.cancel();
        }
        (Err(error), _) | (_, Err(error)) => {
            eprintln!("signals cannot be handled, so an interruption leaves containers: {error}");
        }
    }
}
