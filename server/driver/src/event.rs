//! What a driver reports during a turn.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A line that is not read at all, because it is not JSON, or has too many values.
pub const NOT_JSON: &str = "not JSON";
/// See [`NOT_JSON`].
pub const TOO_MANY: &str = "too many values";
/// A request that this host does not know, and has answered with an error.
pub const REQUEST: &str = "request";
/// How the type of a message begins that reports something of the driver's own, of a kind that is not known.
pub const SYSTEM: &str = "system/";

/// One event of a turn. The last is [`Event::Result`] or [`Event::Failed`].
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The driver has taken the input of a turn. It stays within the dialogue.
    Begins {
        /// Id of the turn.
        turn: String,
    },
    /// The driver begins a turn.
    System {
        /// Session that a later driver in the same workspace may continue.
        session_id: String,
        /// Model that the driver will call.
        model: String,
        /// Tools that the driver offers to the model.
        tools: Vec<String>,
        /// The driver's own commands, without a slash.
        commands: Vec<String>,
        /// The version of the driver's program, if it tells one.
        version: Option<String>,
    },
    /// A complete message of the model.
    Assistant {
        /// The content blocks in order.
        content_blocks: Vec<ContentBlock>,
        /// For a message of a sub-agent, the tool use that started it.
        parent_tool_use_id: Option<String>,
    },
    /// A fragment of text as it is generated. The complete text follows as [`Event::Assistant`].
    TextDelta {
        /// The fragment of text.
        text: String,
    },
    /// The model's visible reasoning.
    Thinking {
        /// The text of the reasoning.
        content: String,
        /// As in [`Event::Assistant`].
        parent_tool_use_id: Option<String>,
    },
    /// The model calls a tool.
    ToolUse {
        /// Id that the [`Event::ToolResult`] repeats.
        tool_use_id: String,
        /// Name of the tool, for example `Bash`.
        tool_name: String,
        /// Arguments of the tool, as the model gave them.
        input: Value,
        /// As in [`Event::Assistant`].
        parent_tool_use_id: Option<String>,
    },
    /// A tool has returned.
    ToolResult {
        /// Id of the [`Event::ToolUse`].
        tool_use_id: String,
        /// Output of the tool, flattened to text.
        content: String,
        /// Whether the tool failed.
        is_error: bool,
        /// As in [`Event::Assistant`].
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
        status: Option<u16>,
        /// The driver's word for the failure, for example `rate_limit`.
        reason: String,
    },
    /// Another model answers from here on, because the one before is overloaded or not available.
    Fallback {
        /// The model that did not answer, as its provider knows it.
        from: String,
        /// The model that answers.
        to: String,
        /// The driver's word for the reason, for example `overloaded`.
        reason: String,
    },
    /// Tokens of all model calls of this turn so far, as far as they have been reported. [`Event::Result`] has the final count; a turn
    /// that is cut off has only this.
    Usage {
        /// The sum so far.
        usage: Usage,
    },
    /// The driver waits for somebody's decision.
    Ask(Ask),
    /// The driver no longer waits for that decision.
    Withdrawn {
        /// Id of the [`Ask`].
        request_id: String,
    },
    /// The driver has asked the server for something that the server itself answers.
    Reply {
        /// Id of the answer.
        id: String,
        /// The lines for the driver.
        lines: Vec<String>,
    },
    /// The conversation has been summed up.
    Compacted {
        /// Whether that was asked for; else the model's context was full.
        asked: bool,
    },
    /// Lines that the driver has added to a file of its own memory of the conversation.
    Transcript {
        /// The file, relative to the driver's home directory.
        file: String,
        /// The lines, each with its line feed.
        lines: String,
    },
    /// Something of an MCP server's that the conversation should know.
    McpServer {
        /// Name of the server.
        name: String,
        /// Its state in the driver's words, for example `failed`. One that is connected, or not yet, stays within the dialogue.
        status: String,
    },
    /// A line that has no meaning here.
    Unknown {
        /// Its type, which may begin with [`SYSTEM`], or one of [`NOT_JSON`], [`TOO_MANY`] and [`REQUEST`].
        kind: String,
    },
    /// The turn has ended.
    Result(TurnResult),
    /// The turn has ended without a result; the driver may still run.
    Failed(Failure),
}

impl Event {
    /// Whether the event counts in whichever turn it comes: the driver waits for an answer, or remembers something.
    #[must_use]
    pub fn is_of_any_turn(&self) -> bool {
        matches!(self, Self::Ask(_) | Self::Withdrawn { .. } | Self::Reply { .. } | Self::Transcript { .. })
    }
}

/// A question of the driver's that only somebody outside can decide.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ask {
    /// Id of the question. Whatever the driver needs to recognise an answer to it is in the id.
    pub request_id: String,
    /// Id of the tool call that waits.
    pub tool_use_id: String,
    /// Name of the tool.
    pub tool_name: String,
    /// Arguments of the call.
    pub input: Value,
    /// The driver's own description of the call, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// What is asked for.
    pub kind: AskKind,
}

