//! The events of one execution.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One event of an execution. The SSE `event:` name is the variant in snake case; the payload carries the same name as
/// `type`. The first is always [`AgentEvent::Started`]; the last is exactly one [`AgentEvent::Result`] or
/// [`AgentEvent::Error`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum AgentEvent {
    /// The execution exists and can be followed or cancelled under this id.
    Started {
        /// Names the execution under `/executions/{id}`.
        execution_id: String,
    },
    /// The driver is up.
    System {
        /// Session that a later execution in the same room may continue.
        session_id: String,
        /// Model that the driver will call.
        model: String,
        /// Tools it has.
        tools: Vec<String>,
    },
    /// A whole block of the model's answer.
    Assistant {
        /// The blocks, in order.
        content_blocks: Vec<ContentBlock>,
        /// Set where a sub-agent speaks: the tool use that started it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        parent_tool_use_id: Option<String>,
    },
    /// A piece of text as it arrives; the whole text still comes as [`AgentEvent::Assistant`].
    TextDelta {
        /// The piece.
        text: String,
    },
    /// The model's visible reasoning.
    Thinking {
        /// The text.
        content: String,
        /// As in [`AgentEvent::Assistant`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        parent_tool_use_id: Option<String>,
    },
    /// The model calls a tool.
    ToolUse {
        /// Pairs this with its [`AgentEvent::ToolResult`].
        tool_use_id: String,
        /// For example `Bash`.
        tool_name: String,
        /// The tool's arguments, as the model gave them.
        input: Value,
        /// As in [`AgentEvent::Assistant`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        parent_tool_use_id: Option<String>,
    },
    /// A tool answered.
    ToolResult {
        /// Pairs this with its [`AgentEvent::ToolUse`].
        tool_use_id: String,
        /// What the tool said, flattened to text.
        content: String,
        /// Whether the tool failed.
        is_error: bool,
        /// As in [`AgentEvent::Assistant`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        parent_tool_use_id: Option<String>,
    },
    /// The execution ended by the driver's own word.
    Result {
        /// Whether the driver calls it a failure.
        is_error: bool,
        /// The final answer, or the failure's text.
        result: String,
        /// Session that a later execution in the same room may continue.
        session_id: String,
        /// Tokens of all model calls of this execution.
        usage: Usage,
        /// Model turns taken.
        num_turns: u32,
        /// Wall-clock time by the driver's account.
        duration_ms: u64,
    },
    /// The execution ended otherwise.
    Error {
        /// Which way.
        error_type: ErrorKind,
        /// For a person; for [`ErrorKind::ExecutionError`] it carries the tail of the driver's stderr.
        message: String,
    },
}

impl AgentEvent {
    /// The SSE `event:` name.
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
            Self::Result { .. } => "result",
            Self::Error { .. } => "error",
        }
    }

    /// Whether nothing follows this event.
    #[must_use]
    pub fn is_last(&self) -> bool {
        matches!(self, Self::Result { .. } | Self::Error { .. })
    }
}

/// A block of an assistant message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ContentBlock {
    /// Prose.
    Text {
        /// The prose.
        text: String,
    },
}

/// Tokens, by the model endpoint's account (Anthropic Messages API, `usage`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Uncached input tokens.
    pub input_tokens: u64,
    /// Output tokens.
    pub output_tokens: u64,
    /// Tokens written to the five-minute cache.
    pub cache_creation_5m_tokens: u64,
    /// Tokens written to the one-hour cache.
    pub cache_creation_1h_tokens: u64,
    /// Tokens read from the cache.
    pub cache_read_tokens: u64,
}

impl Usage {
    /// Sum of all kinds.
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
    /// The driver's program is not in the image.
    SdkNotInstalled,
    /// The driver refused its options.
    OptionsError,
    /// The driver failed or ended early.
    ExecutionError,
    /// Somebody asked for the end, or nobody listened any more.
    Cancelled,
}
