//! The connection that a room's agent has dialled: the server listens on `agent.sock`, and is the HTTP/2 client of whoever in the room
//! connects first.
//!
//! Who a client of the socket is, the kernel says (`SO_PEERCRED`, unix(7)): the room's user is the agent, and the server's own user
//! and root are visitors, whose requests are passed on to the agent. Nobody in the room can make a request of the server.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::client::conn::http2;
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;
use nagaya_protocol::{AGENT_SOCKET, STREAMS};
use parking_lot::Mutex;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::meter::{Meter, Metered, WINDOW};
use super::{AgentBody, AgentError, Body, visitor};
use crate::directory::RoomDir;

/// How many requests may be under way at once. Fewer than the agent accepts, so that one is never refused.
const REQUESTS: usize = STREAMS as usize * 3 / 4;
/// How many bytes of one response may be unread, and of all responses together. One that nobody reads does not hold up the others.
const WINDOWS: (u32, u32) = (WINDOW, WINDOW * STREAMS);
/// How many visitors may be connected at once.
const VISITORS: usize = 16;
/// How long a request waits for the agent to dial again after its connection has broken.
const REDIAL: Duration = Duration::from_millis(500);
/// Pause after a connection that was not wanted, so that a room that connects in a loop takes little from the others.
const BRAKE: Duration = Duration::from_millis(5);
/// Pause after a connection could not be accepted, most likely for lack of descriptors.
const PAUSE: Duration = Duration::from_millis(50);

/// The agent's connection, or the wait for it.
#[derive(Debug)]
pub(crate) struct Link {
    shared: Arc<Shared>,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Keeps the room locked.
    dir: Mutex<Option<RoomDir>>,
}

/// What the agent's connection and its users share.
#[derive(Debug)]
pub(super) struct Shared {
    /// The state of the connection.
    state: watch::Sender<State>,
    requests: Arc<Semaphore>,
    meter: Arc<Meter>,
}

/// The state of the agent's connection.
#[derive(Debug, Clone)]
enum State {
    /// The agent has never dialled this server.
    Awaited,
    /// Requests can be sent.
    Connected(http2::SendRequest<Body>),
    /// The connection has broken.
    Broken,
}

impl Link {
    /// Listens on the agent's socket of a room. `hostile` is told if the room sends more than its protocol needs.
    pub(super) fn open(dir: RoomDir, uid: u32, hostile: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let listener = dir.bind(AGENT_SOCKET)?;
        let shared = Arc::new(Shared {
            state: watch::Sender::new(State::Awaited),
            requests: Arc::new(Semaphore::new(REQUESTS)),
            meter: Arc::new(Meter::new(hostile)),
        });
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let door = Door { shared: shared.clone(), uid, tasks: tasks.clone(), stop: stop.clone() };
        tasks.spawn(door.accept(listener));
        Ok(Self { shared, tasks, stop, dir: Mutex::new(Some(dir)) })
    }

    /// Waits until the agent has dialled.
    pub(super) async fn connected(&self) {
        let mut state = self.shared.state.subscribe();
        // The sender lives as long as `self`.
        let _ = state.wait_for(|state| matches!(state, State::Connected(_))).await;
    }

    /// What the error of a request means: see [`Meter::judge`].
    pub(super) fn judge(&self, error: AgentError) -> AgentError {
        self.shared.meter.judge(error)
    }

    /// Sends a request; the response's head has arrived.
    pub(super) async fn send(&self, request: Request<Body>) -> Result<http::Response<AgentBody>, AgentError> {
        self.shared.send(request).await
    }

