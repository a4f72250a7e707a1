//! An engine that counts its calls.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use nagaya_workspace::engine::{Condition, ContainerSpec, Docker, Engine, EngineError, EngineInfo, ListedContainer};

/// Docker with a counter of calls.
#[derive(Debug)]
pub(crate) struct Counting {
    docker: Docker,
    calls: AtomicU32,
}

impl Counting {
    pub(crate) fn new(docker: Docker) -> Self {
        Self { docker, calls: AtomicU32::new(0) }
    }

    /// Number of calls so far.
    pub(crate) fn calls(&self) -> u32 {
        self.calls.load(Ordering::Relaxed)
    }

    fn counted(&self) -> &Docker {
        self.calls.fetch_add(1, Ordering::Relaxed);
        &self.docker
    }
}

#[async_trait]
impl Engine for Counting {
    async fn ping(&self) -> Result<(), EngineError> {
        self.counted().ping().await
    }

    async fn info(&self) -> Result<EngineInfo, EngineError> {
        self.counted().info().await
    }

    async fn has_image(&self, image: &str) -> Result<bool, EngineError> {
        self.counted().has_image(image).await
    }

    async fn run(&self, spec: ContainerSpec) -> Result<String, EngineError> {
        self.counted().run(spec).await
    }

    async fn list(&self, label: &str, value: &str) -> Result<Vec<ListedContainer>, EngineError> {
        self.counted().list(label, value).await
    }

    async fn condition(&self, name: &str) -> Result<Condition, EngineError> {
        self.counted().condition(name).await
    }

    async fn last_output(&self, name: &str) -> Result<String, EngineError> {
        self.counted().last_output(name).await
    }

    async fn remove(&self, name: &str, grace: Duration) -> Result<(), EngineError> {
        self.counted().remove(name, grace).await
    }
}
