//! What a run waits for, and what has become of it, as clients see them.

use nagaya_driver::{Answer, Ask};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::approvals::{Decision, Pending};

/// Something that somebody outside the workspace decides, answers or carries out.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Asked {
    /// Id of the question, for the decision or the result.
    pub request_id: String,
    /// Id of the tool call that waits.
    pub tool_use_id: String,
    /// Name of the tool; of the caller's own tool, as the caller has declared it.
    pub tool_name: String,
    /// Arguments of the call; for a question, `questions`, each with its `options`.
    #[schema(value_type = Object)]
    pub input: Value,
    /// The driver's own description of the call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// When it is decided without anybody: a tool is then denied, a question has no answer, and the caller's tool has failed.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: jiff::Timestamp,
}

impl From<Pending> for Asked {
    fn from(Pending { ask, expires_at }: Pending) -> Self {
        let Ask { request_id, tool_use_id, tool_name, input, title, kind: _ } = ask;
        Self { request_id, tool_use_id, tool_name, input, title, expires_at }
    }
}

/// How a question of a run's was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Resolution {
    /// The tool was called, or the question was answered.
    Allow,
    /// The tool was not called.
    Deny,
    /// The result of the caller's tool was sent.
    Answered,
    /// Nobody decided in time.
    Timeout,
    /// The run no longer waits: it was cancelled, it has lost its workspace, or the driver no longer asks.
    Withdrawn,
}

impl Resolution {
    /// What a decision is.
    #[must_use]
    pub fn of(decision: &Decision) -> Self {
        match (&decision.answer, &decision.by) {
            (_, None) => Self::Timeout,
            (Answer::Allow { .. }, _) => Self::Allow,
            (Answer::Deny { .. }, _) => Self::Deny,
            (Answer::Result { .. }, _) => Self::Answered,
        }
    }
}
