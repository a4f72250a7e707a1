//! Access to a room's files through its agent. The room is hostile: everything it sends is bounded, and what it claims affects
//! nothing but its own conversation.

use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;
use std::{fmt, io};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use http::header::{CONTENT_LENGTH, IF_NONE_MATCH};
use http::{HeaderValue, Method, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use nagaya_protocol::FileEntry;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::agent::{self, Agent, AgentError};
use crate::objects::{Content, RoomFile, RoomFiles, RoomFilesError, StorageError};

/// Maximum length in bytes of a line in the agent's list of files: a path of [`MAX_PATH`] bytes, each escaped, and numbers.
const MAX_LINE: usize = 26 * 1024;
/// Maximum length in bytes of a path (`PATH_MAX`, path_resolution(7)).
const MAX_PATH: usize = 4096;
/// Maximum length in bytes of all paths of a list together. A list that is longer is cut off, as one with too many files is.
const MAX_PATHS: usize = 16 * 1024 * 1024;
/// Time limit between two chunks of a list or a file that an agent sends.
const IDLE_LIMIT: Duration = Duration::from_secs(10);
/// How long an agent may take neither a chunk of an upload nor the decision about the whole, and for the head of an answer.
const SILENCE_LIMIT: Duration = Duration::from_secs(20);

/// The files of one room, as the agent serves them.
pub(crate) struct AgentFiles<'a> {
    agent: &'a Agent,
    until: Instant,
}

impl<'a> AgentFiles<'a> {
    pub(crate) fn new(agent: &'a Agent, until: Instant) -> Self {
        Self { agent, until }
    }

    fn remaining(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    async fn ask(&self, method: Method, query: &str, body: agent::Body) -> Result<agent::Answer, RoomFilesError> {
        let request = agent::request(method, &format!("/files{query}"), body).map_err(agent_error)?;
        self.agent.ask(request, self.remaining().min(SILENCE_LIMIT)).await.map_err(agent_error)
    }
}

fn agent_error(error: AgentError) -> RoomFilesError {
    RoomFilesError::Agent(error.to_string())
}

impl From<AgentError> for StorageError {
    fn from(error: AgentError) -> Self {
        Self::Room(agent_error(error))
    }
}

fn connection_error(error: impl std::fmt::Display) -> RoomFilesError {
    RoomFilesError::Agent(format!("the connection broke: {error}"))
}

/// The query string that names a file.
pub(crate) fn path_query(path: &str) -> String {
    let mut query = String::from("?path=");
    query.extend(url::form_urlencoded::byte_serialize(path.as_bytes()));
    query
}

#[async_trait]
impl RoomFiles for AgentFiles<'_> {
    async fn list(&self, limit: usize) -> Result<(Vec<RoomFile>, bool), RoomFilesError> {
        let mut answer = self.ask(Method::GET, "", agent::empty()).await?;
        let mut files = Vec::new();
        let mut line = Vec::new();
        let mut complete = false;
        let mut room_for_paths = MAX_PATHS;
        while let Some(chunk) =
            tokio::time::timeout(IDLE_LIMIT, answer.chunk()).await.map_err(connection_error)?.map_err(agent_error)?
        {
            for part in chunk.split_inclusive(|byte| *byte == b'\n') {
                line.extend_from_slice(part);
                if line.len() > MAX_LINE {
                    return Err(RoomFilesError::Agent("a line of the list of files is too long".into()));
                }
                if line.last() != Some(&b'\n') {
                    continue;
                }
                match serde_json::from_slice(&line).map_err(connection_error)? {
                    FileEntry::File { path, .. } if path.len() > MAX_PATH => {
                        return Err(RoomFilesError::Agent("a path in the list of files is too long".into()));
                    }
                    FileEntry::File { path, size, version, mode }
                        if files.len() < limit && path.len() <= room_for_paths =>
                    {
                        room_for_paths -= path.len();
                        files.push(RoomFile { path, size, version, mode: mode & 0o777 });
                    }
                    FileEntry::File { .. } => return Ok((files, false)),
                    FileEntry::End { whole: is_complete } => complete = is_complete,
                }
                line.clear();
            }
        }
        Ok((files, complete))
    }

    async fn read(&self, file: &RoomFile) -> Result<Content, RoomFilesError> {
        let (size, chunks) = match open(self.agent, &file.path, self.remaining()).await {
            // The file was probably removed after it was listed; the next sync takes that into account.
            Err(AgentError::Refused { .. }) => return Err(RoomFilesError::Changed),
            other => other.map_err(agent_error)?,
        };
        if size != file.size {
            return Err(RoomFilesError::Changed);
        }
        Ok(chunks.map_err(|error| agent_error(error).into()).boxed())
    }

    async fn create(&self, path: &str, size: u64, mode: u32, content: Content) -> Result<bool, StorageError> {
        let content = content.map_err(CreateError::Content).boxed();
        match send(self.agent, path, (mode, Some(size)), Existing::Keep, content, self.remaining()).await {
            Ok(()) => Ok(true),
            Err(CreateError::Agent(AgentError::Refused { status: StatusCode::PRECONDITION_FAILED, .. })) => Ok(false),
            Err(CreateError::Agent(error)) => Err(error.into()),
            Err(CreateError::Content(error)) => Err(error),
        }
    }
}

