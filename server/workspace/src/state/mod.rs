//! Shared state: records of rooms, locks of conversations, and the size of the warm pool.
//!
//! Records are an index. The labels of the engine's containers say which rooms exist; a record adds what changes and so cannot be a
//! label: the conversation, the driver's session and the server that owns the room. A lost record costs at most a room, never a
//! conversation, and the owner of the room writes it again.
//!
//! [`Embedded`] stores the state in a file for one server, [`Redis`] for several servers. The same test suite runs over both
//! (`tests/state`).

pub mod directory;
mod embedded;
mod quarantine;
mod record;
mod redis;
mod redis_link;

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;

pub use embedded::{Embedded, open_sqlite};
pub use record::Record;
pub use redis::Redis;
pub use redis_link::RedisAddress;

/// Attempts at a change while other servers change the same record.
const ATTEMPTS: usize = 16;

/// Size of the warm pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct PoolSize {
    /// Number of rooms that the pool keeps ready; 0 turns the pool off.
    pub min: usize,
    /// Number of rooms above which surplus rooms are released.
    pub max: usize,
}

/// The outcome of a conditional write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteOutcome {
    /// The record was written or deleted.
    Written,
    /// The stored record differs from the one that the caller expected; nothing was written.
    Conflict,
    /// The conversation already has another room; nothing was written.
    ConversationTaken,
}

/// Why an operation on the shared state failed.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Redis does not answer, or answers with an error.
    #[error("the shared state at {address}: {why}")]
    Unavailable {
        /// Address without user and password.
        address: String,
        /// The cause.
        why: String,
    },
    /// Redis rejects the credentials.
    #[error("the shared state at {address} refuses this server: {why}; set user and password in REDIS_URL")]
    Refused {
        /// Address without user and password.
        address: String,
        /// The error as Redis words it.
        why: String,
    },
    /// The SQLite file cannot be read or written.
    #[error("the workspace records: {0}")]
    File(#[from] sqlx::Error),
    /// Other servers changed the record between every attempt.
    #[error("the record of workspace {0} kept changing while it was written")]
    Contended(String),
}

/// Records, locks, and the size of the warm pool. Every call returns a result or an error within seconds.
///
/// A record that cannot be decoded is moved aside, reported by [`State::quarantined`], and counts as absent.
#[async_trait]
pub trait State: Debug + Send + Sync {
    /// Checks that the store answers.
    ///
    /// # Errors
    /// The store does not answer.
    async fn ping(&self) -> Result<(), StateError>;

    /// An opaque value that changes when records may have been lost. The first call after a loss sets a new one.
    ///
    /// # Errors
    /// The store does not answer.
    async fn epoch(&self) -> Result<String, StateError>;

    /// Reads all records.
    ///
    /// # Errors
    /// The records cannot be read.
    async fn records(&self) -> Result<Vec<Record>, StateError>;

    /// Reads a room's record; `None` if there is none.
    ///
    /// # Errors
    /// The record cannot be read.
    async fn record(&self, workspace: &str) -> Result<Option<Record>, StateError>;

    /// Reads the record of the room that a conversation has; `None` if it has none.
    ///
    /// # Errors
    /// The record cannot be read.
    async fn record_by_conversation(&self, conversation: &str) -> Result<Option<Record>, StateError>;

    /// Replaces a room's record with `new` if it equals `old`; `None` stands for an absent record.
    ///
    /// # Errors
    /// The store does not answer; the record may or may not have been written.
    async fn compare_and_set(
        &self,
        workspace: &str,
        old: Option<&Record>,
        new: Option<&Record>,
    ) -> Result<WriteOutcome, StateError>;

    /// Extends the time to live of records.
    ///
    /// # Errors
    /// The store does not answer.
    async fn refresh(&self, records: &[Record]) -> Result<(), StateError>;

    /// Acquires or renews the lock of a conversation for `holder`; it expires after `ttl`. `dead_holder` names a holder whose lock may
    /// be taken over. Returns the holder that has the lock instead, `None` if it is acquired.
    ///
    /// # Errors
    /// The store does not answer.
    async fn lock(
        &self,
        conversation: &str,
        holder: &str,
        dead_holder: Option<&str>,
        ttl: Duration,
    ) -> Result<Option<String>, StateError>;

    /// Releases the lock of a conversation if `holder` has it.
    ///
    /// # Errors
    /// The store does not answer; the lock expires by itself.
    async fn unlock(&self, conversation: &str, holder: &str) -> Result<(), StateError>;

    /// Reads the pool size that an operator has set; `None` if none is set.
    ///
    /// # Errors
    /// The size cannot be read.
    async fn pool(&self) -> Result<Option<PoolSize>, StateError>;

    /// Sets the pool size of every server.
    ///
    /// # Errors
    /// The store does not answer; the size may not have been set.
    async fn set_pool(&self, size: PoolSize) -> Result<(), StateError>;

    /// A message about the records that could not be decoded since the start of the process; `None` if there were none.
    fn quarantined(&self) -> Option<String>;

    /// Closes connections and files.
    async fn close(&self);

    /// Writes a record as the room's owner, over no record or one with the same owner. [`WriteOutcome::Conflict`] if another server
    /// owns the room.
    ///
    /// # Errors
    /// The store does not answer; the record may not have been written.
    async fn put_owned(&self, record: &Record) -> Result<WriteOutcome, StateError> {
        for _ in 0..ATTEMPTS {
            let old = self.record(&record.workspace).await?;
            if old.as_ref().is_some_and(|old| old.owner != record.owner) {
                return Ok(WriteOutcome::Conflict);
            }
            match self.compare_and_set(&record.workspace, old.as_ref(), Some(record)).await? {
                WriteOutcome::Conflict => {}
                outcome => return Ok(outcome),
            }
        }
        Err(StateError::Contended(record.workspace.clone()))
    }

    /// Deletes a record as the room's owner. Does nothing if it is absent or has another owner.
    ///
    /// # Errors
    /// The store does not answer; the record may not have been deleted.
    async fn delete_owned(&self, workspace: &str, owner: &str) -> Result<(), StateError> {
        for _ in 0..ATTEMPTS {
            let old = self.record(workspace).await?.filter(|old| old.owner == owner);
            let Some(old) = old else { return Ok(()) };
            if self.compare_and_set(workspace, Some(&old), None).await? != WriteOutcome::Conflict {
                return Ok(());
            }
        }
        Err(StateError::Contended(workspace.into()))
    }
}
