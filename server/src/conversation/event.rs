//! The events of a run as a client receives them.

use nagaya_workspace::FilesFate;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::asked::{Asked, Resolution};

/// The data of one event of a run's stream. The SSE `event:` name is the variant's name in snake case.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = RunEventData)]
pub enum Event {
    /// Reports what the run is busy with.
    Progress {
        /// The kind of progress.
        #[serde(rename = "type")]
        kind: ProgressKind,
        /// Human-readable description of the activity.
        message: String,
        /// Id of the tool call, if a tool is running.
        #[serde(skip_serializing_if = "Option::is_none")]
        tool_use_id: Option<String>,
        /// Name of the tool, if one is running.
        #[serde(skip_serializing_if = "Option::is_none")]
        tool_name: Option<String>,
        /// State of the tool: always `running`.
        #[serde(skip_serializing_if = "Option::is_none")]
        tool_status: Option<&'static str>,
    },
    /// The driver in the workspace has started.
    Init {
        /// Id of the driver's session.
        session_id: String,
        /// Names of the tools that the model may use.
        tools: Vec<String>,
        /// Id of the model that the driver calls.
        model: String,
        /// The driver's own commands that a run may ask for, each with its slash.
        commands: Vec<String>,
        /// Id of the conversation.
        conversation_id: String,
        /// Id of the request that started the run.
        #[serde(skip_serializing_if = "Option::is_none")]
        request_id: Option<String>,
    },
    /// Complete content blocks of the model's answer.
    Assistant {
        /// The content blocks, each `{"type": "text", "text": …}`.
        #[schema(value_type = Vec<Object>)]
        content_blocks: Vec<nagaya_driver::ContentBlock>,
        /// Id of the sub-agent that answers; absent for the main agent.
        #[serde(skip_serializing_if = "Option::is_none")]
        parent_agent_id: Option<String>,
    },
    /// A piece of the answer's text as it is generated.
    TextDelta {
        /// The piece of text.
        text: String,
    },
    /// The model's visible reasoning.
    Thinking {
        /// Text of the reasoning.
        content: String,
        /// Id of the sub-agent that reasons; absent for the main agent.
        #[serde(skip_serializing_if = "Option::is_none")]
        parent_agent_id: Option<String>,
    },
    /// The model calls a tool.
    ToolCall {
        /// Id of the tool call, the same in `tool_call` and `tool_result`.
        tool_use_id: String,
        /// Name of the tool.
        tool_name: String,
        /// Arguments of the call.
        #[schema(value_type = Object)]
        input: Value,
        /// One line for display that describes the call.
        summary: String,
        /// Id of the sub-agent that calls; absent for the main agent.
        #[serde(skip_serializing_if = "Option::is_none")]
        parent_agent_id: Option<String>,
    },
    /// A tool call has returned.
    ToolResult {
        /// Id of the tool call, the same in `tool_call` and `tool_result`.
        tool_use_id: String,
        /// Name of the tool.
        tool_name: String,
        /// Result of the call: `completed` or `error`.
        status: &'static str,
        /// Output of the tool.
        content: String,
        /// Whether the call failed.
        is_error: bool,
        /// Id of the sub-agent that called; absent for the main agent.
        #[serde(skip_serializing_if = "Option::is_none")]
        parent_agent_id: Option<String>,
    },
    /// A sub-agent has started.
    SubagentStart {
        /// Id of the sub-agent: that of the tool call that started it.
        agent_id: String,
        /// Type of the sub-agent, as the driver names it.
        agent_type: String,
        /// Short description of the sub-agent's task.
        description: String,
        /// The sub-agent's model, if it differs from the main agent's.
        #[serde(skip_serializing_if = "Option::is_none")]
        model: Option<String>,
    },
    /// A sub-agent has ended.
    SubagentEnd {
        /// Id of the sub-agent.
        agent_id: String,
        /// How it ended: `completed` or `error`.
        status: &'static str,
        /// The first line of the sub-agent's report.
        #[serde(skip_serializing_if = "Option::is_none")]
        result_preview: Option<String>,
    },
    /// The model wants to use a tool for which somebody's consent is needed. The run waits.
    ApprovalRequired(Asked),
    /// The model asks the user something. The run waits.
    Question(Asked),
    /// The model calls a tool that the caller itself carries out. The run waits for its result.
    ToolRequest(Asked),
    /// The run has the tool's result, or does not wait for it any more.
    ToolRequestResolved {
        /// Id of the request.
        request_id: String,
        /// What became of the request: `answered`, `timeout` or `withdrawn`.
        outcome: Resolution,
        /// Who sent the result: the name of a key, or the subject of a token.
        #[serde(skip_serializing_if = "Option::is_none")]
        by: Option<String>,
    },
    /// What the run waited for is decided, or is not waited for any more.
    ApprovalResolved {
        /// Id of the question.
        request_id: String,
        /// How the question was decided.
        decision: Resolution,
        /// Who decided: the name of a key, or the subject of a token.
        #[serde(skip_serializing_if = "Option::is_none")]
        by: Option<String>,
        /// What the model was told, if it was told something.
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
    /// The conversation so far has been summed up for the model, whose context was full, or because a command has asked for it.
    Compacted {
        /// Human-readable description of what happened.
        message: String,
    },
    /// An MCP server of the conversation cannot be used: it was not there when the driver started, was not yet connected when the
    /// driver last said so, or a call of one of its tools has failed because of the server. Sent once for each server and run.
    McpServer {
        /// Name of the server.
        name: String,
        /// State of the server, in the driver's words, for example `failed`, `needs-auth` where it refuses the credential, or `pending`
        /// where it has not answered yet.
        status: String,
        /// What the call of a tool has failed with; absent if the server was not there when the driver started.
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
    /// The conversation has received a title.
    Title {
        /// The new title of the conversation.
        title: String,
    },
    /// Sent every ten seconds while the run is in progress.
    Ping {
        /// Milliseconds since the run began.
        elapsed_ms: u64,
    },
    /// How much of the model's context window the conversation fills.
    ContextStatus {
        /// Estimated input tokens of the next turn.
        current_context_tokens: u64,
        /// Size of the model's context window, in tokens.
        max_context_tokens: u64,
        /// Ratio of the two, in percent.
        usage_percent: f64,
        /// `normal`, `warning` (from 75 %), `critical` (from 90 %) or `blocked` (from 100 %).
        warning_level: &'static str,
        /// Whether the conversation can take another run.
        can_continue: bool,
    },
    /// An error in the run, or around it.
    Error {
        /// Kind of the error.
        error_type: ErrorType,
        /// Human-readable description of the error.
        message: String,
        /// Whether another run may succeed.
        recoverable: bool,
    },
    /// The conversation's workspace was lost, and a new one is ready: for this run if it was lost before, else for the next.
    ContainerRecovered {
        /// Human-readable description of what happened.
        message: String,
        /// Always true: a new workspace is ready.
        recovered: bool,
        /// Whether the run has failed and the same request may succeed now. False if the run goes on in the new workspace.
        retry_recommended: bool,
        /// What has become of the files of the lost workspace.
        files: LostFiles,
    },
    /// The run has ended. Always the last event of the stream.
    Done(Done),
}

/// What has become of the files of a lost workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LostFiles {
    /// All of them are in the bucket, and so in the new workspace.
    KeptInBucket,
    /// Those in the bucket are in the new workspace; what was changed since they were last saved is lost.
    LostSinceLastSave,
    /// There is no bucket: all of them are lost.
    Lost,
}

impl From<FilesFate> for LostFiles {
    fn from(fate: FilesFate) -> Self {
        match fate {
            FilesFate::KeptInBucket => Self::KeptInBucket,
            FilesFate::LostSinceLastSave => Self::LostSinceLastSave,
            FilesFate::Lost => Self::Lost,
        }
    }
}

/// The kind of activity in a `progress` event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProgressKind {
    /// The workspace is being prepared.
    Setup,
    /// The model is generating its answer.
    Generating,
    /// A tool call is running.
    Tool,
    /// A call of the model has failed and is repeated.
    Retry,
}

