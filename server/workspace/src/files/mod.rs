//! A conversation's files as its clients see them: those of its workspace if it has one, else those in the bucket.
//!
//! While a new workspace has not had all of the stored files, its files are those in it and those in the bucket together: a file is
//! read wherever it is, and deleted in both places. A file that is uploaded meanwhile is never replaced by a stored one.
//!
//! A run may change the workspace at the same time. Each file is replaced as a whole, and the last writer wins.

mod sync;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use http::{Method, StatusCode};
use tokio::time::Instant;

pub use crate::agent::files::capture_error;
use crate::agent::files::{self as agent_api, AgentFiles, path_query};
use crate::agent::{self, Agent, AgentError};
use crate::lifecycle::acquire::AcquireError;
use crate::lifecycle::lease::Lease;
use crate::objects::{
    ConversationStore, MAX_FILE_BYTES, MAX_FILES, RoomFile, RoomFiles, RoomFilesError, StorageError, StoredFile,
};
use crate::rooms::{Occupant, Room};
use crate::workspaces::Workspaces;

/// Maximum number of files in a list of a room's files.
pub const MAX_LISTED_FILES: usize = 200_000;
/// Time limit for a list of files, and for the response head of one file.
const RESPONSE_DEADLINE: Duration = Duration::from_secs(20);
/// Time limit for the upload of one file.
pub const UPLOAD_DEADLINE: Duration = Duration::from_secs(900);
/// Time limit between two chunks of an upload.
const IDLE_LIMIT: Duration = Duration::from_secs(20);

/// Permission bits of an uploaded file.
const MODE: u32 = 0o644;

/// The content of a file as a stream of chunks.
pub type FileStream = BoxStream<'static, Result<Bytes, FilesError>>;

/// Why an operation on a file failed.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The file does not exist.
    #[error("no such file")]
    NotFound,
    /// The path is not valid, leads through a symbolic link or names something other than a regular file.
    #[error("the path is not that of a regular file in the workspace: {0}")]
    InvalidPath(String),
    /// The file is larger than [`MAX_FILE_BYTES`].
    #[error("a file has at most {MAX_FILE_BYTES} bytes")]
    TooLarge,
    /// The workspace has no space left for the file.
    #[error("the workspace is full: {0}")]
    Full(String),
    /// The client closed the connection or sent nothing for too long.
    #[error("the upload was interrupted: {0}")]
    Interrupted(String),
    /// The room's agent does not answer or refuses.
    #[error("the workspace: {0}")]
    Room(AgentError),
    /// The bucket does not answer or refuses.
    #[error(transparent)]
    Storage(StorageError),
    /// The conversation's room could not be looked up or built.
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

/// A file in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    /// Path relative to the workspace directory.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// Time of the last change in the workspace, or of the upload to the bucket.
    pub changed_at: jiff::Timestamp,
}

/// Where a conversation's files currently are.
#[derive(Debug)]
pub enum Source {
    /// In the conversation's workspace.
    Room(Arc<Room>),
    /// In the bucket; the conversation has no workspace.
    Bucket(ConversationStore),
    /// There is neither a workspace nor a bucket, so the conversation has no files.
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
    /// The files of a conversation. `room` is its room, if it has one.
    #[must_use]
    pub fn files_of(self: &Arc<Self>, occupant: &Occupant, room: Option<Arc<Room>>) -> ConversationFiles {
        let source = match (room, self.conversation_store(occupant)) {
            (Some(room), _) => Source::Room(room),
            (None, Some(store)) => Source::Bucket(store),
            (None, None) => Source::Nowhere,
        };
        ConversationFiles { workspaces: self.clone(), occupant: occupant.clone(), source }
    }
}

impl ConversationFiles {
    /// Where the files are.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// All files, sorted by path; the second value is whether the list is complete.
    ///
    /// # Errors
    /// The workspace or the bucket does not answer.
    pub async fn list(&self) -> Result<(Vec<FileInfo>, bool), FilesError> {
        let (mut files, complete) = match &self.source {
            Source::Room(room) => {
                let until = Instant::now() + RESPONSE_DEADLINE;
                let (files, complete) =
                    agent_files(room, until)?.list(MAX_LISTED_FILES).await.map_err(StorageError::from)?;
                let files = files.into_iter().map(FileInfo::from).collect();
                match self.missing_files(room, until).await {
                    Some(store) => with_stored(files, complete, &store, until).await,
                    None => (files, complete),
                }
            }
            Source::Bucket(store) => stored(store, store.bucket().sync_deadline()).await?,
            Source::Nowhere => (Vec::new(), true),
        };
        files.sort_unstable_by(|one, other| one.path.cmp(&other.path));
        Ok((files, complete))
    }

