//! What a client has asked to be run.

use nagaya_telemetry::audit::Subject;
use serde::{Deserialize, Serialize};

use super::store::{Conversation, Model, Tenant};
use super::uploads::Uploaded;

/// What is to be run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Order {
    /// In which conversation.
    pub conversation: Conversation,
    /// Whose it is.
    pub tenant: Tenant,
    /// With which model.
    pub model: Model,
    /// What the user asks for.
    pub user_input: String,
    /// The request that asked for it.
    #[serde(default)]
    pub request_id: Option<String>,
    /// The user, as the client calls them.
    #[serde(default)]
    pub user: Option<String>,
    /// Files that came with the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uploads: Option<Uploaded>,
}

impl Order {
    /// Whose the run is, for the audit trail; `workspace` is the room it is in.
    pub(super) fn subject<'a>(&'a self, workspace: Option<&'a str>) -> Subject<'a> {
        let conversation = &self.conversation;
        Subject { workspace, conversation: Some(&conversation.conversation_id), tenant: Some(&conversation.tenant_id) }
    }
}