/// The kind of an `error` event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorType {
    /// Another server is running something in the conversation.
    ConversationLocked,
    /// The driver is missing in the workspace image.
    SdkNotInstalled,
    /// The driver rejected its options.
    OptionsError,
    /// The driver or the workspace failed.
    ExecutionError,
    /// The run exceeded its time limit.
    TimeoutError,
    /// The model's endpoint refused or failed, or its answer broke off.
    ModelError,
    /// The model has refused to answer.
    ModelRefused,
    /// The model's answer is longer than one may be, and is cut off.
    AnswerCutOff,
    /// The run has cost as much as it may.
    CostLimit,
    /// The model's result is not what the run's schema asks for.
    OutputInvalid,
    /// The workspace's memory is used up. Another run can only succeed once files have been deleted, or in a new workspace; but if the
    /// event is `recoverable`, a tool was killed, and the run goes on.
    OutOfMemory,
    /// The workspace reported more or other data than allowed, and was removed.
    LimitExceeded,
    /// The database refuses what the run reported. The run counts as failed, and that part of it is not stored.
    RecordError,
    /// No workspace could be provided.
    WorkspaceError,
    /// Files were not restored into the workspace, or not stored from it. The run continues.
    StorageError,
    /// The server is shutting down.
    ServerStopping,
    /// A fault of the server itself.
    InternalError,
}

