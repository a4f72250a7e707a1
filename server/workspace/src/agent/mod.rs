//! The client of a room's agent: HTTP/2 over the connection that the agent has dialled.

mod budget;
pub(crate) mod files;
mod link;
mod meter;
#[cfg(test)]
mod tests;
mod visitor;

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use nagaya_protocol::{
    AgentEvent, AgentFault, ExecuteRequest, Health, InputRequest, PROTOCOL, ParkRequest, REQUEST_ID, sse,
};
use serde::Serialize;
use tokio_util::task::AbortOnDropHandle;

use crate::directory::{ConnectError, RoomDir};
use budget::Budget;
use link::{Held, Link, addressed};

/// How long the agent may take to answer a request that needs no work.
const ANSWER_DEADLINE: Duration = Duration::from_secs(2);
/// How long a cancellation may take: the agent answers once the whole process tree has exited.
const CANCEL_DEADLINE: Duration = Duration::from_secs(20);
/// How long the agent may take to write a file to the home directory.
const HOME_DEADLINE: Duration = Duration::from_secs(30);
/// Maximum size of a response that is not a stream, in bytes.
const LONGEST_ANSWER: usize = 64 * 1024;

/// Why a request to the agent failed.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The socket of an agent of version 0.1 cannot be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The agent's connection has broken, and the agent has not dialled again.
    #[error("the agent is not connected any more")]
    Gone,
    /// The connection broke, or the response is malformed.
    #[error("the agent's connection broke: {0}")]
    Broken(String),
    /// The agent exceeded its limits or reported impossible values: the room is hostile.
    #[error("the agent sent more or other data than allowed: {0}")]
    Hostile(String),
    /// The agent did not answer in time.
    #[error("the agent did not answer within {0:?}")]
    Timeout(Duration),
    /// The agent answered with an error status.
    #[error("the agent answered {status}: {message}")]
    Refused {
        /// Status of the response.
        status: StatusCode,
        /// Error message of the response.
        message: String,
    },
}

impl AgentError {
    /// Whether the agent sent something that only a manipulated agent sends, so that nothing it reports can be trusted.
    #[must_use]
    pub fn is_hostile(&self) -> bool {
        matches!(self, Self::Hostile(_))
    }

    /// Whether the agent answers, and does not have the execution, or not any more.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Refused { status: StatusCode::NOT_FOUND | StatusCode::GONE, .. })
    }

    /// Whether another execution is running in the room.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Refused { status: StatusCode::CONFLICT, .. })
    }
}

/// A room's agent, as the server reaches it.
#[derive(Debug)]
pub struct Agent {
    reach: Reach,
    /// It speaks an earlier protocol.
    outdated: AtomicBool,
}

#[derive(Debug)]
enum Reach {
    /// The agent dials the server.
    Dialled(Link),
    /// The agent of a room of version 0.1 listens itself, and every request is a connection.
    Listening(RoomDir),
}

impl Agent {
    /// Listens for the agent of the room with this directory, or reaches it where it listens itself. `hostile` is told if the room sends
    /// more than its protocol needs.
    ///
    /// # Errors
    /// If the socket cannot be made.
    pub(crate) fn open(dir: RoomDir, hostile: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let (reach, outdated) = match dir.uid() {
            Some(uid) => (Reach::Dialled(Link::open(dir, uid, hostile)?), false),
            None => (Reach::Listening(dir), true),
        };
        Ok(Self { reach, outdated: outdated.into() })
    }

    /// Whether the agent speaks an earlier protocol, in which this server can only read and write files. Such a room starts no run.
    pub(crate) fn is_outdated(&self) -> bool {
        self.outdated.load(Ordering::Relaxed)
    }

    /// Waits until the agent has dialled.
    pub(crate) async fn connected(&self) {
        if let Reach::Dialled(link) = &self.reach {
            link.connected().await;
        }
    }

    /// Stops listening, so that the agent dials whichever server listens next.
    pub(crate) async fn close(&self) {
        if let Reach::Dialled(link) = &self.reach {
            link.close().await;
        }
    }

    /// Checks whether the agent is ready.
    ///
    /// # Errors
    /// If it is not ready or cannot be reached.
    pub async fn health(&self) -> Result<Health, AgentError> {
        let (head, body) = self.send(request(Method::GET, "/health", empty())?, ANSWER_DEADLINE).await?;
        let bytes = whole(body, ANSWER_DEADLINE).await?;
        refuse_unless_success(head, &bytes)?;
        let health: Health =
            serde_json::from_slice(&bytes).map_err(|error| AgentError::Broken(format!("/health: {error}")))?;
        if health.protocol != PROTOCOL {
            self.outdated.store(true, Ordering::Relaxed);
        }
        Ok(health)
    }

