//! What the server and the agent in a workspace say to each other over `agent.sock`.
//!
//! HTTP/1.1; requests are JSON, an execution answers with server-sent events ([`sse`]) whose names and payloads are
//! [`AgentEvent`]. Both sides depend on this crate and it depends on neither.

mod event;
pub mod sse;

pub use event::{AgentEvent, ContentBlock, ErrorKind, Usage};
use serde::{Deserialize, Serialize};

/// Directory, inside the room, that holds both sockets.
pub const ROOM_SOCKET_DIR: &str = "/var/run/ws";
/// Socket the agent listens on, inside [`ROOM_SOCKET_DIR`].
pub const AGENT_SOCKET: &str = "agent.sock";
/// Socket the server's egress proxy listens on, inside [`ROOM_SOCKET_DIR`].
pub const PROXY_SOCKET: &str = "proxy.sock";
/// Where, inside the room, the loopback bridge to the proxy listens.
pub const BRIDGE_ADDR: &str = "127.0.0.1:8080";
/// Where the room's work lives; the default working directory of an execution.
pub const WORKSPACE_DIR: &str = "/workspace";
/// Header of `POST /execute` that names the request to the service which it is for.
pub const REQUEST_ID: &str = "x-request-id";
/// Seconds after which an execution that nobody listens to is cancelled.
pub const ABANDONED_AFTER_SECS: u64 = 60;

/// Answer of `GET /health`: the agent is ready for an execution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Always `ok`; an agent that is not ready does not answer 200.
    pub status: String,
    /// Version of the agent binary.
    pub version: String,
    /// What runs the model conversation, for example `claude-code-cli`.
    pub driver: String,
    /// What the driver says its version is; `None` where it is not installed or does not say.
    pub cli_version: Option<String>,
    /// Id of the execution that is running; `None` where none is, and from agents that do not report it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution: Option<String>,
}

/// Body of `POST /execute`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecuteRequest {
    /// What the user asks for.
    pub user_input: String,
    /// Appended to the driver's own system prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_prompt: Option<String>,
    /// Model id as the driver's API knows it (for Bedrock, a model or inference-profile id).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// AWS region of the model; default is the room's `AWS_REGION`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Driver's session to continue; it must live in this room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// Upper bound on model turns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_turns: Option<u32>,
    /// Tools the driver may use; default all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_tools: Option<Vec<String>>,
    /// Working directory; default [`WORKSPACE_DIR`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
}

/// One line of the answer of `GET /files`: every regular file below [`WORKSPACE_DIR`], then an end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum FileEntry {
    /// A regular file whose path is text.
    File {
        /// Below the workspace.
        path: String,
        /// In bytes.
        size: u64,
        /// Nanoseconds of its last change (`st_ctime`), which nothing in the room can set back.
        version: i64,
        /// Permission bits.
        mode: u32,
    },
    /// The list ends.
    End {
        /// Whether it has everything: `false` where a directory could not be read, or a name is no text.
        whole: bool,
    },
}

/// Body of every answer of the agent that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentFault {
    /// What went wrong, for a log.
    pub error: String,
}
