//! A conversation's files for its clients: in its workspace where it has one, else in the bucket.
//!
//! A run may use the workspace at the same time. Each file is read and written whole, and the last writer wins.

mod sync;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use http::{Method, StatusCode};
use tokio::time::Instant;

pub use crate::agent::files::capture_error;
use crate::agent::files::{self as agent_files, AgentFiles, named};
use crate::agent::{self, AgentError};
use crate::lifecycle::acquire::AcquireError;
use crate::lifecycle::lease::Lease;
use crate::objects::{ConversationStore, MAX_FILE_BYTES, MAX_FILES, RoomFiles, RoomFilesError, StorageError};
use crate::rooms::{Occupant, Room};
use crate::workspaces::Workspaces;

/// Files that are listed of a room, at most.
pub const MAX_LISTED_FILES: usize = 200_000;
/// How long a list, or the beginning of a file, may take.
const ANSWER: Duration = Duration::from_secs(30);
/// How long the upload of one file may take.
pub const UPLOAD_DEADLINE: Duration = Duration::from_secs(900);
/// How long whoever sends a file may say nothing.
const SILENCE: Duration = Duration::from_secs(20);

/// Permission bits of a file that was uploaded.
const MODE: u32 = 0o644;

/// What a file holds, piece by piece.
pub type FileStream = BoxStream<'static, Result<Bytes, FilesError>>;

/// Why something was not done with a file.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// It is not there.
    #[error("no such file")]
    NotFound,
    /// Its path leads through a link, or to something that is no file.
    #[error("the path leads to no regular file of the workspace: {0}")]
    InvalidPath(String),
    /// It is larger than is taken.
    #[error("a file has at most {MAX_FILE_BYTES} bytes")]
    TooLarge,
    /// There is no room for it.
    #[error("the workspace is full: {0}")]
    Full(String),
    /// Whoever sends it has stopped in the middle.
    #[error("the upload broke off: {0}")]
    Interrupted(String),
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
            AgentError::Refused { status: StatusCode::BAD_REQUEST, message } => Self::InvalidPath(message),
            AgentError::Refused { status: StatusCode::INSUFFICIENT_STORAGE, message } => Self::Full(message),
            other => Self::Room(other),
        }
    }
}

impl From<StorageError> for FilesError {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::NotFound(_) => Self::NotFound,
            StorageError::Room(RoomFilesError::TooLarge) => Self::TooLarge,
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
#[derive(Debug)]
pub enum Source {
    /// In its workspace.
    Room(Arc<Room>),
    /// In the bucket.
    Bucket(ConversationStore),
    /// It has neither, and so no files.
    Nowhere,
}

/// The files of one conversation.
#[derive(Debug)]
pub struct ConversationFiles {
    workspaces: Arc<Workspaces>,
    occupant: Occupant,
    source: Source,
}

impl Workspaces {
    /// The files of a conversation that has this room, or none.
    #[must_use]
    pub fn files_of(self: &Arc<Self>, occupant: &Occupant, room: Option<Arc<Room>>) -> ConversationFiles {
        let source = match (room, self.conversation_store(occupant)) {
            (Some(room), _) => Source::Room(room),
            (None, Some(place)) => Source::Bucket(place),
            (None, None) => Source::Nowhere,
        };
        ConversationFiles { workspaces: self.clone(), occupant: occupant.clone(), source }
    }
}

impl ConversationFiles {
    /// Where they are.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Every file, sorted by path; the second value is whether the list is complete.
    ///
    /// # Errors
    /// The workspace or the bucket does not answer.
    pub async fn list(&self) -> Result<(Vec<FileInfo>, bool), FilesError> {
        let until = Instant::now() + ANSWER;
        let (mut files, whole) = match &self.source {
            Source::Room(room) => {
                let (files, whole) = in_room(room, until)?.list(MAX_LISTED_FILES).await.map_err(StorageError::from)?;
                let info = |file: crate::objects::RoomFile| {
                    let changed_at = jiff::Timestamp::from_nanosecond(file.version.into()).unwrap_or_default();
                    FileInfo { path: file.path, size: file.size, changed_at }
                };
                (files.into_iter().map(info).collect::<Vec<_>>(), whole)
            }
            Source::Bucket(place) => {
                let stored = place.list(place.bucket().sync_deadline()).await?;
                let info = |file: crate::objects::StoredFile| FileInfo {
                    path: file.path,
                    size: file.size,
                    changed_at: file.stored_at,
                };
                let all = stored.len() < MAX_FILES;
                (stored.into_iter().map(info).collect(), all)
            }
            Source::Nowhere => (Vec::new(), true),
        };
        files.sort_unstable_by(|one, other| one.path.cmp(&other.path));
        Ok((files, whole))
    }

