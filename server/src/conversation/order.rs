//! The order for a run: everything a client has asked for.

use std::collections::BTreeMap;

use nagaya_driver::{ClientTool, Permissions};
use nagaya_telemetry::audit::Subject;
use serde::{Deserialize, Serialize};

use super::content::Part;
use super::cost::Usd;
use super::skills::Chosen;
use super::store::{Conversation, Model, Tenant};
use super::uploads::Uploaded;

/// A client's order for a run, as it is kept in the run's journal.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Order {
    /// The conversation to run in.
    pub conversation: Conversation,
    /// The conversation's tenant.
    pub tenant: Tenant,
    /// The model to use.
    pub model: Model,
    /// The user's prompt.
    pub user_input: String,
    /// Id of the HTTP request that started the run.
    #[serde(default)]
    pub request_id: Option<String>,
    /// The client's name for the user.
    #[serde(default)]
    pub user: Option<String>,
    /// What the run may do, as it was decided when it was ordered.
    #[serde(default)]
    pub bounds: Bounds,
    /// Tools that the caller itself carries out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub client_tools: Vec<ClientTool>,
    /// What the message has beside its text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub content: Vec<Part>,
    /// Whether the prompt is a command of the driver's own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub command: bool,
    /// Files uploaded with the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uploads: Option<Uploaded>,
}

/// What a run may do.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Bounds {
    /// Names of the driver's tools that it may use; all if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<String>>,
    /// Requests to the model, at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_turns: Option<u32>,
    /// Models that stand in for the run's, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fallbacks: Vec<Model>,
    /// How much effort the model spends, in the driver's words; its default if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effort: Option<String>,
    /// What follows the tenant's system prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
    /// JSON Schema of the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_schema: Option<serde_json::Value>,
    /// Directory in which the agent works, relative to the workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// Variables of the environment of the agent's tools.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
    /// Skills that the agent has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skills: Vec<Chosen>,
    /// Cost in USD at which the run is stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_cost: Option<Usd>,
    /// Longest time in seconds; the deployment's if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
    /// What the agent asks about before it does it, and what it never does.
    #[serde(default)]
    pub permissions: Permissions,
    /// Servers of the Model Context Protocol that the agent may use: their addresses by their names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub mcp_servers: BTreeMap<String, String>,
    /// Everything that applied, each value with where it came from.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub applied: serde_json::Value,
}

impl Order {
    /// What the user has sent, as it is shown: of files and other content only what they are.
    pub(super) fn message(&self) -> serde_json::Value {
        let mut message = serde_json::json!({"text": self.user_input});
        if let Some(uploads) = &self.uploads {
            message["files"] = serde_json::json!(uploads.files);
        }
        if !self.content.is_empty() {
            message["content"] = self.content.iter().map(Part::description).collect();
        }
        if self.command {
            message["command"] = true.into();
        }
        message
    }

    /// Subject of the run's entries in the audit trail; `workspace` is the id of its room, once it has one.
    pub(super) fn subject<'a>(&'a self, workspace: Option<&'a str>) -> Subject<'a> {
        let conversation = &self.conversation;
        Subject { workspace, conversation: Some(&conversation.conversation_id), tenant: Some(&conversation.tenant_id) }
    }
}
