//! A server that is itself in a container has its socket directories under another path than the engine's host, and nothing but a
//! room can tell whether the two are the same. So such a server makes one before it says that it is ready.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::Workspaces;
use super::build::BuildError;
use super::release::Why;

/// First and longest pause after the room could not be made.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

impl Workspaces {
    /// Why it is not known yet that the engine's host has the rooms' directories where rooms are told they are.
    #[must_use]
    pub fn unproven(&self) -> Option<String> {
        self.unproven.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_unproven(&self, why: Option<String>) {
        *self.unproven.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Whether the host's path has to be proven: it is a path of its own, or this process is in a container of that very engine.
    pub(super) async fn doubts_host_path(&self) -> bool {
        let doubtful = self.parts.sockets.is_elsewhere() || self.is_in_container().await;
        if doubtful {
            self.set_unproven(Some("WORKSPACE_SOCKET_HOST_PATH is being proven by a first room".into()));
        }
        doubtful
    }

    /// Inside a container, the host's name is by default the container's id.
    async fn is_in_container(&self) -> bool {
        let Ok(name) = std::fs::read_to_string("/proc/sys/kernel/hostname") else { return false };
        match self.parts.engine.is_running(name.trim()).await {
            Ok(running) => running,
            Err(error) => {
                tracing::debug!(%error, "not known whether this process is in a container of the engine's");
                false
            }
        }
    }

    /// Makes a room until one can be made. The pool takes it where it has place, else it is taken down again.
    pub(super) async fn prove_host_path(self: &Arc<Self>) {
        let mut backoff = BACKOFF.0;
        let waiting = self.rooms.pooled();
        while !self.stop.is_cancelled() {
            match self.build(None).await {
                Ok(_) => {
                    tracing::info!("WORKSPACE_SOCKET_HOST_PATH is proven: a room answered through it");
                    // No more wait than would without it; whoever was quicker to take one may keep it.
                    for id in self.rooms.surplus(waiting.max(self.pool_size().min)) {
                        self.release_in_background(id, Why::Surplus);
                    }
                    break;
                }
                Err(BuildError::Full(most)) => {
                    tracing::warn!(most, "WORKSPACE_SOCKET_HOST_PATH stays unproven: there is no place for another room");
                    break;
                }
                Err(BuildError::Stopping) => return,
                Err(error) => {
                    tracing::error!(%error, retry_ms = backoff.as_millis(), "no room can be made yet");
                    self.set_unproven(Some(error.to_string()));
                    self.set_pool_trouble(Some(error.to_string()));
                }
            }
            self.stop.run_until_cancelled(tokio::time::sleep(backoff)).await;
            backoff = (backoff * 2).min(BACKOFF.1);
        }
        self.set_unproven(None);
        self.set_pool_trouble(None);
    }
}
