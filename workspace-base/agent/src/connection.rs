//! How the agent is reached. In a room it dials `agent.sock`, on which the server listens, and serves its interface over that
//! connection. A container that somebody starts by hand has no server; there the agent listens on `agent.sock` itself.

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use nagaya_protocol::STREAMS;
use rustix::fs::Access;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::http::Interface;

/// How long a client may take to send a request's head.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// How long responses in progress may continue after the agent has been stopped.
const FAREWELL_DEADLINE: Duration = Duration::from_secs(1);
/// Pause after a connection could not be accepted.
const PAUSE: Duration = Duration::from_millis(50);
/// First and longest pause between two attempts to dial the server.
const REDIAL: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));
/// Interval at which a connected agent looks whether another server has made its socket in the place of the old one.
const LOOK: Duration = Duration::from_secs(1);

/// Where requests come from.
#[derive(Debug)]
pub(crate) enum Entrance {
    /// The server listens on this socket, now, in which case there is a first connection, or soon.
    Dial(PathBuf, Option<UnixStream>),
    /// The agent listens.
    Listen(UnixListener),
}

impl Entrance {
    /// Listens on `socket` if its directory can be written to and nobody else listens there; otherwise dials. A room's directory
    /// is mounted read-only.
    pub(crate) async fn find(socket: &Path) -> io::Result<Self> {
        let dir = socket.parent().unwrap_or(Path::new("/"));
        let writable = rustix::fs::access(dir, Access::WRITE_OK | Access::EXEC_OK).is_ok();
        let first = UnixStream::connect(socket).await.ok();
        if !writable || first.is_some() {
            return Ok(Self::Dial(socket.to_owned(), first));
        }
        remove(socket)?;
        Ok(Self::Listen(UnixListener::bind(socket)?))
    }

    /// Serves requests until `stop` is cancelled.
    pub(crate) async fn serve(self, interface: Interface, stop: CancellationToken) {
        match self {
            Self::Dial(socket, first) => dial(&socket, first, &interface, &stop).await,
            Self::Listen(listener) => listen(listener, interface, stop).await,
        }
    }
}

/// Removes the socket that an earlier agent of a container without a server left behind.
fn remove(socket: &Path) -> io::Result<()> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

async fn listen(listener: UnixListener, interface: Interface, stop: CancellationToken) {
    let connections = TaskTracker::new();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, _)) => {
                let (interface, stop) = (interface.clone(), stop.clone());
                connections.spawn(async move { serve(stream, interface, &stop).await });
            }
            Err(error) => {
                tracing::warn!(%error, "connection not accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    if let Some(path) = listener.local_addr().ok().and_then(|address| address.as_pathname().map(Path::to_owned))
        && let Err(error) = remove(&path)
    {
        tracing::warn!(%error, "the socket was not removed");
    }
    connections.close();
    connections.wait().await;
}

/// Keeps one connection to whichever server listens on `socket`. A server that takes the room over makes the socket anew; the
/// agent then leaves the connection to the earlier one, which may hang, for a connection to the new one.
async fn dial(socket: &Path, mut first: Option<UnixStream>, interface: &Interface, stop: &CancellationToken) {
    let mut pause = REDIAL.0;
    while !stop.is_cancelled() {
        let began = Instant::now();
        let dialled = file_of(socket);
        let connected = match first.take() {
            Some(stream) => Ok(stream),
            None => UnixStream::connect(socket).await,
        };
        match connected {
            Ok(stream) => {
                let leave = stop.child_token();
                let served = serve(stream, interface.clone(), &leave);
                tokio::pin!(served);
                tokio::select! {
                    () = &mut served => {}
                    () = replaced(socket, dialled) => {
                        tracing::info!("another server listens on agent.sock");
                        leave.cancel();
                        served.await;
                    }
                }
            }
            Err(error) => tracing::debug!(%error, "no server listens on agent.sock"),
        }
        // A connection that lasted was a good one.
        pause = if began.elapsed() > LOOK { REDIAL.0 } else { (pause * 2).min(REDIAL.1) };
        stop.run_until_cancelled(tokio::time::sleep(pause)).await;
    }
}

/// Device and inode of the file with this name.
fn file_of(socket: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(socket).ok().map(|file| (file.dev(), file.ino()))
}

/// Waits until another file than `earlier` has the name `socket`.
async fn replaced(socket: &Path, earlier: Option<(u64, u64)>) {
    loop {
        tokio::time::sleep(LOOK).await;
        if file_of(socket).is_some_and(|now| Some(now) != earlier) {
            return;
        }
    }
}

/// Runs the tasks of a connection; they end with it.
#[derive(Debug, Clone, Default)]
struct Tasks(TaskTracker);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

/// Serves one connection, HTTP/1.1 or HTTP/2 as its client begins.
async fn serve(stream: UnixStream, interface: Interface, stop: &CancellationToken) {
    let service = service_fn(move |request| {
        let interface = interface.clone();
        async move { Ok::<_, Infallible>(interface.answer(request).await) }
    });
    let tasks = Tasks::default();
    let mut server = auto::Builder::new(tasks.clone());
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_DEADLINE);
    server.http2().timer(TokioTimer::new()).max_concurrent_streams(STREAMS);
    let connection = server.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => Ok(ended),
        () = stop.cancelled() => {
            // The stream of an execution still delivers its last event.
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(FAREWELL_DEADLINE, connection).await
        }
    };
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection ended"),
        Err(_) => tracing::debug!("a connection was cut off"),
    }
    // Without their connection, the tasks that write its responses end.
    tasks.0.close();
    if tokio::time::timeout(FAREWELL_DEADLINE, tasks.0.wait()).await.is_err() {
        tracing::warn!(tasks = tasks.0.len(), "responses of a connection that has ended are still being written");
    }
}