    /// Stops listening, closes the agent's connection, so that the agent dials whichever server listens next, and unlocks the room.
    pub(super) async fn close(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.dir.lock().take();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Shared {
    pub(super) async fn send(&self, request: Request<Body>) -> Result<http::Response<AgentBody>, AgentError> {
        let broken = |error: hyper::Error| AgentError::Broken(error.to_string());
        let permit =
            self.requests.clone().acquire_owned().await.map_err(|error| AgentError::Broken(error.to_string()))?;
        let mut sender = self.sender().await?;
        self.meter.expect_response();
        sender.ready().await.map_err(broken)?;
        let response = sender.send_request(request).await.map_err(broken)?;
        Ok(response.map(|body| AgentBody::new(body, Held::Stream { meter: self.meter.clone(), _permit: permit })))
    }

    /// The agent's connection, waited for as long as the caller waits, but not for long once it has broken.
    async fn sender(&self) -> Result<http2::SendRequest<Body>, AgentError> {
        let usable = |state: &State| match state {
            State::Connected(sender) if !sender.is_closed() => Some(sender.clone()),
            _ => None,
        };
        let mut state = self.state.subscribe();
        let dialled = state.wait_for(|state| !matches!(state, State::Awaited)).await.ok();
        if let Some(sender) = dialled.and_then(|state| usable(&state)) {
            return Ok(sender);
        }
        let again = state.wait_for(|state| usable(state).is_some());
        let again = tokio::time::timeout(REDIAL, again).await.ok().and_then(Result::ok);
        again.and_then(|state| usable(&state)).ok_or(AgentError::Gone)
    }
}

/// What a response keeps while it is read.
#[derive(Debug)]
pub(super) enum Held {
    /// A stream of the agent's connection.
    Stream { meter: Arc<Meter>, _permit: OwnedSemaphorePermit },
    /// A connection of its own, to an agent of version 0.1.
    Connection { _task: tokio_util::task::AbortOnDropHandle<()> },
}

impl Held {
    /// The error of a response that broke off.
    pub(super) fn broken(&self, error: &hyper::Error) -> AgentError {
        let error = AgentError::Broken(error.to_string());
        match self {
            Self::Stream { meter, .. } => meter.judge(error),
            Self::Connection { .. } => error,
        }
    }

    /// Counts bytes of the response that the server has taken.
    pub(super) fn delivered(&self, bytes: usize) {
        if let Self::Stream { meter, .. } = self {
            meter.delivered(bytes);
        }
    }
}

/// Accepts connections on `agent.sock`.
struct Door {
    shared: Arc<Shared>,
    /// The room's user.
    uid: u32,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// Who connects.
#[derive(Debug, PartialEq, Eq)]
enum Client {
    Room,
    Server,
}

impl Door {
    async fn accept(self, listener: UnixListener) {
        let (agent, visitors) = (Arc::new(Semaphore::new(1)), Arc::new(Semaphore::new(VISITORS)));
        while let Some(accepted) = self.stop.run_until_cancelled(listener.accept()).await {
            let identified = accepted.and_then(|(stream, _)| Ok((self.identify(&stream)?, stream)));
            let (client, stream) = match identified {
                Ok(identified) => identified,
                Err(error) => {
                    tracing::error!(%error, "a connection of a workspace could not be accepted");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let places = if client == Client::Room { &agent } else { &visitors };
            let Ok(place) = places.clone().try_acquire_owned() else {
                drop(stream);
                tokio::time::sleep(BRAKE).await;
                continue;
            };
            let (shared, tasks, stop) = (self.shared.clone(), self.tasks.clone(), self.stop.clone());
            self.tasks.spawn(async move {
                match client {
                    Client::Room => shared.converse(stream, tasks, &stop).await,
                    Client::Server => visitor::serve(stream, shared, &stop).await,
                }
                drop(place);
            });
        }
    }

    /// The room's user, who may be any where the engine maps users, is the room; the server's own user and root are the server's side.
    fn identify(&self, stream: &UnixStream) -> io::Result<Client> {
        let uid = stream.peer_cred()?.uid();
        let ours = uid == 0 || uid == rustix::process::geteuid().as_raw();
        Ok(if ours && uid != self.uid { Client::Server } else { Client::Room })
    }
}

/// Runs the tasks of the agent's connection, until the link is closed.
#[derive(Debug, Clone)]
struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, task: F) {
        let stop = self.stop.clone();
        self.tracker.spawn(async move {
            stop.run_until_cancelled(task).await;
        });
    }
}

impl Shared {
    /// Is the client of an agent that has dialled, until the connection ends.
    async fn converse(&self, stream: UnixStream, tracker: TaskTracker, stop: &CancellationToken) {
        let io = TokioIo::new(Metered::new(stream, self.meter.clone()));
        let handshake = http2::Builder::new(Tasks { tracker, stop: stop.clone() })
            .initial_stream_window_size(WINDOWS.0)
            .initial_connection_window_size(WINDOWS.1)
            .handshake(io);
        match handshake.await {
            Ok((sender, connection)) => {
                self.state.send_replace(State::Connected(sender));
                if let Some(Err(error)) = stop.run_until_cancelled(connection).await {
                    tracing::debug!(%error, "the connection of an agent ended");
                }
            }
            Err(error) => tracing::debug!(%error, "an agent's connection could not be used"),
        }
        self.state.send_replace(State::Broken);
    }
}

/// A request as a connection to an agent carries it: over HTTP/2 with an authority, over HTTP/1.1 without.
pub(super) fn addressed(mut request: Request<Body>) -> Request<Body> {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    if let Ok(uri) = format!("http://agent{path}").parse() {
        *request.uri_mut() = uri;
    }
    request
}
