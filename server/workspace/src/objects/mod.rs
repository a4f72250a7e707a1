//! Conversations' files in object storage.
//!
//! The objects of a conversation have the prefix `{prefix}{tenant}/{conversation}/`: every file is below `files/` under its escaped
//! path, and `manifest.json` holds what a list of objects cannot, such as permission bits and hashes. The list of objects is
//! authoritative; the manifest only saves transfers, so a missing or outdated one loses no content.

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

/// Maximum number of files stored per conversation.
pub const MAX_FILES: usize = 20_000;
/// Maximum size of one file in bytes.
pub const MAX_FILE_BYTES: u64 = 1 << 30;

/// Why an operation on object storage failed.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The bucket denies access, or this server has no credentials.
    #[error("the bucket refuses this server: {0}")]
    Refused(String),
    /// The endpoint cannot be connected to, or the connection failed.
    #[error("the bucket cannot be reached: {0}")]
    Unreachable(String),
    /// No response within the limit.
    #[error("the bucket did not answer within {0:?}")]
    Timeout(Duration),
    /// The bucket or the object does not exist.
    #[error("not in the bucket: {0}")]
    NotFound(String),
    /// The bucket responds with an error of its own.
    #[error("the bucket failed: {0}")]
    Failed(String),
    /// The room's side of a transfer failed.
    #[error(transparent)]
    Room(#[from] RoomFilesError),
}
