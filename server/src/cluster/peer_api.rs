//! The API of another server of the deployment, over a Unix socket that only servers can reach.
//!
//! A run's journal is kept by the server that executes the run. Clients may send requests to follow, cancel or delete a run to any
//! server, so that server finds out which one has the run and forwards the request unchanged, with the client's own key.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{Request, Response, request};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio_util::task::AbortOnDropHandle;

/// How long another server may take to answer which run it has.
const ANSWER_DEADLINE: Duration = Duration::from_secs(3);
/// How long it may take to begin the answer to a forwarded request: a deletion waits for the end of a run.
const WORK_DEADLINE: Duration = Duration::from_secs(90);
/// Longest description of a run, in bytes.
const LONGEST_ANSWER: usize = 16 * 1024;

/// The last run of a conversation that a server knows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LastRun {
    /// The run's id; ids ascend with time.
    pub run_id: String,
    /// Whether the run is in progress.
    pub going: bool,
}

/// Why another server did not answer.
#[derive(Debug, thiserror::Error)]
pub enum PeerApiError {
    /// Its socket refuses connections, most likely because it has ended.
    #[error("cannot connect: {0}")]
    Connect(#[from] std::io::Error),
    /// The connection broke during the exchange.
    #[error("the exchange broke off: {0}")]
    Exchange(#[from] hyper::Error),
    /// The request cannot be expressed.
    #[error("the request: {0}")]
    Request(#[from] http::Error),
    /// The answer is too long or incomplete.
    #[error("the answer: {0}")]
    Body(Box<str>),
    /// The answer is not the JSON that was expected.
    #[error("the answer: {0}")]
    Json(#[from] serde_json::Error),
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// One other server's API.
#[derive(Debug, Clone)]
pub struct PeerApi {
    socket: PathBuf,
}

/// An answer, and the connection that must live while it is read.
pub type Forwarded = (Response<Incoming>, AbortOnDropHandle<()>);

impl PeerApi {
    /// Route on which a server answers other servers, and no clients, which run of a conversation it knows.
    pub const LAST_RUN: &str = "/.servers/runs/{conversation_id}";

    /// The API behind a socket.
    #[must_use]
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The last run of a conversation that the server knows.
    ///
    /// # Errors
    /// It does not answer in time, or not as expected.
    pub async fn last_run(&self, conversation: &str) -> Result<Option<LastRun>, PeerApiError> {
        let path = Self::LAST_RUN.replace("{conversation_id}", conversation);
        let exchange = async {
            let request = Request::get(path).header("host", "server").body(Full::default())?;
            let (response, _connection) = self.send(request).await?;
            let body = Limited::new(response.into_body(), LONGEST_ANSWER).collect().await;
            let body = body.map_err(|error| PeerApiError::Body(error.to_string().into()))?.to_bytes();
            Ok(serde_json::from_slice(&body)?)
        };
        tokio::time::timeout(ANSWER_DEADLINE, exchange).await.unwrap_or(Err(PeerApiError::Timeout(ANSWER_DEADLINE)))
    }

    /// Forwards a request, whose body has been read, and returns the answer as it begins.
    ///
    /// # Errors
    /// The server does not answer in time.
    pub async fn forward(&self, mut head: request::Parts, body: Bytes) -> Result<Forwarded, PeerApiError> {
        // They were those of the connection that the request came by.
        for name in [CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION] {
            head.headers.remove(name);
        }
        let sent = self.send(Request::from_parts(head, Full::new(body)));
        let sent = tokio::time::timeout(WORK_DEADLINE, sent).await;
        let (mut response, connection) = sent.unwrap_or(Err(PeerApiError::Timeout(WORK_DEADLINE)))?;
        for name in [TRANSFER_ENCODING, CONNECTION] {
            response.headers_mut().remove(name);
        }
        Ok((response, connection))
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Forwarded, PeerApiError> {
        let stream = UnixStream::connect(&self.socket).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let connection = AbortOnDropHandle::new(tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to another server ended");
            }
        }));
        Ok((sender.send_request(request).await?, connection))
    }
}
