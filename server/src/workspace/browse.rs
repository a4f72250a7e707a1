//! A conversation's files for those who own it: out of its room, where it has one, else out of the bucket.
//!
//! A run may be in the room meanwhile: each file that is read or written is whole, and the last who writes it wins.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use http::{Method, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::time::Instant;

use super::agent::{self, AgentError};
use super::agent_files::{AgentFiles, named};
use super::room::{Occupant, Room};
use super::{AcquireError, Workspaces};
use crate::files::{LARGEST_FILE, Place, RoomFault, RoomFiles, StorageError};

/// Files that are listed of a room, at most.
pub const MOST_LISTED: usize = 200_000;
/// How long a list, or the beginning of a file, may take.
const ANSWER: Duration = Duration::from_secs(30);
/// How long the upload of one file may take.
const UPLOAD: Duration = Duration::from_secs(900);
/// How long a file that is read, and whoever sends one, may say nothing.
const SILENCE: Duration = Duration::from_secs(20);

/// What a file holds, piece by piece.
pub type Pieces = BoxStream<'static, Result<Bytes, FilesError>>;

/// Why something was not done with a file.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// It is not there.
    #[error("no such file")]
    NotFound,
    /// Its path leads through a link, or to something that is no file.
    #[error("the path leads to no regular file of the workspace: {0}")]
    Unfit(String),
    /// It is larger than is taken.
    #[error("a file has at most {LARGEST_FILE} bytes")]
    TooLarge,
    /// There is no room for it.
    #[error("the workspace is full: {0}")]
    Full(String),
    /// Whoever sends it has stopped in the middle.
    #[error("the upload broke off: {0}")]
    BrokenOff(String),
    /// The room does not answer.
    #[error("the room: {0}")]
    Room(AgentError),
    /// The bucket does not.
    #[error(transparent)]
    Storage(StorageError),
    /// The conversation's room cannot be found, or none can be made.
    #[error(transparent)]
    Acquire(#[from] AcquireError),
}

impl From<AgentError> for FilesError {
    fn from(error: AgentError) -> Self {
        match error {
            AgentError::Refused { status: StatusCode::NOT_FOUND, .. } => Self::NotFound,
            AgentError::Refused { status: StatusCode::BAD_REQUEST, message } => Self::Unfit(message),
            AgentError::Refused { status: StatusCode::INSUFFICIENT_STORAGE, message } => Self::Full(message),
            other => Self::Room(other),
        }
    }
}

impl From<StorageError> for FilesError {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Missing(_) => Self::NotFound,
            StorageError::Room(RoomFault::TooLarge) => Self::TooLarge,
            other => Self::Storage(other),
        }
    }
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    /// Below the workspace.
    pub path: String,
    /// In bytes.
    pub size: u64,
    /// When it was last changed, or stored.
    pub changed_at: jiff::Timestamp,
}

/// Where a conversation's files are at the moment.
enum Source {
    Room(Arc<Room>),
    Bucket(Place),
    Nowhere,
}

impl Workspaces {
    async fn source(self: &Arc<Self>, occupant: &Occupant) -> Result<Source, FilesError> {
        if let Some(room) = self.room_of(occupant).await? {
            return Ok(Source::Room(room));
        }
        Ok(self.place(occupant).map_or(Source::Nowhere, Source::Bucket))
    }

    /// Every file of a conversation, by its path; the second value is whether these are all.
    ///
    /// # Errors
    /// Room or bucket do not answer.
    pub async fn files(self: &Arc<Self>, occupant: &Occupant) -> Result<(Vec<FileInfo>, bool), FilesError> {
        let until = Instant::now() + ANSWER;
        let (mut files, whole) = match self.source(occupant).await? {
            Source::Room(room) => {
                let (files, whole) = in_room(&room, until)?.list(MOST_LISTED).await.map_err(StorageError::from)?;
                let info = |file: crate::files::RoomFile| {
                    let changed_at = jiff::Timestamp::from_nanosecond(file.version.into()).unwrap_or_default();
                    FileInfo { path: file.path, size: file.size, changed_at }
                };
                (files.into_iter().map(info).collect::<Vec<_>>(), whole)
            }
            Source::Bucket(place) => {
                let stored = place.list(place.bucket().until()).await?;
                let info = |file: crate::files::StoredFile| FileInfo {
                    path: file.path,
                    size: file.size,
                    changed_at: file.stored_at,
                };
                (stored.into_iter().map(info).collect(), true)
            }
            Source::Nowhere => (Vec::new(), true),
        };
        files.sort_unstable_by(|one, other| one.path.cmp(&other.path));
        Ok((files, whole))
    }

    /// A file's length in bytes, and what it holds.
    ///
    /// # Errors
    /// It is not there, or cannot be read.
    pub async fn read_file(self: &Arc<Self>, occupant: &Occupant, path: &str) -> Result<(u64, Pieces), FilesError> {
        match self.source(occupant).await? {
            Source::Room(room) => read_from_room(&room, path).await,
            Source::Bucket(place) => {
                let (size, content) = place.read(path, Instant::now() + UPLOAD).await?;
                Ok((size, content.map(|piece| piece.map_err(FilesError::from)).boxed()))
            }
            Source::Nowhere => Err(FilesError::NotFound),
        }
    }

