//! A server that is itself in a container has its socket directories under another path than the engine's host, and nothing but a
//! room can tell whether the two are the same. So such a server makes one before it says that it is ready.

use std::sync::Arc;
use std::time::Duration;

use crate::backoff::Backoff;
use crate::lifecycle::build::BuildError;
use crate::reason::ReleaseReason;
use crate::workspaces::Workspaces;

/// First and longest pause after the room could not be made.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

impl Workspaces {
    /// Why it is not known yet that the engine's host has the rooms' directories where rooms are told they are.
    #[must_use]
    pub fn host_path_problem(&self) -> Option<String> {
        self.host_path_problem.lock().clone()
    }

    fn set_host_path_problem(&self, why: Option<String>) {
        *self.host_path_problem.lock() = why;
    }

    /// Whether the host's path has to be proven: it is a path of its own, or this process is in a container of that very engine.
    pub(crate) async fn must_verify_host_path(&self) -> bool {
        let doubtful = self.parts.sockets.is_elsewhere() || self.is_in_container().await;
        if doubtful {
            self.set_host_path_problem(Some("WORKSPACE_SOCKET_HOST_PATH is being proven by a first room".into()));
        }
        doubtful
    }

    async fn is_in_container(&self) -> bool {
        let Ok(mounts) = std::fs::read_to_string("/proc/self/mountinfo") else { return false };
        let Some(container) = own_container(&mounts) else { return false };
        match self.parts.engine.is_running(container).await {
            Ok(running) => running,
            Err(error) => {
                tracing::debug!(%error, "not known whether this process is in a container of the engine's");
                false
            }
        }
    }

    /// Makes a room until one can be made. The pool takes it where it has place, else it is taken down again.
    pub(crate) async fn verify_host_path(self: &Arc<Self>) {
        let mut backoff = Backoff::new(BACKOFF);
        let waiting = self.rooms.pooled();
        loop {
            match self.build(None).await {
                Ok(_) => {
                    tracing::info!("WORKSPACE_SOCKET_HOST_PATH is proven: a room answered through it");
                    // No more wait than would without it; whoever was quicker to take one may keep it.
                    for id in self.rooms.surplus(waiting.max(self.pool_size().min)) {
                        self.release_in_background(id, ReleaseReason::Surplus);
                    }
                    break;
                }
                Err(BuildError::Full(most)) => {
                    tracing::warn!(
                        most,
                        "WORKSPACE_SOCKET_HOST_PATH stays unproven: there is no place for another room"
                    );
                    break;
                }
                Err(BuildError::Stopping) => return,
                Err(error) => {
                    tracing::error!(%error, "no workspace can be created yet");
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

/// The id of the container that this process may be in, of whatever engine: an engine mounts `/etc/hostname` out of a directory
/// that is named after it (proc(5), `mountinfo`: the fourth word is where in its file system, the fifth where to).
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
    fn the_container_is_read_off_the_mount_of_its_name() {
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
