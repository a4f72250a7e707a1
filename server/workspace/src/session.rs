//! What a run leaves of its driver in a room, for the conversation's next run.

use serde::{Deserialize, Serialize};

/// The driver's session, and its process if that still lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Id of the session, which a new process of the driver in the same room can continue.
    pub id: String,
    /// The process that waits for the next turn.
    pub living: Option<Living>,
}

impl Session {
    /// A session whose driver has ended.
    #[must_use]
    pub fn ended(id: impl Into<String>) -> Self {
        Self { id: id.into(), living: None }
    }

    /// The driver of a room that has no conversation, as the room's record has it.
    pub(crate) fn of_nobody(living: Living) -> Self {
        Self { id: String::new(), living: Some(living) }
    }
}

/// A driver's process that waits for its next turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Living {
    /// The agent's id of the execution.
    pub execution: String,
    /// Number of the last of its events that has been read.
    pub read: u64,
    /// What it was started with, as a digest. A turn with other options needs another process.
    pub options: String,
}
