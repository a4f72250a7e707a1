//! A relay in front of the Docker socket, with which a scenario decides when Docker is there.

use std::path::{Path, PathBuf};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::failure::Failure;

/// A running relay. [`Relay::stop`] takes it away with every connection through it.
#[derive(Debug)]
pub struct Relay {
    address: String,
    path: Option<PathBuf>,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

impl Relay {
    /// Listens on a Unix socket at `path`, which must not exist.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn unix(path: &Path, to: &Path) -> Result<Self, Failure> {
        let listener = UnixListener::bind(path)?;
        let relay = Self::new(format!("unix://{}", path.display()), Some(path.to_owned()));
        relay.serve(to, Listener::Unix(listener));
        Ok(relay)
    }

    /// Listens on a free port of the loopback interface.
    ///
    /// # Errors
    /// There is none.
    pub async fn tcp(to: &Path) -> Result<Self, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let relay = Self::new(format!("tcp://{}", listener.local_addr()?), None);
        relay.serve(to, Listener::Tcp(listener));
        Ok(relay)
    }

    /// The address in the form of `DOCKER_SOCKET_PATH`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    fn new(address: String, path: Option<PathBuf>) -> Self {
        Self { address, path, cancel: CancellationToken::new(), tasks: TaskTracker::new() }
    }

    fn serve(&self, to: &Path, listener: Listener) {
        let (cancel, tasks, to) = (self.cancel.clone(), self.tasks.clone(), to.to_owned());
        self.tasks.spawn(async move {
            // A failed accept (too many files, say) ends the relay; the scenario then sees a Docker that is not there.
            while let Some(Ok(mut client)) = cancel.run_until_cancelled(listener.accept()).await {
                let (cancel, to) = (cancel.clone(), to.clone());
                tasks.spawn(async move {
                    let copy = async {
                        let mut engine = UnixStream::connect(&to).await?;
                        tokio::io::copy_bidirectional(&mut client, &mut engine).await
                    };
                    // Either side may hang up at any time; that is no news to a relay.
                    let _ = cancel.run_until_cancelled(copy).await;
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

/// A connection of either kind.
trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

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
