//! The protocol between the server and the agent in a workspace, over the Unix socket `agent.sock`.
//!
//! The server listens, and the agent dials. Over that connection the agent serves HTTP/2 (without TLS, begun with the client's
//! preface), and the server is its client. Request bodies are JSON; an execution responds with server-sent events ([`sse`]) that
//! carry [`AgentEvent`]. The agent starts the driver's program and carries lines to its standard input and from its standard output;
//! what they mean is between the server and the driver. Server and agent depend on this crate, and it depends on neither.

mod event;
pub mod sse;

use std::collections::BTreeMap;

pub use event::{AgentEvent, Ended, How};
use serde::{Deserialize, Serialize};

/// Version of this protocol. A workspace's container is labelled with it. In version 1 the agent listened on `agent.sock` and the
/// server connected to it, with HTTP/1.1. In version 2 the container's environment named the model's provider. In version 3 the agent
/// spoke with the driver itself, and each execution was one turn.
pub const PROTOCOL: u32 = 4;
/// How many requests may be under way on one connection.
pub const STREAMS: u32 = 64;
/// Directory in the container that holds both sockets. It is mounted read-only.
pub const ROOM_SOCKET_DIR: &str = "/var/run/ws";
/// Name of the socket in [`ROOM_SOCKET_DIR`] that the agent dials. The server listens on it.
pub const AGENT_SOCKET: &str = "agent.sock";
/// Name of the egress proxy's socket in [`ROOM_SOCKET_DIR`]. The server listens on it.
pub const PROXY_SOCKET: &str = "proxy.sock";
/// Address in the container on which the loopback bridge to the egress proxy listens.
pub const BRIDGE_ADDR: &str = "127.0.0.1:8080";
/// The workspace directory in the container; the default working directory of an execution.
pub const WORKSPACE_DIR: &str = "/workspace";
/// Header of `POST /execute` with the id of the API request that caused the execution.
pub const REQUEST_ID: &str = "x-request-id";
/// Seconds after which an execution that is not parked is cancelled if no reader is connected.
pub const ABANDONED_AFTER_SECS: u64 = 60;

/// Response body of `GET /health`. The status is 200 only if the agent is ready for an execution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Always `ok`.
    pub status: String,
    /// Version of the agent program.
    pub version: String,
    /// Program that conducts the conversation with the model, for example `claude-code-cli`.
    pub driver: String,
    /// Version that the driver reports; `None` if it is not installed or reports none.
    pub cli_version: Option<String>,
    /// Version of the protocol that the agent speaks; 0 for agents that do not report it, which speak an earlier one.
    #[serde(default)]
    pub protocol: u32,
    /// Id of the execution of which a turn is running; `None` where none is, and from agents that do not report it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution: Option<String>,
    /// Id of the execution that is parked; `None` where none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parked: Option<String>,
}

/// Body of `POST /execute`: starts the driver's program.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecuteRequest {
    /// The program, by its whole path; the image's CLI by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// Arguments of the program.
    #[serde(default)]
    pub arguments: Vec<String>,
    /// Variables over those of the container; `None` removes one. None is a secret.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, Option<String>>,
    /// The first lines of the program's input. More follow by `POST /executions/{id}/input`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub input: Vec<String>,
    /// Working directory; [`WORKSPACE_DIR`] by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
}

/// Body of `POST /executions/{id}/input`: lines for the program's standard input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputRequest {
    /// Id of these lines. Lines whose id the agent has seen already are not written again, so a request may be repeated.
    pub id: String,
    /// The lines.
    pub lines: Vec<String>,
}

/// Body of `POST /executions/{id}/park`: between two turns only the driver's own process runs, and nobody need read its output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParkRequest {
    /// How long the driver waits for its next input before it is ended, in seconds.
    pub seconds: u64,
}

/// One line of the response to `GET /files`: one entry per regular file below [`WORKSPACE_DIR`], then an end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum FileEntry {
    /// A regular file whose path is valid UTF-8.
    File {
        /// Path relative to the workspace directory.
        path: String,
        /// Size in bytes.
        size: u64,
        /// Time of the last status change (`st_ctime`) in nanoseconds since the Unix epoch. No process in the container can set it.
        version: i64,
        /// Permission bits.
        mode: u32,
    },
    /// The end of the list.
    End {
        /// Whether the list is complete: `false` if a directory could not be read or a name is not valid UTF-8.
        whole: bool,
    },
}

/// Body of every error response of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentFault {
    /// Description of the error, for logs.
    pub error: String,
}