    /// Makes a file of what arrives, or replaces it once all has arrived. A conversation that has neither room nor bucket gets a
    /// room for it.
    ///
    /// # Errors
    /// It does not fit, or breaks off; then there is what was there before.
    pub async fn write_file(
        self: &Arc<Self>,
        occupant: &Occupant,
        path: &str,
        content: Pieces,
    ) -> Result<(), FilesError> {
        match self.source(occupant).await? {
            Source::Room(room) => {
                write_to_room(&room, path, content).await?;
                self.sync_soon(&room, occupant);
                Ok(())
            }
            Source::Bucket(place) => {
                let (content, wrong) = keeping_what_goes_wrong(content);
                let content = content.map(|piece| piece.map_err(|_| RoomFault::Changed.into()));
                let written = place.write(path, content.boxed(), Instant::now() + UPLOAD).await;
                written.map_err(|error| wrong.try_recv().unwrap_or_else(|_| error.into()))
            }
            Source::Nowhere => {
                let lease = self.acquire(occupant.clone()).await?;
                write_to_room(lease.room(), path, content).await
            }
        }
    }

    /// Deletes a file.
    ///
    /// # Errors
    /// It is not there, or is left.
    pub async fn delete_file(self: &Arc<Self>, occupant: &Occupant, path: &str) -> Result<(), FilesError> {
        match self.source(occupant).await? {
            Source::Room(room) => {
                let request = agent::request(Method::DELETE, &format!("/files{}", named(path)), agent::empty())?;
                agent::ask(dir(&room)?, request, ANSWER).await?;
                self.sync_soon(&room, occupant);
                Ok(())
            }
            Source::Bucket(place) => {
                let until = place.bucket().until();
                if !place.list(until).await?.iter().any(|file| file.path == path) {
                    return Err(FilesError::NotFound);
                }
                Ok(place.delete([path.to_owned()], until).await?)
            }
            Source::Nowhere => Err(FilesError::NotFound),
        }
    }
}

fn dir(room: &Room) -> Result<&super::sockets::RoomDir, FilesError> {
    room.dir.as_ref().ok_or_else(|| AgentError::Broken("the room has no directory".into()).into())
}

fn in_room(room: &Room, until: Instant) -> Result<AgentFiles<'_>, FilesError> {
    Ok(AgentFiles::new(dir(room)?, until))
}

async fn read_from_room(room: &Room, path: &str) -> Result<(u64, Pieces), FilesError> {
    let request = agent::request(Method::GET, &format!("/files{}", named(path)), agent::empty())?;
    let answer = agent::ask(dir(room)?, request, ANSWER).await?;
    let size = answer.length().ok_or_else(|| AgentError::Broken("a file without a length".into()))?;
    let pieces = futures::stream::unfold(Some((answer, size)), |state| async move {
        let (mut answer, left) = state?;
        let piece = match tokio::time::timeout(SILENCE, answer.chunk()).await {
            Err(_) => Err(AgentError::Timeout(SILENCE)),
            Ok(piece) => piece,
        };
        match piece {
            Ok(Some(piece)) => {
                let left = left.saturating_sub(piece.len() as u64);
                Some((Ok(piece), Some((answer, left))))
            }
            Ok(None) if left > 0 => Some((Err(AgentError::Broken("the file ended early".into()).into()), None)),
            Ok(None) => None,
            Err(error) => Some((Err(error.into()), None)),
        }
    });
    Ok((size, pieces.boxed()))
}

async fn write_to_room(room: &Room, path: &str, content: Pieces) -> Result<(), FilesError> {
    let (content, wrong) = keeping_what_goes_wrong(content);
    let frames = content.map(|piece| piece.map(Frame::data));
    let body: agent::Body = StreamBody::new(frames).boxed_unsync();
    let request = agent::request(Method::PUT, &format!("/files{}", named(path)), body)?;
    match agent::ask(dir(room)?, request, UPLOAD).await {
        Ok(_) => Ok(()),
        Err(error) => Err(wrong.try_recv().unwrap_or_else(|_| error.into())),
    }
}

/// Ends a content that is too large or too slow, and keeps why it ended: at its other end that is only a broken connection.
fn keeping_what_goes_wrong(
    content: Pieces,
) -> (BoxStream<'static, std::io::Result<Bytes>>, std::sync::mpsc::Receiver<FilesError>) {
    let (told, wrong) = std::sync::mpsc::sync_channel(1);
    let pieces = futures::stream::unfold(Some((content, 0u64)), move |state| {
        let told = told.clone();
        async move {
            let (mut content, seen) = state?;
            let slow = || FilesError::BrokenOff(format!("nothing came for {SILENCE:?}"));
            let piece = match tokio::time::timeout(SILENCE, content.next()).await {
                Err(_) => Err(slow()),
                Ok(None) => return None,
                Ok(Some(piece)) => piece,
            };
            let checked = piece.and_then(|piece| match seen + piece.len() as u64 {
                seen if seen > LARGEST_FILE => Err(FilesError::TooLarge),
                seen => Ok((piece, seen)),
            });
            match checked {
                Ok((piece, seen)) => Some((Ok(piece), Some((content, seen)))),
                Err(error) => {
                    let text = error.to_string();
                    // Whoever listens wants the first only.
                    let _ = told.try_send(error);
                    Some((Err(std::io::Error::other(text)), None))
                }
            }
        }
    });
    (pieces.boxed(), wrong)
}
