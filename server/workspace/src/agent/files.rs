//! A room's files through its agent. The room is hostile: all it says is limited, and nothing is believed that matters
//! to anybody but itself.

use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;
use std::{fmt, io};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use http::Method;
use http::header::CONTENT_LENGTH;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use nagaya_protocol::FileEntry;
use tokio::time::Instant;

use crate::agent::{self, AgentError};
use crate::directory::RoomDir;
use crate::objects::{Content, RoomFile, RoomFiles, RoomFilesError, StorageError};

/// Bytes of the longest line that tells of a file.
const LONGEST_LINE: usize = 32 * 1024;
/// How long the room may say nothing while it is listed, read or written.
const SILENCE: Duration = Duration::from_secs(10);

/// The files of one room.
pub(crate) struct AgentFiles<'a> {
    dir: &'a RoomDir,
    until: Instant,
}

impl<'a> AgentFiles<'a> {
    pub(crate) fn new(dir: &'a RoomDir, until: Instant) -> Self {
        Self { dir, until }
    }

    fn patience(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    async fn ask(&self, method: Method, query: &str, body: agent::Body) -> Result<agent::Answer, RoomFilesError> {
        let request = agent::request(method, &format!("/files{query}"), body).map_err(fault)?;
        agent::ask(self.dir, request, self.patience()).await.map_err(fault)
    }
}

fn fault(error: AgentError) -> RoomFilesError {
    RoomFilesError::Agent(error.to_string())
}

impl From<AgentError> for StorageError {
    fn from(error: AgentError) -> Self {
        Self::Room(fault(error))
    }
}

fn broken(error: impl std::fmt::Display) -> RoomFilesError {
    RoomFilesError::Agent(format!("its connection broke: {error}"))
}

/// The query that names a file.
pub(crate) fn named(path: &str) -> String {
    let mut query = String::from("?path=");
    query.extend(url::form_urlencoded::byte_serialize(path.as_bytes()));
    query
}

#[async_trait]
impl RoomFiles for AgentFiles<'_> {
    async fn list(&self, most: usize) -> Result<(Vec<RoomFile>, bool), RoomFilesError> {
        let mut answer = self.ask(Method::GET, "", agent::empty()).await?;
        let mut files = Vec::new();
        let mut line = Vec::new();
        let mut whole = false;
        while let Some(chunk) = tokio::time::timeout(SILENCE, answer.chunk()).await.map_err(broken)?.map_err(fault)? {
            for part in chunk.split_inclusive(|byte| *byte == b'\n') {
                line.extend_from_slice(part);
                if line.len() > LONGEST_LINE {
                    return Err(RoomFilesError::Agent("a line of its list is too long".into()));
                }
                if line.last() != Some(&b'\n') {
                    continue;
                }
                match serde_json::from_slice(&line).map_err(broken)? {
                    FileEntry::File { path, size, version, mode } if files.len() < most => {
                        files.push(RoomFile { path, size, version, mode: mode & 0o777 });
                    }
                    FileEntry::File { .. } => return Ok((files, false)),
                    FileEntry::End { whole: is_whole } => whole = is_whole,
                }
                line.clear();
            }
        }
        Ok((files, whole))
    }

    async fn read(&self, file: &RoomFile) -> Result<Content, RoomFilesError> {
        let (size, pieces) = match open(self.dir, &file.path, self.patience()).await {
            // Gone since it was listed, most likely; the next list knows.
            Err(AgentError::Refused { .. }) => return Err(RoomFilesError::Changed),
            other => other.map_err(fault)?,
        };
        if size != file.size {
            return Err(RoomFilesError::Changed);
        }
        Ok(pieces.map_err(|error| fault(error).into()).boxed())
    }

    async fn write(&self, path: &str, size: u64, mode: u32, content: Content) -> Result<(), StorageError> {
        put(self.dir, path, (mode, Some(size)), content, self.patience()).await
    }
}

/// A file's length in bytes, and what it holds: so many bytes, or an error.
///
/// # Errors
/// The agent refuses, or cannot be reached.
pub(crate) async fn open(
    dir: &RoomDir,
    path: &str,
    deadline: Duration,
) -> Result<(u64, BoxStream<'static, Result<Bytes, AgentError>>), AgentError> {
    let request = agent::request(Method::GET, &format!("/files{}", named(path)), agent::empty())?;
    let answer = agent::ask(dir, request, deadline).await?;
    // The connection sees to it that it is kept to.
    let size = answer.length().ok_or_else(|| AgentError::Broken("a file without a length".into()))?;
    let pieces = futures::stream::unfold(Some(answer), |answer| async move {
        let mut answer = answer?;
        match tokio::time::timeout(SILENCE, answer.chunk()).await {
            Ok(Ok(Some(piece))) => Some((Ok(piece), Some(answer))),
            Ok(Ok(None)) => None,
            Ok(Err(error)) => Some((Err(error), None)),
            Err(_) => Some((Err(AgentError::Timeout(SILENCE)), None)),
        }
    });
    Ok((size, pieces.boxed()))
}

/// Makes a file of what comes, with permission bits and a length, where that is known; all of it is there, or nothing.
///
/// # Errors
/// What was wrong with the content; else the agent refuses, or cannot be reached.
pub(crate) async fn put<E: fmt::Display + Send + From<AgentError> + 'static>(
    dir: &RoomDir,
    path: &str,
    (mode, size): (u32, Option<u64>),
    content: BoxStream<'static, Result<Bytes, E>>,
    deadline: Duration,
) -> Result<(), E> {
    let (content, wrong) = capture_error(content);
    let body: agent::Body = StreamBody::new(content.map_ok(Frame::data)).boxed_unsync();
    let mut request = agent::request(Method::PUT, &format!("/files{}&mode={mode:o}", named(path)), body)?;
    if let Some(size) = size {
        request.headers_mut().insert(CONTENT_LENGTH, size.into());
    }
    let made = agent::ask(dir, request, deadline).await;
    made.map(drop).map_err(|error| wrong.try_recv().unwrap_or_else(|_| error.into()))
}

/// A content whose error is kept: for who reads it, it is only a broken connection.
pub fn capture_error<E: fmt::Display + Send + 'static>(
    content: BoxStream<'static, Result<Bytes, E>>,
) -> (BoxStream<'static, io::Result<Bytes>>, Receiver<E>) {
    let (keep, kept) = sync_channel(1);
    let content = content.map_err(move |error| {
        let text = error.to_string();
        // A content ends with its first error.
        let _ = keep.try_send(error);
        io::Error::other(text)
    });
    (content.boxed(), kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_path_fits_into_a_query() {
        assert_eq!(named("a b&c=長"), "?path=a+b%26c%3D%E9%95%B7");
    }
}