/// Data of `done`, the last event of every run.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Done {
    /// How the run ended.
    pub status: DoneStatus,
    /// The final answer of the model.
    pub result: String,
    /// Whether the run failed.
    pub is_error: bool,
    /// Why the model ended its last answer, in its provider's words: `end_turn`, `max_tokens` where the answer was cut off, `refusal`, and
    /// others; absent where the model has not answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<String>,
    /// Messages of all `error` events.
    pub errors: Vec<String>,
    /// Tokens that the run used: `input_tokens`, `output_tokens`, `cache_creation_5m_tokens`, `cache_creation_1h_tokens`,
    /// `cache_read_tokens`, `total_tokens`.
    #[schema(value_type = Object)]
    pub usage: UsageReport,
    /// Cost of the run in USD, an exact decimal.
    pub cost_usd: String,
    /// Number of model turns.
    pub turn_count: u32,
    /// Duration of the run, in milliseconds.
    pub duration_ms: u64,
    /// Id of the driver's session, if the driver started one.
    pub session_id: Option<String>,
    /// The result as the run's `output_schema` asks for it; absent without a schema, and where the model has not kept to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub structured_output: Option<Value>,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DoneStatus {
    /// The run completed successfully.
    Success,
    /// The run failed with an error.
    Error,
    /// The run was cancelled by a request.
    Cancelled,
}

/// Tokens of a run, with their sum.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct UsageReport {
    /// Tokens by kind.
    #[serde(flatten)]
    pub usage: nagaya_driver::Usage,
    /// Sum of all kinds.
    pub total_tokens: u64,
}

impl From<nagaya_driver::Usage> for UsageReport {
    fn from(usage: nagaya_driver::Usage) -> Self {
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
            Self::ApprovalRequired(_) => "approval_required",
            Self::Question(_) => "question",
            Self::ToolRequest(_) => "tool_request",
            Self::ToolRequestResolved { .. } => "tool_request_resolved",
            Self::ApprovalResolved { .. } => "approval_resolved",
            Self::Compacted { .. } => "compacted",
            Self::McpServer { .. } => "mcp_server",
            Self::Title { .. } => "title",
            Self::Ping { .. } => "ping",
            Self::ContextStatus { .. } => "context_status",
            Self::Error { .. } => "error",
            Self::ContainerRecovered { .. } => "container_recovered",
            Self::Done(_) => "done",
        }
    }

    /// A `progress` event of the kind `setup`.
    #[must_use]
    pub fn setup(message: impl Into<String>) -> Self {
        Self::progress(ProgressKind::Setup, message)
    }

    /// A `progress` event without a tool.
    #[must_use]
    pub fn progress(kind: ProgressKind, message: impl Into<String>) -> Self {
        Self::Progress { kind, message: message.into(), tool_use_id: None, tool_name: None, tool_status: None }
    }
}
