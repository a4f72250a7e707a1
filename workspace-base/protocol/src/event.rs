//! The events of one execution.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One event of an execution. The SSE `event:` field is the variant's name in snake case, and so is `type` in the payload. The first
/// event is always [`AgentEvent::Started`]; the last is the only [`AgentEvent::Result`] or [`AgentEvent::Error`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum AgentEvent {
    /// The execution has started and can be followed or cancelled by its id.
    Started {
        /// Id of the execution in `/executions/{id}`.
        execution_id: String,
    },
    /// The driver has started.
    System {
        /// Session that a later execution in the same workspace may continue.
        session_id: String,
        /// Model that the driver will call.
        model: String,
        /// Tools that the driver offers to the model.
        tools: Vec<String>,
    },
    /// A complete message of the model.
    Assistant {
        /// The content blocks in order.
        content_blocks: Vec<ContentBlock>,
        /// For a message of a sub-agent, the tool use that started it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        parent_tool_use_id: Option<String>,
    },
    /// A fragment of text as it is generated. The complete text follows as [`AgentEvent::Assistant`].
    TextDelta {
        /// The fragment of text.
        text: String,
    },
    /// The model's visible reasoning.
    Thinking {
        /// The text of the reasoning.
        content: String,
        /// As in [`AgentEvent::Assistant`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        parent_tool_use_id: Option<String>,
    },
    /// The model calls a tool.
    ToolUse {
        /// Id that the [`AgentEvent::ToolResult`] repeats.
        tool_use_id: String,
        /// Name of the tool, for example `Bash`.
        tool_name: String,
        /// Arguments of the tool, as the model gave them.
        input: Value,
        /// As in [`AgentEvent::Assistant`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        parent_tool_use_id: Option<String>,
    },
    /// A tool has returned.
    ToolResult {
        /// Id of the [`AgentEvent::ToolUse`].
        tool_use_id: String,
        /// Output of the tool, flattened to text.
        content: String,
        /// Whether the tool failed.
        is_error: bool,
        /// As in [`AgentEvent::Assistant`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        parent_tool_use_id: Option<String>,
    },
    /// A call of the model has failed, and the driver tries again.
    Retry {
        /// Number of the attempt that follows, from 1; 0 where the driver does not say.
        attempt: u32,
        /// How many attempts the driver makes at most; 0 where it does not say.
        most: u32,
        /// Milliseconds until that attempt.
        delay_ms: u64,
        /// HTTP status of the model endpoint's answer; `None` where there was none, or the answer broke off.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        status: Option<u16>,
        /// The driver's word for the failure, for example `rate_limit`.
        reason: String,
    },
    /// Tokens of all model calls of this execution so far, as far as they have been reported. [`AgentEvent::Result`] has the final
    /// count; an execution that is cut off has only this.
    Usage {
        /// The sum so far.
        usage: Usage,
    },
    /// The driver has reported a result; the execution has ended.
    Result {
        /// Whether the driver reports a failure.
        is_error: bool,
        /// The final answer, or the description of the failure.
        result: String,
        /// Session that a later execution in the same workspace may continue.
        session_id: String,
        /// Tokens of all model calls of this execution.
        usage: Usage,
        /// Number of model turns.
        num_turns: u32,
        /// Duration in milliseconds, as the driver reports it.
        duration_ms: u64,
        /// Whether the driver gave up because calls of the model failed.
        #[serde(default)]
        model_failed: bool,
        /// HTTP status of the last of these calls; `None` where there was none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        model_status: Option<u16>,
    },
    /// The execution ended without a result of the driver.
    Error {
        /// Kind of the error.
        error_type: ErrorKind,
        /// Description of the error; for [`ErrorKind::ExecutionError`] with the end of the driver's standard error.
        message: String,
    },
}

impl AgentEvent {
    /// Name of the event in the SSE `event:` field.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Started { .. } => "started",
            Self::System { .. } => "system",
            Self::Assistant { .. } => "assistant",
            Self::TextDelta { .. } => "text_delta",
            Self::Thinking { .. } => "thinking",
            Self::ToolUse { .. } => "tool_use",
            Self::ToolResult { .. } => "tool_result",
            Self::Retry { .. } => "retry",
            Self::Usage { .. } => "usage",
            Self::Result { .. } => "result",
            Self::Error { .. } => "error",
        }
    }

    /// Whether this is the last event of an execution.
    #[must_use]
    pub fn is_last(&self) -> bool {
        matches!(self, Self::Result { .. } | Self::Error { .. })
    }
}

/// A block of an assistant message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ContentBlock {
    /// Text of the answer.
    Text {
        /// The text of the block.
        text: String,
    },
}

/// Tokens, as the model endpoint counts them (Anthropic Messages API, `usage`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Input tokens that were not cached.
    pub input_tokens: u64,
    /// Tokens that the model generated.
    pub output_tokens: u64,
    /// Tokens written to the five-minute cache.
    pub cache_creation_5m_tokens: u64,
    /// Tokens written to the one-hour cache.
    pub cache_creation_1h_tokens: u64,
    /// Tokens read from the cache.
    pub cache_read_tokens: u64,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.input_tokens = self.input_tokens.saturating_add(other.input_tokens);
        self.output_tokens = self.output_tokens.saturating_add(other.output_tokens);
        self.cache_creation_5m_tokens = self.cache_creation_5m_tokens.saturating_add(other.cache_creation_5m_tokens);
        self.cache_creation_1h_tokens = self.cache_creation_1h_tokens.saturating_add(other.cache_creation_1h_tokens);
        self.cache_read_tokens = self.cache_read_tokens.saturating_add(other.cache_read_tokens);
    }
}

impl Usage {
    /// Sum of all kinds of tokens.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.input_tokens
            + self.output_tokens
            + self.cache_creation_5m_tokens
            + self.cache_creation_1h_tokens
            + self.cache_read_tokens
    }
}

/// Why an execution ended without a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The driver's program does not exist in the image.
    SdkNotInstalled,
    /// The driver rejected its options.
    OptionsError,
    /// The driver failed or exited without a result.
    ExecutionError,
    /// The execution was cancelled, or had no connected reader for too long.
    Cancelled,
    /// The driver does not have the session that it was to continue. It has not called the model.
    SessionLost,
    /// The kernel killed a process of the execution because the container's memory was used up.
    OutOfMemory,
    /// The model's endpoint refuses the credentials.
    ModelCredentials,
}