    /// Opens a file; returns its length in bytes and its content.
    ///
    /// # Errors
    /// The file does not exist or cannot be read.
    pub async fn read(&self, path: &str) -> Result<(u64, FileStream), FilesError> {
        match &self.source {
            Source::Room(room) => {
                let opened = agent_api::open(agent(room)?, path, RESPONSE_DEADLINE).await.map_err(FilesError::from);
                match opened {
                    Ok((size, chunks)) => Ok((size, chunks.map(|chunk| chunk.map_err(FilesError::from)).boxed())),
                    Err(FilesError::NotFound) => {
                        match self.missing_files(room, Instant::now() + RESPONSE_DEADLINE).await {
                            Some(store) => read_stored(&store, path).await,
                            None => Err(FilesError::NotFound),
                        }
                    }
                    Err(error) => Err(error),
                }
            }
            Source::Bucket(store) => read_stored(store, path).await,
            Source::Nowhere => Err(FilesError::NotFound),
        }
    }

    /// Creates a file, or replaces it once the whole content has arrived.
    ///
    /// # Errors
    /// The content is too large or interrupted, in which case the old file is unchanged, or the conversation has neither a workspace
    /// nor a bucket.
    pub async fn write(&self, path: &str, content: FileStream) -> Result<(), FilesError> {
        let content = limit_upload(content);
        match &self.source {
            Source::Room(room) => {
                agent_api::put(agent(room)?, path, (MODE, None), content, UPLOAD_DEADLINE).await?;
                self.workspaces.schedule_sync(room, &self.occupant);
                Ok(())
            }
            Source::Bucket(store) if !store.accepts(path) => {
                Err(FilesError::InvalidPath("the name is too long".into()))
            }
            Source::Bucket(store) => {
                let (content, error) = capture_error(content);
                let content = content.map(|chunk| chunk.map_err(|_| RoomFilesError::Changed.into()));
                let written = store.replace(path, content.boxed(), Instant::now() + UPLOAD_DEADLINE).await;
                written.map_err(|failed| error.try_recv().unwrap_or_else(|_| failed.into()))
            }
            Source::Nowhere => Err(FilesError::NotFound),
        }
    }

    /// Deletes a file.
    ///
    /// # Errors
    /// The file does not exist or cannot be deleted.
    pub async fn delete(&self, path: &str) -> Result<(), FilesError> {
        match &self.source {
            Source::Room(room) => {
                let stored = match self.missing_files(room, Instant::now() + RESPONSE_DEADLINE).await {
                    Some(store) => self.delete_missing(room, &store, path).await?,
                    None => false,
                };
                match delete_in_room(room, path).await {
                    // It was in the bucket alone, and is gone from there.
                    Err(FilesError::NotFound) if stored => Ok(()),
                    Err(error) => Err(error),
                    Ok(()) => {
                        self.workspaces.schedule_sync(room, &self.occupant);
                        Ok(())
                    }
                }
            }
            Source::Bucket(store) => {
                let until = store.bucket().sync_deadline();
                store.check_exists(path, until).await?;
                Ok(store.delete([path.to_owned()], until).await?)
            }
            Source::Nowhere => Err(FilesError::NotFound),
        }
    }

    /// The bucket, if it may have files that the room has not received yet.
    async fn missing_files(&self, room: &Room, until: Instant) -> Option<ConversationStore> {
        let store = self.workspaces.conversation_store(&self.occupant)?;
        if room.has_stored_files() {
            return None;
        }
        // An earlier server may have brought them in; the manifest says so.
        let manifest = store.manifest(until).await;
        if manifest.is_ok_and(|manifest| manifest.room.as_deref() == Some(room.id.as_str())) {
            room.set_has_stored_files();
            return None;
        }
        Some(store)
    }

    /// Deletes a file in the bucket, while none is on its way from there into the room. Returns whether there was such a file.
    async fn delete_missing(&self, room: &Room, store: &ConversationStore, path: &str) -> Result<bool, FilesError> {
        let (limit, until) = (store.bucket().sync_timeout(), store.bucket().sync_deadline());
        let Ok(_files) = tokio::time::timeout_at(until, room.files.lock()).await else {
            return Err(StorageError::Timeout(limit).into());
        };
        if room.has_stored_files() {
            // From now on the room's deletions count, and the next synchronisation repeats this one in the bucket.
            return Ok(false);
        }
        match store.check_exists(path, until).await {
            Err(StorageError::NotFound(_)) => Ok(false),
            Err(error) => Err(error.into()),
            Ok(()) => {
                store.delete([path.to_owned()], until).await?;
                Ok(true)
            }
        }
    }
}

impl From<RoomFile> for FileInfo {
    fn from(file: RoomFile) -> Self {
        let changed_at = jiff::Timestamp::from_nanosecond(file.version.into()).unwrap_or_default();
        Self { path: file.path, size: file.size, changed_at }
    }
}