/// Opens a file; returns its length in bytes and its content, which is exactly that long or ends with an error.
///
/// # Errors
/// The agent refuses or cannot be reached.
pub(crate) async fn open(
    agent: &Agent,
    path: &str,
    deadline: Duration,
) -> Result<(u64, BoxStream<'static, Result<Bytes, AgentError>>), AgentError> {
    let request = agent::request(Method::GET, &format!("/files{}", path_query(path)), agent::empty())?;
    let answer = agent.ask(request, deadline).await?;
    // hyper enforces that the body has exactly this length.
    let size = answer.length().ok_or_else(|| AgentError::Broken("a file without a Content-Length".into()))?;
    let chunks = futures::stream::unfold(Some(answer), |answer| async move {
        let mut answer = answer?;
        match tokio::time::timeout(IDLE_LIMIT, answer.chunk()).await {
            Ok(Ok(Some(chunk))) => Some((Ok(chunk), Some(answer))),
            Ok(Ok(None)) => None,
            Ok(Err(error)) => Some((Err(error), None)),
            Err(_) => Some((Err(AgentError::Timeout(IDLE_LIMIT)), None)),
        }
    });
    Ok((size, chunks.boxed()))
}

/// Why a file was not created in a room.
#[derive(Debug, thiserror::Error)]
enum CreateError {
    #[error(transparent)]
    Agent(#[from] AgentError),
    #[error(transparent)]
    Content(StorageError),
}

/// What happens to a file that exists already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Existing {
    Replace,
    /// It stays, and the agent answers 412.
    Keep,
}

/// Writes a file atomically, with its permission bits and its length if it is known in advance. One that exists is replaced.
///
/// # Errors
/// The content's own error if it failed; else the agent refuses or cannot be reached.
pub(crate) async fn put<E: fmt::Display + Send + From<AgentError> + 'static>(
    agent: &Agent,
    path: &str,
    attributes: (u32, Option<u64>),
    content: BoxStream<'static, Result<Bytes, E>>,
    deadline: Duration,
) -> Result<(), E> {
    send(agent, path, attributes, Existing::Replace, content, deadline).await
}

async fn send<E: fmt::Display + Send + From<AgentError> + 'static>(
    agent: &Agent,
    path: &str,
    (mode, size): (u32, Option<u64>),
    existing: Existing,
    content: BoxStream<'static, Result<Bytes, E>>,
    deadline: Duration,
) -> Result<(), E> {
    let (content, content_error) = capture_error(content);
    let (content, silence) = watched(content, SILENCE_LIMIT);
    let body: agent::Body = StreamBody::new(content.map_ok(Frame::data)).boxed_unsync();
    let mut request = agent::request(Method::PUT, &format!("/files{}&mode={mode:o}", path_query(path)), body)?;
    if let Some(size) = size {
        request.headers_mut().insert(CONTENT_LENGTH, size.into());
    }
    if existing == Existing::Keep {
        request.headers_mut().insert(IF_NONE_MATCH, HeaderValue::from_static("*"));
    }
    let put = tokio::select! {
        put = agent.ask(request, deadline) => put,
        error = silence => Err(error),
    };
    put.map(drop).map_err(|error| content_error.try_recv().unwrap_or_else(|_| error.into()))
}

/// Watches how the receiver of a stream takes it. The second value ends once the receiver has had a chunk, or the whole, for
/// this long without asking for more; the time that it waits for the sender does not count.
fn watched(
    content: BoxStream<'static, io::Result<Bytes>>,
    limit: Duration,
) -> (BoxStream<'static, io::Result<Bytes>>, impl Future<Output = AgentError>) {
    // Since when the receiver has not asked for more; `None` while it waits for the sender.
    let (taken, mut silent_since) = watch::channel(Some(Instant::now()));
    let content = futures::stream::unfold((content, taken), |(mut content, taken)| async move {
        taken.send_replace(None);
        let chunk = content.next().await;
        taken.send_replace(Some(Instant::now()));
        Some((chunk?, (content, taken)))
    });
    let silence = async move {
        loop {
            let since = *silent_since.borrow_and_update();
            let until = since.map(|since| since + limit);
            let silent = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                // Once the stream is dropped, no change follows; then the time of the last one counts.
                Ok(()) = silent_since.changed() => {}
                () = silent => return AgentError::Timeout(limit),
            }
        }
    };
    (content.boxed(), silence)
}

/// Captures the error of a stream that becomes a request body: the HTTP client reports only that the body failed, and the caller
/// reads the cause from the receiver.
pub fn capture_error<E: fmt::Display + Send + 'static>(
    content: BoxStream<'static, Result<Bytes, E>>,
) -> (BoxStream<'static, io::Result<Bytes>>, Receiver<E>) {
    let (sender, receiver) = sync_channel(1);
    let content = content.map_err(move |error| {
        let text = error.to_string();
        // The channel has space for one error, and a stream ends with its first.
        let _ = sender.try_send(error);
        io::Error::other(text)
    });
    (content.boxed(), receiver)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_agent_that_takes_no_chunk_is_found_out_and_a_slow_client_is_not() {
        const LIMIT: Duration = Duration::from_millis(20);
        let chunks = futures::stream::iter(0..3).then(|_| async {
            tokio::time::sleep(LIMIT * 3).await;
            Ok(Bytes::from_static(b"x"))
        });
        let (mut content, silence) = watched(chunks.boxed(), LIMIT);
        let mut silence = std::pin::pin!(silence);
        for _ in 0..3 {
            tokio::select! {
                biased;
                chunk = content.next() => assert!(chunk.is_some_and(|chunk| chunk.is_ok())),
                error = &mut silence => panic!("the client is slow, not the agent: {error}"),
            }
        }
        let error = silence.await;
        assert!(matches!(error, AgentError::Timeout(LIMIT)), "{error}");
    }

    #[test]
    fn a_path_is_escaped_in_the_query() {
        assert_eq!(path_query("a b&c=長"), "?path=a+b%26c%3D%E9%95%B7");
    }
}