    /// Starts an execution and returns its events. The agent logs `request_id`, the id of the API request.
    ///
    /// # Errors
    /// If the agent refuses or cannot be reached.
    pub async fn execute(&self, what: &ExecuteRequest, request_id: Option<&str>) -> Result<EventStream, AgentError> {
        let body = serde_json::to_vec(what).map_err(|error| AgentError::Broken(error.to_string()))?;
        let mut request = request(Method::POST, "/execute", whole_body(body.into()))?;
        if let Some(id) = request_id.and_then(|id| id.parse().ok()) {
            request.headers_mut().insert(REQUEST_ID, id);
        }
        self.events(request).await
    }

    /// Follows an execution from the event after number `after`.
    ///
    /// # Errors
    /// Writes a file below the driver's home directory.
    ///
    /// # Errors
    /// As [`Agent::execute`].
    pub async fn write_home(&self, path: &str, content: Bytes) -> Result<(), AgentError> {
        let target = format!("/files{}&mode=600&in=home", files::path_query(path));
        let request = request(Method::PUT, &target, whole_body(content))?;
        self.ask(request, HOME_DEADLINE).await.map(drop)
    }

    /// As [`Agent::execute`]; status 404 if the agent does not know the execution, 410 if it no longer has those events.
    pub async fn follow(&self, execution: &str, after: u64) -> Result<EventStream, AgentError> {
        let path = format!("/executions/{execution}/events?after={after}");
        self.events(request(Method::GET, &path, empty())?).await
    }

    /// Writes lines to the driver's input, which begin its next turn if it is parked. Lines with an id that the agent has seen are not
    /// written again.
    ///
    /// # Errors
    /// As [`Agent::execute`]; status 404 if the agent does not know the execution, 410 if it has ended.
    pub async fn write(&self, execution: &str, id: &str, lines: Vec<String>) -> Result<(), AgentError> {
        self.order(Method::POST, execution, "input", &InputRequest { id: id.to_owned(), lines }).await
    }

    /// Closes the driver's input, which ends the driver.
    ///
    /// # Errors
    /// As [`Agent::write`].
    pub async fn close_input(&self, execution: &str) -> Result<(), AgentError> {
        self.order(Method::DELETE, execution, "input", &()).await
    }

    /// Ends a turn: once this returns, only the driver's own process runs, which waits for its next turn for this long.
    ///
    /// # Errors
    /// As [`Agent::write`].
    pub async fn park(&self, execution: &str, time: Duration) -> Result<(), AgentError> {
        self.order(Method::POST, execution, "park", &ParkRequest { seconds: time.as_secs() }).await
    }

    async fn order(
        &self,
        method: Method,
        execution: &str,
        what: &str,
        body: &impl Serialize,
    ) -> Result<(), AgentError> {
        let body = serde_json::to_vec(body).map_err(|error| AgentError::Broken(error.to_string()))?;
        let request = request(method, &format!("/executions/{execution}/{what}"), whole_body(body.into()))?;
        let (status, body) = self.send(request, CANCEL_DEADLINE).await?;
        let bytes = whole(body, ANSWER_DEADLINE).await?;
        refuse_unless_success(status, &bytes)
    }

    /// Cancels an execution. On success all of its processes have exited.
    ///
    /// # Errors
    /// If the agent does not confirm that in time.
    pub async fn cancel(&self, execution: &str) -> Result<(), AgentError> {
        let request = request(Method::DELETE, &format!("/executions/{execution}"), empty())?;
        let (head, body) = self.send(request, CANCEL_DEADLINE).await?;
        let bytes = whole(body, ANSWER_DEADLINE).await?;
        if head == StatusCode::NOT_FOUND {
            return Ok(());
        }
        refuse_unless_success(head, &bytes)
    }

    async fn events(&self, request: Request<Body>) -> Result<EventStream, AgentError> {
        let body = self.ask(request, ANSWER_DEADLINE).await?.body;
        Ok(EventStream { body, decoder: sse::Decoder::new(), budget: Budget::default() })
    }

    /// Sends a request and returns the response's body for streaming; an error status is an error.
    pub(crate) async fn ask(&self, request: Request<Body>, deadline: Duration) -> Result<Answer, AgentError> {
        let (status, body) = self.send(request, deadline).await?;
        if !status.is_success() {
            let bytes = whole(body, ANSWER_DEADLINE).await?;
            refuse_unless_success(status, &bytes)?;
            return Err(AgentError::Broken("no answer".into()));
        }
        Ok(Answer { body })
    }

    async fn send(&self, request: Request<Body>, deadline: Duration) -> Result<(StatusCode, AgentBody), AgentError> {
        let exchange = async {
            match &self.reach {
                Reach::Dialled(link) => link.send(addressed(request)).await,
                Reach::Listening(dir) => connect_and_send(dir, request).await,
            }
        };
        let response = tokio::time::timeout(deadline, exchange).await.unwrap_or(Err(AgentError::Timeout(deadline)));
        let response = response.map_err(|error| match &self.reach {
            Reach::Dialled(link) => link.judge(error),
            Reach::Listening(_) => error,
        })?;
        Ok((response.status(), response.into_body()))
    }
}

