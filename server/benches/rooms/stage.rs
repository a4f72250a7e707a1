//! What the measurements take place in: a runtime, a directory, and rooms on the real engine once they are needed. What was
//! made is taken down, also where the run is interrupted.

use std::cell::OnceCell;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use nagaya_workspace::OnShutdown;
use nagaya_workspace::engine::Engine;
use nagaya_workspace::state::PoolSize;
use nagaya_workspace::{LABEL_DEPLOYMENT, LABEL_WORKSPACE, Lease, ReleaseReason};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::deployment::{Deployment, container, docker, occupant, waiting};
use crate::process::raise_descriptors;
use crate::run::Place;

/// How long one room may take to come or go.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// How long all of them may take together.
const LONG_PATIENCE: Duration = Duration::from_secs(300);

#[derive(Debug)]
pub(crate) struct Stage {
    runtime: Runtime,
    interrupted: CancellationToken,
    deployment: OnceCell<Result<Deployment, String>>,
    /// Deployment ids of this run alone.
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
    /// Lets something go on until it is done, or has taken too long, or the run is interrupted.
    pub(crate) fn within<T>(&self, limit: Duration, what: &str, work: impl Future<Output = T>) -> Result<T> {
        self.runtime.block_on(async {
            let work = self.interrupted.run_until_cancelled(work);
            let done =
                tokio::time::timeout(limit, work).await.with_context(|| format!("{what}: not within {limit:?}"))?;
            done.context("interrupted")
        })
    }

    /// Lets background work go on until a condition holds.
    pub(crate) fn until(&self, what: &str, holds: impl FnMut() -> bool) -> Result<()> {
        self.within(LONG_PATIENCE, what, until(holds))
    }

    /// Rooms on the real engine.
    pub(crate) fn deployment(&self) -> Result<&Deployment> {
        let started = self.deployment.get_or_init(|| self.start().map_err(|error| format!("{error:#}")));
        started.as_ref().map_err(|why| anyhow!("{why}"))
    }

    fn start(&self) -> Result<Deployment> {
        let image = crate::deployment::image();
        let there = self.within(PATIENCE, "looking for the image", async {
            docker()?.has_image(&image).await.map_err(anyhow::Error::from)
        })??;
        ensure!(there, "there is no image {image}; `make image` builds it");
        let deployment = self.within(PATIENCE, "a start", Deployment::start(&self.names[0], self.dir.path()))??;
        self.until("reconciliation", || deployment.workspaces.is_reconciled())?;
        Ok(deployment)
    }

    /// A room for a conversation.
    pub(crate) fn acquire(&self, deployment: &Deployment, conversation: &str) -> Result<Lease> {
        Ok(self.within(PATIENCE, "a room", deployment.cluster.acquire(occupant(conversation)))??)
    }

    /// Takes a conversation's room down.
    pub(crate) fn release(&self, deployment: &Deployment, conversation: &str) -> Result<()> {
        let release = deployment.cluster.release_conversation(conversation, ReleaseReason::Conversation);
        Ok(self.within(PATIENCE, "a release", release)??)
    }

    /// Waits until so many rooms wait, and no more are made.
    pub(crate) fn fill_pool(&self, deployment: &Deployment, rooms: usize) -> Result<()> {
        deployment.workspaces.set_pool_size(PoolSize { min: rooms, max: rooms });
        self.until("a full pool", || waiting(&deployment.workspaces).len() == rooms)?;
        deployment.workspaces.set_pool_size(PoolSize { min: 0, max: rooms });
        Ok(())
    }

    /// Takes every room of the pool down.
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

    /// Removes containers of this run that are still there: a start that was cut off, or what was made past the server.
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

/// Lets background work go on until a condition holds.
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
            eprintln!("interrupted; taking down what was made");
            interrupted.cancel();
        }
        (Err(error), _) | (_, Err(error)) => eprintln!("an interruption will leave containers: {error}"),
    }
}
