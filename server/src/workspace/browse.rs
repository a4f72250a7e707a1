//! A conversation's files for those who own it: out of its room, where it has one, else out of the bucket.
//!
//! A run may be in the room meanwhile: each file that is read or written is whole, and the last who writes it wins.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use http::{Method, StatusCode};
use tokio::time::Instant;

use super::agent::{self, AgentError};
pub use super::agent_files::keeping_its_error;
use super::agent_files::{self, AgentFiles, named};
use super::release::Why;
use super::room::{Occupant, Room};
use super::{AcquireError, Lease, Workspaces};
use crate::files::{LARGEST_FILE, MOST_FILES, Place, RoomFault, RoomFiles, StorageError};

/// Files that are listed of a room, at most.
pub const MOST_LISTED: usize = 200_000;
/// How long a list, or the beginning of a file, may take.
const ANSWER: Duration = Duration::from_secs(30);
/// How long the upload of one file may take.
pub const UPLOAD: Duration = Duration::from_secs(900);
/// How long whoever sends a file may say nothing.
const SILENCE: Duration = Duration::from_secs(20);

/// Permission bits of a file that was uploaded.
const MODE: u32 = 0o644;

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
                let all = stored.len() < MOST_FILES;
                (stored.into_iter().map(info).collect(), all)
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
            Source::Room(room) => {
                let (size, pieces) = agent_files::open(dir(&room)?, path, ANSWER).await?;
                Ok((size, pieces.map(|piece| piece.map_err(FilesError::from)).boxed()))
            }
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
        let content = limited(content);
        match self.source(occupant).await? {
            Source::Room(room) => {
                agent_files::put(dir(&room)?, path, (MODE, None), content, UPLOAD).await?;
                self.sync_soon(&room, occupant);
                Ok(())
            }
            Source::Bucket(place) if !place.takes(path) => Err(FilesError::Unfit("its name is too long".into())),
            Source::Bucket(place) => {
                let (content, wrong) = keeping_its_error(content);
                let content = content.map(|piece| piece.map_err(|_| RoomFault::Changed.into()));
                let written = place.replace(path, content.boxed(), Instant::now() + UPLOAD).await;
                written.map_err(|error| wrong.try_recv().unwrap_or_else(|_| error.into()))
            }
            Source::Nowhere => {
                let lease = self.acquire(occupant.clone()).await?;
                lease.put_file(path, None, content).await
            }
        }
    }

    /// Undoes a write to a conversation that was deleted or archived meanwhile, which has looked for rooms and files before this one
    /// was there. What cannot be undone is told in the log.
    pub async fn take_back(self: &Arc<Self>, occupant: &Occupant, path: &str) {
        let conversation = &occupant.conversation;
        match self.delete_file(occupant, path).await {
            Ok(()) | Err(FilesError::NotFound) => {}
            Err(error) => tracing::error!(conversation, path, %error, "a file that came too late is left"),
        }
        if let Err(error) = self.release_conversation(conversation, Why::Conversation).await {
            tracing::error!(conversation, %error, "a room that was opened too late is left to the garbage collector");
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
                place.find(path, until).await?;
                Ok(place.delete([path.to_owned()], until).await?)
            }
            Source::Nowhere => Err(FilesError::NotFound),
        }
    }
}

impl Lease {
    /// Makes a file of what comes, whose length may be known; all of it is there, or nothing.
    ///
    /// # Errors
    /// The room does not take it, or it breaks off.
    pub async fn put_file(&self, path: &str, bytes: Option<u64>, content: Pieces) -> Result<(), FilesError> {
        agent_files::put(dir(self.room())?, path, (MODE, bytes), content, UPLOAD).await
    }
}

fn dir(room: &Room) -> Result<&super::sockets::RoomDir, FilesError> {
    room.dir.as_ref().ok_or_else(|| AgentError::Broken("the room has no directory".into()).into())
}

fn in_room(room: &Room, until: Instant) -> Result<AgentFiles<'_>, FilesError> {
    Ok(AgentFiles::new(dir(room)?, until))
}

/// Ends a content that is too large, or whose sender has stopped.
pub fn limited(content: Pieces) -> Pieces {
    let pieces = futures::stream::unfold(Some((content, 0u64)), |state| async move {
        let (mut content, seen) = state?;
        let piece = match tokio::time::timeout(SILENCE, content.next()).await {
            Err(_) => Err(FilesError::BrokenOff(format!("nothing came for {SILENCE:?}"))),
            Ok(piece) => piece?,
        };
        let seen = seen + piece.as_ref().map_or(0, |piece| piece.len() as u64);
        match piece {
            Ok(_) if seen > LARGEST_FILE => Some((Err(FilesError::TooLarge), None)),
            Ok(piece) => Some((Ok(piece), Some((content, seen)))),
            Err(error) => Some((Err(error), None)),
        }
    });
    pieces.boxed()
}
