//! Verifies `WORKSPACE_SOCKET_HOST_PATH`.
//!
//! A server that itself runs in a container has its socket directories under another path than the engine's host. Only a container
//! that mounts the host path shows whether both are the same directory, so such a server builds a room before it reports ready.

use std::sync::Arc;
use std::time::Duration;

use crate::backoff::Backoff;
use crate::engine::Condition;
use crate::lifecycle::build::BuildError;
use crate::reason::ReleaseReason;
use crate::workspaces::Workspaces;

/// First and longest pause after a failed build.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

impl Workspaces {
    /// Why the host path of the socket directories is not verified yet; `None` once it is, or if it need not be.
    #[must_use]
    pub fn host_path_problem(&self) -> Option<String> {
        self.host_path_problem.lock().clone()
    }

    fn set_host_path_problem(&self, problem: Option<String>) {
        *self.host_path_problem.lock() = problem;
    }

    /// Whether the host path must be verified: it differs from the path in this process, or this process runs in a container of the
    /// same engine.
    pub(crate) async fn must_verify_host_path(&self) -> bool {
        let needed = self.parts.sockets.is_elsewhere() || self.is_in_container().await;
        if needed {
            self.set_host_path_problem(Some(
                "a first workspace is being created to verify WORKSPACE_SOCKET_HOST_PATH".into(),
            ));
        }
        needed
    }

    async fn is_in_container(&self) -> bool {
        let Ok(mounts) = std::fs::read_to_string("/proc/self/mountinfo") else { return false };
        let Some(container) = own_container(&mounts) else { return false };
        match self.parts.engine.condition(container).await {
            Ok(condition) => condition == Condition::Running,
            Err(error) => {
                tracing::debug!(%error, "unknown whether this process runs in a container of the engine");
                false
            }
        }
    }

    /// Tries to build a room until it succeeds. The room stays in the pool if the pool has space, else it is released.
    pub(crate) async fn verify_host_path(self: &Arc<Self>) {
        let mut backoff = Backoff::new(BACKOFF);
        let pooled = self.rooms.pooled();
        loop {
            match self.build_for_pool().await {
                Ok(_) => {
                    tracing::info!("WORKSPACE_SOCKET_HOST_PATH is verified: a workspace answered through it");
                    // Leave no more rooms in the pool than there would be without this one. One that a conversation has taken is not in the
                    // pool any more.
                    for id in self.rooms.surplus(pooled.max(self.pool_size().min)) {
                        self.release_in_background(id, ReleaseReason::Surplus);
                    }
                    break;
                }
                Err(BuildError::Full(limit)) => {
                    tracing::warn!(
                        limit,
                        "WORKSPACE_SOCKET_HOST_PATH is not verified: the limit on workspaces is reached (CONTAINER_MAX)"
                    );
                    break;
                }
                Err(BuildError::Stopping) => return,
                Err(error) => {
                    tracing::error!(%error, "no workspace can be created; trying again");
                    self.set_host_path_problem(Some(error.to_string()));
                    self.set_pool_problem(Some(error.to_string()));
                }
            }
            if self.stop.run_until_cancelled(backoff.pause()).await.is_none() {
                return;
            }
        }
        self.set_host_path_problem(None);
        self.set_pool_problem(None);
    }
}

/// The id of the container in which this process runs, if any. Docker and Podman mount `/etc/hostname` from a directory whose name
/// is the container's id. In `mountinfo` (proc(5)) the fourth field is the mount's root in its file system, the fifth the mount point.
fn own_container(mounts: &str) -> Option<&str> {
    let mut lines = mounts.lines().map(|line| line.split(' ').skip(3));
    let source =
        lines.find_map(|mut words| Some((words.next()?, words.next()?)).filter(|(_, to)| *to == "/etc/hostname"))?.0;
    source.split('/').find(|part| part.len() == 64 && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::own_container;

    #[test]
    fn the_containers_id_is_read_from_the_mount_of_etc_hostname() {
        let id = "0123456789abcdef".repeat(4);
        let docker = format!(
            "36 35 0:30 / / rw - overlay overlay rw\n41 36 8:1 /var/lib/docker/containers/{id}/hostname /etc/hostname rw - ext4 /dev/sda1 rw\n"
        );
        assert_eq!(own_container(&docker), Some(id.as_str()));
        let podman = format!(
            "41 36 0:24 /containers/overlay-containers/{id}/userdata/hostname /etc/hostname rw - tmpfs tmpfs rw"
        );
        assert_eq!(own_container(&podman), Some(id.as_str()));
        for none in [
            "",
            "41 36 8:1 / / rw - ext4 /dev/sda1 rw",
            "41 36 8:1 /hostname /etc/hostname rw - ext4 /dev/sda1 rw",
            "nonsense",
        ] {
            assert_eq!(own_container(none), None, "{none}");
        }
    }
}
