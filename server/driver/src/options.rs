//! What a driver is started with.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Access;

/// How a driver is to work. A driver that runs goes on as it was started, so one whose options change is started anew.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Model id as the model's provider knows it (for Bedrock, a model or inference-profile id).
    pub model: String,
    /// Models that are asked, in this order, where that one is overloaded or not available.
    pub fallback_models: Vec<String>,
    /// How much effort the model spends, in the driver's words; its default if `None`.
    pub effort: Option<String>,
    /// JSON Schema of the result of each turn.
    pub output_schema: Option<serde_json::Value>,
    /// Working directory, absolute; the workspace's own if `None`.
    pub directory: Option<String>,
    /// Variables of the tools. None is a secret.
    pub environment: BTreeMap<String, String>,
    /// Where the model is called; as the container says if `None`.
    pub access: Option<Access>,
    /// The driver's session to continue; it must exist in the workspace.
    pub session: Option<String>,
    /// Appended to the driver's own system prompt.
    pub system_prompt: String,
    /// Maximum number of requests to the model in each turn.
    pub max_turns: Option<u32>,
    /// Tools that the driver may use, beside what it needs for its plugins; all by default.
    pub tools: Option<Vec<String>>,
    /// Which of them need somebody's consent.
    pub permissions: Permissions,
    /// MCP servers by name: their URLs, which the egress proxy upgrades to TLS.
    pub mcp_servers: BTreeMap<String, String>,
    /// Directories of plugins, absolute.
    pub plugins: Vec<String>,
    /// Tools that the caller itself carries out.
    pub client_tools: Vec<ClientTool>,
}

/// A tool that the caller itself carries out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientTool {
    /// Name of the tool.
    pub name: String,
    /// What the tool does, for the model.
    pub description: String,
    /// JSON Schema of its arguments, an object.
    pub input_schema: serde_json::Value,
}

/// Which tools need somebody's consent, and which may not be used. A rule is a tool's name, `Bash` or `mcp__server__tool`, the name of
/// all tools of an MCP server, `mcp__server`, or a name with the driver's own specifier in parentheses, `Bash(git push:*)`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permissions {
    /// Tools of which each call waits for a decision.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ask: Vec<String>,
    /// Tools that may not be used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
    /// Whether the model may ask the user questions, and wait for the answers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub questions: bool,
}