/// Sends a request to an agent that listens itself, over a connection of its own.
async fn connect_and_send(dir: &RoomDir, request: Request<Body>) -> Result<Response<AgentBody>, AgentError> {
    let broken = |error: hyper::Error| AgentError::Broken(error.to_string());
    let stream = dir.connect_agent().await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let task = AbortOnDropHandle::new(tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to an agent ended");
        }
    }));
    let response = sender.send_request(request).await.map_err(broken)?;
    Ok(response.map(|body| AgentBody::new(body, Held::Connection { _task: task })))
}

/// The body of a response, as it arrives.
#[derive(Debug)]
pub(crate) struct AgentBody {
    body: Incoming,
    held: Held,
}

impl AgentBody {
    fn new(body: Incoming, held: Held) -> Self {
        Self { body, held }
    }
}

impl hyper::body::Body for AgentBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.held.delivered(data.len());
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Stream of an execution's events.
#[derive(Debug)]
pub struct EventStream {
    body: AgentBody,
    decoder: sse::Decoder,
    budget: Budget,
}

impl EventStream {
    /// Continues an execution after its earlier stream broke: the limits on bytes and events apply to both together.
    #[must_use]
    pub fn continuing(mut self, earlier: &Self) -> Self {
        self.budget = earlier.budget.clone();
        self
    }

    /// The next event with its number, or `None` if the stream has ended. Cancel-safe.
    ///
    /// # Errors
    /// If the connection breaks or a received event is invalid.
    pub async fn next(&mut self) -> Result<Option<(u64, AgentEvent)>, AgentError> {
        loop {
            if let Some(event) = self.arrived()? {
                return Ok(Some(event));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(self.body.held.broken(&error)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.budget.take_bytes(data.len()).map_err(AgentError::Hostile)?;
                        self.decoder.push(&data);
                    }
                }
            }
        }
    }

    /// The next event, if it has arrived already.
    ///
    /// # Errors
    /// If a received event is invalid.
    pub fn arrived(&mut self) -> Result<Option<(u64, AgentEvent)>, AgentError> {
        while let Some(event) = self.decoder.next_event().map_err(|e| AgentError::Broken(e.to_string()))? {
            self.budget.take_event().map_err(AgentError::Hostile)?;
            let number = event.id.as_deref().and_then(|id| id.parse().ok());
            let number = number.ok_or_else(|| AgentError::Broken("an event without a number".into()))?;
            match AgentEvent::decode(event.name.as_deref().unwrap_or_default(), event.data) {
                Ok(event) => {
                    check(&event).map_err(AgentError::Hostile)?;
                    return Ok(Some((number, event)));
                }
                // A newer agent may send events that this server does not know.
                Err(error) => match self.budget.take_undecodable().map_err(AgentError::Hostile)? {
                    true => tracing::warn!(
                        number,
                        %error,
                        "skipped an event of the agent; further ones are logged at debug level"
                    ),
                    false => tracing::debug!(number, %error, "skipped an event of the agent"),
                },
            }
        }
        Ok(None)
    }
}

/// Checks what the server relies on in an event of the agent's own; what is in a frame, the driver's part of the server judges.
fn check(event: &AgentEvent) -> Result<(), String> {
    match event {
        AgentEvent::Started { execution_id } => {
            let valid =
                (1..=64).contains(&execution_id.len()) && execution_id.bytes().all(|byte| byte.is_ascii_alphanumeric());
            if valid { Ok(()) } else { Err("its execution_id is not up to 64 letters and digits".into()) }
        }
        AgentEvent::Frame(_) | AgentEvent::OutOfMemory { .. } | AgentEvent::Ended(_) => Ok(()),
    }
}

/// The body of a request to an agent.
pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// An empty request body.
pub(crate) fn empty() -> Body {
    whole_body(Bytes::new())
}

fn whole_body(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// The body of a response, read as it arrives.
#[derive(Debug)]
pub(crate) struct Answer {
    body: AgentBody,
}

impl Answer {
    /// Length in bytes as announced by the response's head, if it is.
    pub(crate) fn length(&self) -> Option<u64> {
        hyper::body::Body::size_hint(&self.body).exact()
    }

    /// The next chunk; `None` at the end. Cancel-safe.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, AgentError> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(self.body.held.broken(&error)),
                // The agent sends no trailers.
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}

pub(crate) fn request(method: Method, path: &str, body: Body) -> Result<Request<Body>, AgentError> {
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", "agent")
        .header("content-type", "application/json")
        .body(body)
        .map_err(|error| AgentError::Broken(error.to_string()))
}

async fn whole(body: AgentBody, deadline: Duration) -> Result<Bytes, AgentError> {
    match tokio::time::timeout(deadline, Limited::new(body, LONGEST_ANSWER).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) => Err(AgentError::Broken(error.to_string())),
        Err(_) => Err(AgentError::Timeout(deadline)),
    }
}

fn refuse_unless_success(status: StatusCode, body: &[u8]) -> Result<(), AgentError> {
    if status.is_success() {
        return Ok(());
    }
    let message = serde_json::from_slice::<AgentFault>(body)
        .map_or_else(|_| String::from_utf8_lossy(body).into_owned(), |fault| fault.error);
    Err(AgentError::Refused { status, message })
}
