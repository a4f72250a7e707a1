//! Rooms' files in object storage.
//!
//! Each conversation has a place of its own, `{prefix}{tenant}/{conversation}/`: below `files/` lies every file under its
//! escaped path, and `manifest.json` says what a list of objects cannot. What is in the list is there; the manifest saves
//! work and keeps modes, and where it is gone or late nothing is lost.

mod bucket;
mod conversation_store;
mod link;
mod manifest;
mod name;
mod sync;

use std::time::Duration;

pub use bucket::{Bucket, BucketSettings, SetupError};
pub use conversation_store::{ConversationStore, StoredFile};
pub use manifest::{Manifest, ManifestEntry};
pub use sync::{Content, RoomFile, RoomFiles, RoomFilesError, SyncReport, SyncState, restore, save};

/// Files that are kept of one conversation, at most.
pub const MAX_FILES: usize = 20_000;
/// Bytes of one file, at most.
pub const MAX_FILE_BYTES: u64 = 1 << 30;

/// Why storage did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// It does not let this server in, or this server has no credentials.
    #[error("the bucket refuses this server: {0}")]
    Refused(String),
    /// Nobody answers, or not with what was asked.
    #[error("the bucket cannot be reached: {0}")]
    Unreachable(String),
    /// It takes too long.
    #[error("the bucket did not answer within {0:?}")]
    Timeout(Duration),
    /// There is no such bucket, or no such object.
    #[error("not in the bucket: {0}")]
    NotFound(String),
    /// It answers with a fault of its own.
    #[error("the bucket: {0}")]
    Failed(String),
    /// The room's side of a transfer.
    #[error(transparent)]
    Room(#[from] RoomFilesError),
}
