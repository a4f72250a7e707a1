//! Shared state: whose a room is, who is just making one, and how large the pool should be.
//!
//! It is an index over the engine's truth. The engine's labels say which rooms exist; a record adds what a label cannot
//! hold because it changes: the conversation, the driver's session, the server that has the room. A lost record costs a
//! room, never a conversation, and the server that has the room writes it again.
//!
//! [`Embedded`] keeps it in a file, [`Redis`] where several servers reach it. One test suite runs over both
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

/// How often a change is tried again after somebody else's came between.
const ATTEMPTS: usize = 16;

/// How many rooms wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolSize {
    /// So many are kept; 0 turns the pool off.
    pub min: usize,
    /// Never more than so many.
    pub max: usize,
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteOutcome {
    /// It was made.
    Written,
    /// The record was not, or is no longer, as the caller believed; nothing was changed.
    Conflict,
    /// The conversation already has another room; nothing was changed.
    ConversationTaken,
}

/// Why the shared state did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It does not answer, or not now.
    #[error("the shared state at {address}: {why}")]
    Unavailable {
        /// Where, without a password.
        address: String,
        /// What is wrong.
        why: String,
    },
    /// It does not let us in.
    #[error("the shared state at {address} refuses this server: {why}; set user and password in REDIS_URL")]
    Refused {
        /// Where, without a password.
        address: String,
        /// In its words.
        why: String,
    },
    /// The file does not do as asked.
    #[error("the workspace records: {0}")]
    File(#[from] sqlx::Error),
    /// Others change the record without end.
    #[error("the record of {0} is changed by others all the time")]
    Contended(String),
}

/// Records, locks, and the pool's size. No call waits for ever: each ends with an answer or an error within seconds.
///
/// A record that cannot be read is moved aside, told of by [`State::quarantined`], and counts as absent.
#[async_trait]
pub trait State: Debug + Send + Sync {
    /// Whether it answers.
    ///
    /// # Errors
    /// It does not.
    async fn ping(&self) -> Result<(), StateError>;

    /// A word that changes when records may have been lost; the first call after that sets a new one.
    ///
    /// # Errors
    /// It does not answer.
    async fn epoch(&self) -> Result<String, StateError>;

    /// Every record.
    ///
    /// # Errors
    /// They cannot be read.
    async fn records(&self) -> Result<Vec<Record>, StateError>;

    /// A room's record.
    ///
    /// # Errors
    /// It cannot be read.
    async fn record(&self, workspace: &str) -> Result<Option<Record>, StateError>;

    /// The record of the room a conversation has.
    ///
    /// # Errors
    /// It cannot be read.
    async fn record_by_conversation(&self, conversation: &str) -> Result<Option<Record>, StateError>;

    /// Compare-and-set: where a room's record is `old`, it becomes `new`; `None` is no record.
    ///
    /// # Errors
    /// Whether it was changed is not known.
    async fn compare_and_set(
        &self,
        workspace: &str,
        old: Option<&Record>,
        new: Option<&Record>,
    ) -> Result<WriteOutcome, StateError>;

    /// Puts off the time at which records go away by themselves.
    ///
    /// # Errors
    /// It does not answer.
    async fn refresh(&self, records: &[Record]) -> Result<(), StateError>;

    /// Takes, or holds on to, the lock of a conversation for `holder`; it ends by itself after `ttl`. `over` names a
    /// holder that is dead. Gives the holder that has it instead, `None` where it is ours.
    ///
    /// # Errors
    /// It does not answer.
    async fn lock(
        &self,
        conversation: &str,
        holder: &str,
        over: Option<&str>,
        ttl: Duration,
    ) -> Result<Option<String>, StateError>;

    /// Gives the lock of a conversation up, if `holder` has it.
    ///
    /// # Errors
    /// It does not answer; the lock ends by itself.
    async fn unlock(&self, conversation: &str, holder: &str) -> Result<(), StateError>;

    /// The pool's size as an operator has set it; `None` where nobody has.
    ///
    /// # Errors
    /// It cannot be read.
    async fn pool(&self) -> Result<Option<PoolSize>, StateError>;

    /// Sets the pool's size for every server.
    ///
    /// # Errors
    /// It was not set.
    async fn set_pool(&self, size: PoolSize) -> Result<(), StateError>;

    /// Records that could not be read and were moved aside, since the start, for a person; `None` where there was none.
    fn quarantined(&self) -> Option<String>;

    /// Lets go of connections and files.
    async fn close(&self);

    /// Writes a record as the room's owner: where there is none, or one of this owner's. [`WriteOutcome::Conflict`]: another has it.
    ///
    /// # Errors
    /// It was not written, as far as one knows.
    async fn put_owned(&self, record: &Record) -> Result<WriteOutcome, StateError> {
        for _ in 0..ATTEMPTS {
            let old = self.record(&record.workspace).await?;
            if old.as_ref().is_some_and(|old| old.owner != record.owner) {
                return Ok(WriteOutcome::Conflict);
            }
            match self.compare_and_set(&record.workspace, old.as_ref(), Some(record)).await? {
                WriteOutcome::Conflict => {}
                end => return Ok(end),
            }
        }
        Err(StateError::Contended(record.workspace.clone()))
    }

    /// Deletes a record as the room's owner. One that is gone, or another's, is fine.
    ///
    /// # Errors
    /// It was not deleted.
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
