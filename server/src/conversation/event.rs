//! The events a client sees.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// One event of a run's stream, as CONTRACT §2 names them. The SSE `event:` name is the variant in snake case.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = RunEventData)]
pub enum Event {
    /// Something is going on that may take a while.
    Progress {
        /// What kind of thing.
        #[serde(rename = "type")]
        kind: ProgressKind,
        /// For a person.
        message: String,
        /// The tool at work.
        #[serde(skip_serializing_if = "Option::is_none")]
        tool_use_id: Option<String>,
        /// Its name.
        #[serde(skip_serializing_if = "Option::is_none")]
        tool_name: Option<String>,
        /// What it is doing.
        #[serde(skip_serializing_if = "Option::is_none")]
        tool_status: Option<&'static str>,
    },
    /// The driver is up.
    Init {
        /// Driver's session.
        session_id: String,
        /// Tools the model may use.
        tools: Vec<String>,
        /// Model that will be called.
        model: String,
        /// The conversation.
        conversation_id: String,
        /// The request that asked for the run.
        #[serde(skip_serializing_if = "Option::is_none")]
        request_id: Option<String>,
    },
    /// A whole block of the model's answer.
    Assistant {
        /// The blocks: `{"type": "text", "text": …}`.
        #[schema(value_type = Vec<Object>)]
        content_blocks: Vec<nagaya_protocol::ContentBlock>,
        /// The sub-agent that speaks.
        #[serde(skip_serializing_if = "Option::is_none")]
        parent_agent_id: Option<String>,
    },
    /// Text as it arrives.
    TextDelta {
        /// The piece.
        text: String,
    },
    /// The model's visible reasoning.
    Thinking {
        /// The text.
        content: String,
        /// The sub-agent that thinks.
        #[serde(skip_serializing_if = "Option::is_none")]
        parent_agent_id: Option<String>,
    },
    /// The model calls a tool.
    ToolCall {
        /// Pairs call and result.
        tool_use_id: String,
        /// The tool.
        tool_name: String,
        /// Its arguments.
        #[schema(value_type = Object)]
        input: Value,
        /// One line for a person.
        summary: String,
        /// The sub-agent that calls.
        #[serde(skip_serializing_if = "Option::is_none")]
        parent_agent_id: Option<String>,
    },
    /// A tool answered.
    ToolResult {
        /// Pairs call and result.
        tool_use_id: String,
        /// The tool.
        tool_name: String,
        /// `completed` or `error`.
        status: &'static str,
        /// What it said.
        content: String,
        /// Whether it failed.
        is_error: bool,
        /// The sub-agent that called.
        #[serde(skip_serializing_if = "Option::is_none")]
        parent_agent_id: Option<String>,
    },
    /// A sub-agent starts.
    SubagentStart {
        /// Its id: the tool use that started it.
        agent_id: String,
        /// What sort it is.
        agent_type: String,
        /// What it is to do.
        description: String,
        /// Its model, where it has one of its own.
        #[serde(skip_serializing_if = "Option::is_none")]
        model: Option<String>,
    },
    /// A sub-agent ended.
    SubagentEnd {
        /// Its id.
        agent_id: String,
        /// `completed` or `error`.
        status: &'static str,
        /// The beginning of its answer.
        #[serde(skip_serializing_if = "Option::is_none")]
        result_preview: Option<String>,
    },
    /// The conversation got a title.
    Title {
        /// It.
        title: String,
    },
    /// Still there.
    Ping {
        /// Since the run began.
        elapsed_ms: u64,
    },
    /// How full the model's context is.
    ContextStatus {
        /// Estimate of what the next turn would send.
        current_context_tokens: u64,
        /// What the model takes.
        max_context_tokens: u64,
        /// The ratio.
        usage_percent: f64,
        /// `normal`, `warning`, `critical` or `blocked`.
        warning_level: &'static str,
        /// Whether another run may start.
        can_continue: bool,
    },
    /// Something went wrong.
    Error {
        /// Which sort of thing.
        error_type: ErrorType,
        /// For a person.
        message: String,
        /// Whether another run may go better.
        recoverable: bool,
    },
    /// The room was lost; a new one stands ready.
    ContainerRecovered {
        /// For a person.
        message: String,
        /// Always true.
        recovered: bool,
        /// Always true.
        retry_recommended: bool,
    },
    /// The run has ended. Always last, and only when true.
    Done(Done),
}

/// What goes on, in [`Event::Progress`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProgressKind {
    /// A room is being opened.
    Setup,
    /// The model is at work.
    Generating,
    /// A tool is at work.
    Tool,
}

/// What went wrong, in [`Event::Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorType {
    /// Another server runs something in the conversation.
    ConversationLocked,
    /// The driver is not in the image.
    SdkNotInstalled,
    /// The driver refused its options.
    OptionsError,
    /// The driver, or the room, failed.
    ExecutionError,
    /// The run's time was up.
    TimeoutError,
    /// No room could be had.
    WorkspaceError,
    /// Files were not brought into the room, or not taken out of it. The run goes on.
    StorageError,
    /// The server stops.
    ServerStopping,
    /// A bug of ours.
    InternalError,
}

/// The last event.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Done {
    /// How the run ended.
    pub status: DoneStatus,
    /// The final answer.
    pub result: String,
    /// Whether it is a failure.
    pub is_error: bool,
    /// Messages of all `error` events.
    pub errors: Vec<String>,
    /// Tokens: `input_tokens`, `output_tokens`, `cache_creation_5m_tokens`, `cache_creation_1h_tokens`, `cache_read_tokens`,
    /// `total_tokens`.
    #[schema(value_type = Object)]
    pub usage: UsageReport,
    /// USD, as a decimal.
    pub cost_usd: String,
    /// Model turns.
    pub turn_count: u32,
    /// Since the run began.
    pub duration_ms: u64,
    /// Driver's session, if it came to one.
    pub session_id: Option<String>,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DoneStatus {
    /// Well.
    Success,
    /// Not well.
    Error,
    /// Because somebody wanted it.
    Cancelled,
}

/// Tokens of a run, with their sum.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct UsageReport {
    /// By kind.
    #[serde(flatten)]
    pub usage: nagaya_protocol::Usage,
    /// Their sum.
    pub total_tokens: u64,
}

impl From<nagaya_protocol::Usage> for UsageReport {
    fn from(usage: nagaya_protocol::Usage) -> Self {
        Self { usage, total_tokens: usage.total() }
    }
}

impl Event {
    /// The SSE `event:` name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Progress { .. } => "progress",
            Self::Init { .. } => "init",
            Self::Assistant { .. } => "assistant",
            Self::TextDelta { .. } => "text_delta",
            Self::Thinking { .. } => "thinking",
            Self::ToolCall { .. } => "tool_call",
            Self::ToolResult { .. } => "tool_result",
            Self::SubagentStart { .. } => "subagent_start",
            Self::SubagentEnd { .. } => "subagent_end",
            Self::Title { .. } => "title",
            Self::Ping { .. } => "ping",
            Self::ContextStatus { .. } => "context_status",
            Self::Error { .. } => "error",
            Self::ContainerRecovered { .. } => "container_recovered",
            Self::Done(_) => "done",
        }
    }

    /// A room is being opened.
    #[must_use]
    pub fn setup(message: impl Into<String>) -> Self {
        Self::progress(ProgressKind::Setup, message)
    }

    /// Something goes on that no tool does.
    #[must_use]
    pub fn progress(kind: ProgressKind, message: impl Into<String>) -> Self {
        Self::Progress { kind, message: message.into(), tool_use_id: None, tool_name: None, tool_status: None }
    }
}