/// What a question of the driver's asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AskKind {
    /// Consent to the call of a tool.
    Approval,
    /// The user's answer to a question of the model's.
    Question,
    /// The result of a tool that the caller itself carries out.
    ClientTool,
}

/// The result of a turn.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TurnResult {
    /// Whether the driver reports a failure.
    pub is_error: bool,
    /// The final answer, or the description of the failure.
    pub result: String,
    /// Session that a later driver in the same workspace may continue.
    pub session_id: String,
    /// Tokens of all model calls of this turn.
    pub usage: Usage,
    /// Number of model turns.
    pub num_turns: u32,
    /// Whether the driver gave up because calls of the model failed.
    pub model_failed: bool,
    /// HTTP status of the last of these calls; `None` where there was none.
    pub model_status: Option<u16>,
    /// Why the model ended its last answer, in the words of the Messages API (`stop_reason`), for example `end_turn`, `max_tokens` or
    /// `refusal`.
    pub stop_reason: Option<String>,
    /// Whether the turn was stopped by [`crate::Driver::interrupt`].
    pub interrupted: bool,
    /// The result as [`crate::Options::output_schema`] asks for it; `None` if there is no schema, or the model has not kept to it.
    pub structured_output: Option<Value>,
}

/// Why a turn has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Kind of the failure.
    pub kind: ErrorKind,
    /// Description of the failure; for [`ErrorKind::ExecutionError`] with the end of the driver's standard error.
    pub message: String,
}

/// Kind of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

impl std::ops::Sub for Usage {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            input_tokens: self.input_tokens.saturating_sub(other.input_tokens),
            output_tokens: self.output_tokens.saturating_sub(other.output_tokens),
            cache_creation_5m_tokens: self.cache_creation_5m_tokens.saturating_sub(other.cache_creation_5m_tokens),
            cache_creation_1h_tokens: self.cache_creation_1h_tokens.saturating_sub(other.cache_creation_1h_tokens),
            cache_read_tokens: self.cache_read_tokens.saturating_sub(other.cache_read_tokens),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_each_kind_are_added_and_subtracted_by_themselves() {
        let of = |[input, output, five, hour, read]: [u64; 5]| Usage {
            input_tokens: input,
            output_tokens: output,
            cache_creation_5m_tokens: five,
            cache_creation_1h_tokens: hour,
            cache_read_tokens: read,
        };
        let mut sum = of([1, 10, 100, 1_000, 10_000]);
        sum += of([2, 20, 200, 2_000, 20_000]);
        assert_eq!(sum, of([3, 30, 300, 3_000, 30_000]));
        assert_eq!(sum.total(), 33_333);
        assert_eq!(sum - of([1, 10, 100, 1_000, 10_000]), of([2, 20, 200, 2_000, 20_000]));
        assert_eq!(of([0; 5]) - of([1; 5]), of([0; 5]), "it never is less than nothing");
        sum += of([u64::MAX; 5]);
        assert_eq!(sum, of([u64::MAX; 5]));
        let text = r#"{"input_tokens":1,"output_tokens":2,"cache_creation_5m_tokens":3,"cache_creation_1h_tokens":4,"cache_read_tokens":5}"#;
        assert_eq!(serde_json::to_string(&of([1, 2, 3, 4, 5])).expect("JSON"), text);
        assert_eq!(serde_json::from_str::<Usage>("{}").expect("JSON"), Usage::default());
    }

    #[test]
    fn only_what_waits_for_an_answer_or_is_remembered_counts_in_any_turn() {
        let (text, none) = (String::new, || None);
        let ask = Ask {
            request_id: text(),
            tool_use_id: text(),
            tool_name: text(),
            input: Value::Null,
            title: None,
            kind: AskKind::Approval,
        };
        for (event, counts) in [
            (Event::Ask(ask), true),
            (Event::Withdrawn { request_id: text() }, true),
            (Event::Reply { id: text(), lines: Vec::new() }, true),
            (Event::Transcript { file: text(), lines: text() }, true),
            (Event::Begins { turn: text() }, false),
            (Event::TextDelta { text: text() }, false),
            (Event::Thinking { content: text(), parent_tool_use_id: none() }, false),
            (Event::Usage { usage: Usage::default() }, false),
            (Event::Compacted { asked: true }, false),
            (Event::McpServer { name: text(), status: text() }, false),
            (Event::Unknown { kind: text() }, false),
            (Event::Result(TurnResult::default()), false),
            (Event::Failed(Failure { kind: ErrorKind::Cancelled, message: text() }), false),
        ] {
            assert_eq!(event.is_of_any_turn(), counts, "{event:?}");
        }
    }
}