impl From<StoredFile> for FileInfo {
    fn from(file: StoredFile) -> Self {
        Self { path: file.path, size: file.size, changed_at: file.stored_at }
    }
}

/// The files in the bucket, and whether these are all.
async fn stored(store: &ConversationStore, until: Instant) -> Result<(Vec<FileInfo>, bool), FilesError> {
    let stored = store.list(until).await?;
    let complete = stored.len() < MAX_FILES;
    Ok((stored.into_iter().map(FileInfo::from).collect(), complete))
}

/// The files in a room, and those of the bucket that are not in it. While the bucket does not answer, the list is not complete.
async fn with_stored(
    mut files: Vec<FileInfo>,
    complete: bool,
    store: &ConversationStore,
    until: Instant,
) -> (Vec<FileInfo>, bool) {
    match stored(store, until).await {
        Ok((stored, all)) => {
            let present: HashSet<String> = files.iter().map(|file| file.path.clone()).collect();
            files.extend(stored.into_iter().filter(|file| !present.contains(&file.path)));
            (files, complete && all)
        }
        Err(error) => {
            tracing::warn!(%error, "stored files that are not in the workspace yet are missing in a list");
            (files, false)
        }
    }
}

async fn read_stored(store: &ConversationStore, path: &str) -> Result<(u64, FileStream), FilesError> {
    let (size, content) = store.read(path, Instant::now() + UPLOAD_DEADLINE).await?;
    Ok((size, content.map(|chunk| chunk.map_err(FilesError::from)).boxed()))
}

async fn delete_in_room(room: &Room, path: &str) -> Result<(), FilesError> {
    let request = agent::request(Method::DELETE, &format!("/files{}", path_query(path)), agent::empty())?;
    agent(room)?.ask(request, RESPONSE_DEADLINE).await?;
    Ok(())
}

impl Lease {
    /// Writes a file into the room, atomically. `bytes` is its length if it is known in advance.
    ///
    /// # Errors
    /// The room refuses the file, or the content is interrupted.
    pub async fn put_file(&self, path: &str, bytes: Option<u64>, content: FileStream) -> Result<(), FilesError> {
        self.room().unsaved.store(true, Ordering::Release);
        agent_api::put(agent(self.room())?, path, (MODE, bytes), content, UPLOAD_DEADLINE).await
    }
}

impl Lease {
    /// Opens a file in the room; returns its length in bytes and its content.
    ///
    /// # Errors
    /// The file does not exist or cannot be read.
    pub async fn read_file(&self, path: &str) -> Result<(u64, FileStream), FilesError> {
        let (size, chunks) = agent_api::open(agent(self.room())?, path, RESPONSE_DEADLINE).await?;
        Ok((size, chunks.map(|chunk| chunk.map_err(FilesError::from)).boxed()))
    }
}

fn agent(room: &Room) -> Result<&Agent, FilesError> {
    Ok(room.agent()?)
}

fn agent_files(room: &Room, until: Instant) -> Result<AgentFiles<'_>, FilesError> {
    Ok(AgentFiles::new(agent(room)?, until))
}

/// Fails a stream that exceeds [`MAX_FILE_BYTES`] or delivers nothing for too long.
pub fn limit_upload(content: FileStream) -> FileStream {
    let chunks = futures::stream::unfold(Some((content, 0u64)), |state| async move {
        let (mut content, seen) = state?;
        let chunk = match tokio::time::timeout(IDLE_LIMIT, content.next()).await {
            Err(_) => Err(FilesError::Interrupted(format!("no data for {IDLE_LIMIT:?}"))),
            Ok(chunk) => chunk?,
        };
        let seen = seen + chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        match chunk {
            Ok(_) if seen > MAX_FILE_BYTES => Some((Err(FilesError::TooLarge), None)),
            Ok(chunk) => Some((Ok(chunk), Some((content, seen)))),
            Err(error) => Some((Err(error), None)),
        }
    });
    chunks.boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_agent_refuses_is_told_by_its_status() {
        let refused = |status| FilesError::from(AgentError::Refused { status, message: "why".into() });
        assert!(matches!(refused(StatusCode::NOT_FOUND), FilesError::NotFound));
        assert!(matches!(refused(StatusCode::BAD_REQUEST), FilesError::InvalidPath(why) if why == "why"));
        assert!(matches!(refused(StatusCode::INSUFFICIENT_STORAGE), FilesError::Full(why) if why == "why"));
        for status in [StatusCode::INTERNAL_SERVER_ERROR, StatusCode::PRECONDITION_FAILED] {
            assert!(matches!(refused(status), FilesError::Room(_)), "{status}");
        }
    }
}
