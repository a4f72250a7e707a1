//! A room's files through its agent. The room is hostile: all it says is limited, and nothing is believed that matters
//! to anybody but itself.

use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{StreamExt, TryStreamExt};
use http::Method;
use http::header::CONTENT_LENGTH;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use nagaya_protocol::FileEntry;
use tokio::time::Instant;

use super::agent::{self, AgentError};
use super::sockets::RoomDir;
use crate::files::{Content, LARGEST_FILE, RoomFault, RoomFile, RoomFiles, StorageError};

/// Bytes of the longest line that tells of a file.
const LONGEST_LINE: usize = 32 * 1024;
/// How long the room may say nothing while it is listed, read or written.
const SILENCE: Duration = Duration::from_secs(10);

/// The files of one room.
pub(super) struct AgentFiles<'a> {
    dir: &'a RoomDir,
    until: Instant,
}

impl<'a> AgentFiles<'a> {
    pub(super) fn new(dir: &'a RoomDir, until: Instant) -> Self {
        Self { dir, until }
    }

    fn patience(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    async fn ask(&self, method: Method, query: &str, body: agent::Body) -> Result<agent::Answer, RoomFault> {
        let request = agent::request(method, &format!("/files{query}"), body).map_err(fault)?;
        agent::ask(self.dir, request, self.patience()).await.map_err(fault)
    }
}

fn fault(error: AgentError) -> RoomFault {
    RoomFault::Agent(error.to_string())
}

fn broken(error: impl std::fmt::Display) -> RoomFault {
    RoomFault::Agent(format!("its connection broke: {error}"))
}

/// The query that names a file.
pub(super) fn named(path: &str) -> String {
    let mut query = String::from("?path=");
    query.extend(url::form_urlencoded::byte_serialize(path.as_bytes()));
    query
}

#[async_trait]
impl RoomFiles for AgentFiles<'_> {
    async fn list(&self, most: usize) -> Result<(Vec<RoomFile>, bool), RoomFault> {
        let mut answer = self.ask(Method::GET, "", agent::empty()).await?;
        let mut files = Vec::new();
        let mut line = Vec::new();
        let mut whole = false;
        while let Some(chunk) = tokio::time::timeout(SILENCE, answer.chunk()).await.map_err(broken)?.map_err(fault)? {
            for part in chunk.split_inclusive(|byte| *byte == b'\n') {
                line.extend_from_slice(part);
                if line.len() > LONGEST_LINE {
                    return Err(RoomFault::Agent("a line of its list is too long".into()));
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

    async fn read(&self, file: &RoomFile) -> Result<Content, RoomFault> {
        let answer = match self.ask(Method::GET, &named(&file.path), agent::empty()).await {
            // Gone since it was listed, most likely; the next list knows.
            Err(RoomFault::Agent(_)) if self.patience() > Duration::ZERO && agent::health(self.dir).await.is_ok() => {
                return Err(RoomFault::Changed);
            }
            other => other?,
        };
        let promised = file.size;
        let content = futures::stream::unfold(Some((answer, 0u64)), move |state| async move {
            let (mut answer, seen) = state?;
            let chunk = match tokio::time::timeout(SILENCE, answer.chunk()).await {
                Err(slow) => return Some((Err(broken(slow)), None)),
                Ok(chunk) => chunk,
            };
            match chunk {
                Ok(Some(chunk)) if seen + chunk.len() as u64 > promised.min(LARGEST_FILE) => {
                    Some((Err(RoomFault::Changed), None))
                }
                Ok(Some(chunk)) => {
                    let seen = seen + chunk.len() as u64;
                    Some((Ok(chunk), Some((answer, seen))))
                }
                Ok(None) if seen < promised => Some((Err(RoomFault::Changed), None)),
                Ok(None) => None,
                Err(error) => Some((Err(fault(error)), None)),
            }
        });
        Ok(content.map_err(StorageError::from).boxed())
    }

    async fn write(&self, path: &str, size: u64, mode: u32, content: Content) -> Result<(), StorageError> {
        // What goes wrong on the way here is told as what it is, not as the broken connection that comes of it.
        let (told, wrong) = std::sync::mpsc::sync_channel(1);
        let frames = content.map(move |chunk| {
            chunk.map(Frame::data).map_err(|error| {
                let text = error.to_string();
                let _ = told.try_send(error);
                std::io::Error::other(text)
            })
        });
        let body: agent::Body = StreamBody::new(frames).boxed_unsync();
        let query = format!("{}&mode={mode:o}", named(path));
        let mut request = agent::request(Method::PUT, &format!("/files{query}"), body).map_err(fault)?;
        request.headers_mut().insert(CONTENT_LENGTH, size.into());
        match agent::ask(self.dir, request, self.patience()).await {
            Ok(_) => Ok(()),
            Err(error) => Err(wrong.try_recv().unwrap_or_else(|_| StorageError::Room(fault(error)))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_path_fits_into_a_query() {
        assert_eq!(named("a b&c=長"), "?path=a+b%26c%3D%E9%95%B7");
    }
}
