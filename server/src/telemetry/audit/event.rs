//! What can be in the audit trail; docs/security.md describes it for its readers.

use serde::Serialize;

use crate::telemetry::metrics::RunOutcome;

/// Whose something is.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Whose<'a> {
    /// The room; `None` where there is none yet.
    pub workspace: Option<&'a str>,
    /// The conversation; `None` for a room of the pool.
    pub conversation: Option<&'a str>,
    /// The conversation's tenant.
    pub tenant: Option<&'a str>,
}

/// Which way a file goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// Into the conversation's files.
    In,
    /// Out to whoever asked.
    Out,
    /// It is removed.
    Delete,
}

/// What can be in the trail; docs/security.md describes each for its readers.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event<'a> {
    /// A room stands ready.
    RoomCreated {
        /// Whose it is.
        #[serde(flatten)]
        whose: Whose<'a>,
    },
    /// A conversation has got a room that waited.
    RoomAssigned {
        /// Whose it is.
        #[serde(flatten)]
        whose: Whose<'a>,
    },
    /// A room that another server, or an earlier life of this one, had.
    RoomAdopted {
        /// Whose it is.
        #[serde(flatten)]
        whose: Whose<'a>,
    },
    /// A room was lost under a run.
    RoomCrashed {
        /// Whose it is.
        #[serde(flatten)]
        whose: Whose<'a>,
        /// The run's id.
        run: &'a str,
        /// The request that asked for it.
        request_id: Option<&'a str>,
        /// Why.
        reason: &'a str,
    },
    /// Nothing is left of a room.
    RoomDestroyed {
        /// Whose it is.
        #[serde(flatten)]
        whose: Whose<'a>,
        /// Why.
        reason: &'static str,
    },
    /// Somebody has asked for a run.
    RunStarted {
        /// Whose it is.
        #[serde(flatten)]
        whose: Whose<'a>,
        /// The run's id.
        run: &'a str,
        /// The request that asked for it.
        request_id: Option<&'a str>,
        /// The user, as the client calls them.
        user: Option<&'a str>,
        /// The model's id.
        model: &'a str,
    },
    /// A run is over.
    RunEnded {
        /// Whose it is.
        #[serde(flatten)]
        whose: Whose<'a>,
        /// The run's id.
        run: &'a str,
        /// The request that asked for it.
        request_id: Option<&'a str>,
        /// How it ended, or was answered.
        status: RunOutcome,
        /// Tokens read.
        input_tokens: u64,
        /// Tokens written.
        output_tokens: u64,
        /// How long it took, in milliseconds.
        duration_ms: u64,
    },
    /// A request of a room, or its tunnel, has ended.
    Egress {
        /// Whose it is.
        #[serde(flatten)]
        whose: Whose<'a>,
        /// HTTP method.
        method: &'a str,
        /// Host asked for; empty where none could be read.
        host: &'a str,
        /// Port asked for.
        port: u16,
        /// `allowed`, `denied` or `failed`.
        decision: &'static str,
        /// Why.
        reason: Option<&'static str>,
        /// Rule of the allow-list that decided.
        rule: Option<&'a str>,
        /// How it ended, or was answered.
        status: u16,
        /// Bytes from the room.
        bytes_up: u64,
        /// Bytes to the room.
        bytes_down: u64,
        /// How long it took, in milliseconds.
        duration_ms: u64,
    },
    /// A file went in or out, or was removed.
    File {
        /// Whose it is.
        #[serde(flatten)]
        whose: Whose<'a>,
        /// Which way.
        way: Way,
        /// Path below the conversation's working directory.
        path: &'a str,
        /// Its size.
        bytes: u64,
        /// The request that asked for it.
        request_id: Option<&'a str>,
    },
    /// Something was changed, or tried to be, that is an operator's to change.
    Operator {
        /// HTTP method.
        method: &'a str,
        /// Without a query.
        path: &'a str,
        /// How it ended, or was answered.
        status: u16,
        /// The request that asked for it.
        request_id: &'a str,
        /// Place of the key in `API_KEYS`, from 1; `None` where there are no keys.
        key: Option<usize>,
        /// Whose key it was; `None` for an operator's.
        tenant: Option<&'a str>,
    },
    /// So many lines before this one could not be kept.
    Lost {
        /// How many.
        lines: u64,
    },
}
