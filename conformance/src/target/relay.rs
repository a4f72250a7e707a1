//! Relays: in front of the Docker socket, with which a scenario decides when Docker is there; and in front of anything, for a broken
//! deployment, with a defect in between.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::far_side::{Duplex, To};
use super::wire::{Free, Wire};
use crate::harness::failure::Failure;

/// A running relay. [`Relay::stop`] removes it with every connection through it.
#[derive(Debug, Clone)]
pub struct Relay {
    address: String,
    path: Option<PathBuf>,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

impl Relay {
    /// Listens on a Unix socket at `path`, which must not exist, and forwards bytes to another. The socket gets the owner of its directory: a
    /// server with another user must be able to use it, and no other user.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn unix(path: &Path, to: &Path) -> Result<Self, Failure> {
        Self::unix_with(path, To::Unix(to.to_owned()), Wire::Plain)
    }

    /// As [`Relay::unix`], with a defect.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn unix_with(path: &Path, to: To, wire: Wire) -> Result<Self, Failure> {
        let listener = UnixListener::bind(path)?;
        if let Some(dir) = path.parent() {
            let owner = std::fs::metadata(dir)?;
            std::os::unix::fs::chown(path, Some(owner.uid()), Some(owner.gid()))?;
        }
        let relay = Self::new(format!("unix://{}", path.display()), Some(path.to_owned()));
        relay.serve(to, wire, Listener::Unix(listener));
        Ok(relay)
    }

    /// Listens on a free port of the loopback interface and forwards bytes to a Unix socket.
    ///
    /// # Errors
    /// There is none.
    pub async fn tcp(to: &Path) -> Result<Self, Failure> {
        Self::tcp_with(To::Unix(to.to_owned()), Wire::Plain).await
    }

    /// Listens on a free port of the loopback interface, with a defect.
    ///
    /// # Errors
    /// There is none.
    pub async fn tcp_with(to: To, wire: Wire) -> Result<Self, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let relay = Self::new(format!("tcp://{}", listener.local_addr()?), None);
        relay.serve(to, wire, Listener::Tcp(listener));
        Ok(relay)
    }

    /// The address in the form of `DOCKER_SOCKET_PATH`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The address without its scheme.
    #[must_use]
    pub fn authority(&self) -> &str {
        self.address.split_once("://").map_or(self.address.as_str(), |(_, rest)| rest)
    }

    fn new(address: String, path: Option<PathBuf>) -> Self {
        Self { address, path, cancel: CancellationToken::new(), tasks: TaskTracker::new() }
    }

    fn serve(&self, to: To, wire: Wire, listener: Listener) {
        let (cancel, tasks, free) = (self.cancel.clone(), self.tasks.clone(), Arc::<Free>::default());
        self.tasks.spawn(async move {
            // A failed accept (for example, too many files) ends the relay; the scenario then finds no Docker.
            while let Some(Ok(client)) = cancel.run_until_cancelled(listener.accept()).await {
                let (cancel, to, wire, free) = (cancel.clone(), to.clone(), wire.clone(), free.clone());
                tasks.spawn(async move {
                    // Either side may close at any time.
                    let _ = cancel.run_until_cancelled(wire.relay(client, &to, &free)).await;
                });
            }
        });
    }

    /// Closes everything and removes the socket.
    ///
    /// # Errors
    /// The socket cannot be removed.
    pub async fn stop(&self) -> Result<(), Failure> {
        self.cancel.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        match &self.path {
            Some(path) if path.exists() => Ok(std::fs::remove_file(path)?),
            _ => Ok(()),
        }
    }
}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    async fn accept(&self) -> std::io::Result<Box<dyn Duplex>> {
        Ok(match self {
            Self::Unix(listener) => Box::new(listener.accept().await?.0),
            Self::Tcp(listener) => Box::new(listener.accept().await?.0),
        })
    }
}
