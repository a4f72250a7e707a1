//! Events of the audit trail. docs/security.md documents each of them.

use serde::Serialize;

use crate::metrics::RunOutcome;

/// The workspace, conversation and tenant that an event is about.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Subject<'a> {
    /// The workspace's id; `None` where there is none yet.
    pub workspace: Option<&'a str>,
    /// The conversation's id; `None` for a workspace of the warm pool.
    pub conversation: Option<&'a str>,
    /// The id of the conversation's tenant.
    pub tenant: Option<&'a str>,
}

/// What was done with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// Written by a client.
    In,
    /// Read by a client.
    Out,
    /// Deleted by a client.
    Delete,
}

/// An event of the audit trail.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event<'a> {
    /// A workspace is ready.
    RoomCreated {
        /// What the event is about.
        #[serde(flatten)]
        subject: Subject<'a>,
    },
    /// A conversation was given a workspace of the warm pool.
    RoomAssigned {
        /// What the event is about.
        #[serde(flatten)]
        subject: Subject<'a>,
    },
    /// This server took over a workspace of another server, or of its own earlier process.
    RoomAdopted {
        /// What the event is about.
        #[serde(flatten)]
        subject: Subject<'a>,
    },
    /// A workspace was lost during a run.
    RoomCrashed {
        /// What the event is about.
        #[serde(flatten)]
        subject: Subject<'a>,
        /// The run's id.
        run: &'a str,
        /// `X-Request-ID` of the request that caused it.
        request_id: Option<&'a str>,
        /// What went wrong, for people: for example that the agent's connection broke.
        reason: &'a str,
    },
    /// A workspace and everything that belonged to it is gone.
    RoomDestroyed {
        /// What the event is about.
        #[serde(flatten)]
        subject: Subject<'a>,
        /// Reason code of the release, for example `idle`.
        reason: &'static str,
    },
    /// A client started a run.
    RunStarted {
        /// What the event is about.
        #[serde(flatten)]
        subject: Subject<'a>,
        /// The run's id.
        run: &'a str,
        /// `X-Request-ID` of the request that caused it.
        request_id: Option<&'a str>,
        /// The client's name for the user (`executor.user_id`).
        user: Option<&'a str>,
        /// The model's id.
        model: &'a str,
    },
    /// What the driver of a run asked is decided, or is not waited for any more.
    Approval {
        /// What the event is about.
        #[serde(flatten)]
        subject: Subject<'a>,
        /// The run's id.
        run: &'a str,
        /// Id of the question.
        approval: &'a str,
        /// `allow`, `deny`, `answered`, `timeout` or `withdrawn`.
        decision: &'a str,
        /// Who decided: the name of a key, or the subject of a token.
        by: Option<&'a str>,
    },
    /// A run has ended.
    RunEnded {
        /// What the event is about.
        #[serde(flatten)]
        subject: Subject<'a>,
        /// The run's id.
        run: &'a str,
        /// `X-Request-ID` of the request that caused it.
        request_id: Option<&'a str>,
        /// Outcome of the run.
        status: RunOutcome,
        /// Input tokens, those that were read from the cache or written to it included.
        input_tokens: u64,
        /// Output tokens.
        output_tokens: u64,
        /// Input tokens that were written to the cache for five minutes.
        cache_creation_5m_tokens: u64,
        /// Input tokens that were written to the cache for an hour.
        cache_creation_1h_tokens: u64,
        /// Input tokens that were read from the cache.
        cache_read_tokens: u64,
        /// Cost in USD, a decimal.
        cost_usd: &'a str,
        /// Duration in milliseconds.
        duration_ms: u64,
    },
    /// An egress request or tunnel has ended.
    Egress {
        /// What the event is about.
        #[serde(flatten)]
        subject: Subject<'a>,
        /// HTTP method.
        method: &'a str,
        /// Requested host; empty where the request named none that could be read.
        host: &'a str,
        /// Requested port.
        port: u16,
        /// `allowed`, `denied` or `failed`.
        decision: &'static str,
        /// Reason code of a denial or failure, for example `not_allowed`; `None` if the request succeeded.
        reason: Option<&'static str>,
        /// Rule that decided.
        rule: Option<&'a str>,
        /// Whose rule it is: `operator`, `tenant` or `conversation`.
        layer: Option<&'a str>,
        /// Name of the policy that the workspace had: the id of its tenant.
        policy: Option<&'a str>,
        /// The operation of a credential or a model's endpoint that the request is.
        operation: Option<&'a str>,
        /// Id of the credential that was added or that refused the request.
        credential: Option<&'a str>,
        /// Status code of the answer.
        status: u16,
        /// Bytes sent by the workspace.
        bytes_up: u64,
        /// Bytes sent to the workspace.
        bytes_down: u64,
        /// Duration in milliseconds.
        duration_ms: u64,
        /// Number of requests this event stands for: more than 1 for refusals of one kind beyond a workspace's rate.
        count: u64,
    },
    /// A client read, wrote or deleted a file.
    File {
        /// What the event is about.
        #[serde(flatten)]
        subject: Subject<'a>,
        /// What was done.
        way: Way,
        /// Path below the workspace's working directory.
        path: &'a str,
        /// Size in bytes.
        bytes: u64,
        /// `X-Request-ID` of the request that caused it.
        request_id: Option<&'a str>,
    },
    /// A request to change something that only operators may change.
    Operator {
        /// HTTP method.
        method: &'a str,
        /// Path of the request, without its query.
        path: &'a str,
        /// Status code of the answer.
        status: u16,
        /// `X-Request-ID` of the request that caused it.
        request_id: &'a str,
        /// Position of the key in `API_KEYS`, from 1; `None` for another key, or for none.
        key: Option<usize>,
        /// Id of a key that was created at run time.
        key_id: Option<&'a str>,
        /// Owner of a token, as the issuer names them.
        subject: Option<&'a str>,
        /// Tenant of the key; `None` for an operator's key.
        tenant: Option<&'a str>,
    },
    /// A key was created, changed or revoked.
    Key {
        /// `created`, `changed`, `rotated` or `revoked`.
        change: &'static str,
        /// Id of the key; of the new one, for a rotation.
        key_id: &'a str,
        /// Id of the key that a rotation replaces.
        replaces: Option<&'a str>,
        /// Tenant of the key; `None` for an operator's key.
        tenant: Option<&'a str>,
        /// What the key may be used for, as words.
        scopes: &'a [&'static str],
        /// `X-Request-ID` of the request that caused it.
        request_id: &'a str,
    },
    /// Lines before this one could not be written.
    Lost {
        /// Number of lost lines.
        lines: u64,
    },
}