    /// A file's length in bytes, and its content.
    ///
    /// # Errors
    /// It does not exist or cannot be read.
    pub async fn read(&self, path: &str) -> Result<(u64, FileStream), FilesError> {
        match &self.source {
            Source::Room(room) => {
                let (size, pieces) = agent_files::open(dir(room)?, path, ANSWER).await?;
                Ok((size, pieces.map(|piece| piece.map_err(FilesError::from)).boxed()))
            }
            Source::Bucket(place) => {
                let (size, content) = place.read(path, Instant::now() + UPLOAD_DEADLINE).await?;
                Ok((size, content.map(|piece| piece.map_err(FilesError::from)).boxed()))
            }
            Source::Nowhere => Err(FilesError::NotFound),
        }
    }

    /// Creates a file from what arrives, or replaces it once everything has arrived.
    ///
    /// # Errors
    /// The file does not fit or breaks off, in which case what was there before is still there; or there is nowhere to write to.
    pub async fn write(&self, path: &str, content: FileStream) -> Result<(), FilesError> {
        let content = limit_upload(content);
        match &self.source {
            Source::Room(room) => {
                agent_files::put(dir(room)?, path, (MODE, None), content, UPLOAD_DEADLINE).await?;
                self.workspaces.schedule_sync(room, &self.occupant);
                Ok(())
            }
            Source::Bucket(place) if !place.accepts(path) => {
                Err(FilesError::InvalidPath("its name is too long".into()))
            }
            Source::Bucket(place) => {
                let (content, wrong) = capture_error(content);
                let content = content.map(|piece| piece.map_err(|_| RoomFilesError::Changed.into()));
                let written = place.replace(path, content.boxed(), Instant::now() + UPLOAD_DEADLINE).await;
                written.map_err(|error| wrong.try_recv().unwrap_or_else(|_| error.into()))
            }
            Source::Nowhere => Err(FilesError::NotFound),
        }
    }

    /// Deletes a file.
    ///
    /// # Errors
    /// It does not exist or cannot be deleted.
    pub async fn delete(&self, path: &str) -> Result<(), FilesError> {
        match &self.source {
            Source::Room(room) => {
                let request = agent::request(Method::DELETE, &format!("/files{}", named(path)), agent::empty())?;
                agent::ask(dir(room)?, request, ANSWER).await?;
                self.workspaces.schedule_sync(room, &self.occupant);
                Ok(())
            }
            Source::Bucket(place) => {
                let until = place.bucket().sync_deadline();
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
    pub async fn put_file(&self, path: &str, bytes: Option<u64>, content: FileStream) -> Result<(), FilesError> {
        agent_files::put(dir(self.room())?, path, (MODE, bytes), content, UPLOAD_DEADLINE).await
    }
}

fn dir(room: &Room) -> Result<&crate::directory::RoomDir, FilesError> {
    room.dir.as_ref().ok_or_else(|| AgentError::Broken("the room has no directory".into()).into())
}

fn in_room(room: &Room, until: Instant) -> Result<AgentFiles<'_>, FilesError> {
    Ok(AgentFiles::new(dir(room)?, until))
}

/// Ends a content that is too large, or whose sender has stopped.
pub fn limit_upload(content: FileStream) -> FileStream {
    let pieces = futures::stream::unfold(Some((content, 0u64)), |state| async move {
        let (mut content, seen) = state?;
        let piece = match tokio::time::timeout(SILENCE, content.next()).await {
            Err(_) => Err(FilesError::Interrupted(format!("nothing came for {SILENCE:?}"))),
            Ok(piece) => piece?,
        };
        let seen = seen + piece.as_ref().map_or(0, |piece| piece.len() as u64);
        match piece {
            Ok(_) if seen > MAX_FILE_BYTES => Some((Err(FilesError::TooLarge), None)),
            Ok(piece) => Some((Ok(piece), Some((content, seen)))),
            Err(error) => Some((Err(error), None)),
        }
    });
    pieces.boxed()
}
