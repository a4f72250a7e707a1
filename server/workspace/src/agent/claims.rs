//! Bounds everything that a room's agent reports, because the room is untrusted: each value before other code sees it, and the total.
//!
//! Texts lose NUL, which PostgreSQL does not store (its manual, 8.3 "Character Types"). Counts stop at a number that no real run
//! reaches and whose sums fit into 64 bits. Names that are too long, or hold control characters, are cut or refused.

use nagaya_protocol::{AgentEvent, ContentBlock, Usage};
use serde_json::Value;

/// Tokens of one kind in one run. A sum over nine billion runs still fits into an `i64`.
const MOST_TOKENS: u64 = 1_000_000_000;
/// Model turns of one run.
const MOST_TURNS: u32 = 1_000_000;
/// Milliseconds of one run: a year.
const MOST_MILLIS: u64 = 365 * 24 * 3600 * 1000;
/// Characters of an id or a name.
const LONGEST_NAME: usize = 256;
/// Tools that a driver may list.
const MOST_TOOLS: usize = 1_000;

/// Bytes that one execution may send in all: a hundred of its largest events.
const MOST_BYTES: u64 = 256 << 20;
/// Events that one execution may send in all.
const MOST_EVENTS: u64 = 1_000_000;
/// Events that cannot be decoded in one execution. An agent that is newer than the server may send some.
const MOST_UNDECODABLE: u64 = 10_000;

/// What is left of the bytes and events that one execution may send.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    bytes: u64,
    events: u64,
    /// Events that could not be decoded; only the first is logged as a warning.
    undecodable: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self { bytes: MOST_BYTES, events: MOST_EVENTS, undecodable: 0 }
    }
}

impl Budget {
    /// Takes the bytes of a piece; the error says which limit is exceeded.
    pub(super) fn take_bytes(&mut self, bytes: usize) -> Result<(), String> {
        let left = self.bytes.checked_sub(bytes as u64);
        self.bytes = left.ok_or_else(|| format!("the execution sent more than {} MiB", MOST_BYTES >> 20))?;
        Ok(())
    }

    /// Takes an event.
    pub(super) fn take_event(&mut self) -> Result<(), String> {
        let left = self.events.checked_sub(1);
        self.events = left.ok_or_else(|| format!("the execution sent more than {MOST_EVENTS} events"))?;
        Ok(())
    }

    /// Takes an event that could not be decoded; whether it is the first of its execution.
    pub(super) fn take_undecodable(&mut self) -> Result<bool, String> {
        self.undecodable += 1;
        if self.undecodable > MOST_UNDECODABLE {
            return Err(format!("the execution sent more than {MOST_UNDECODABLE} events that cannot be decoded"));
        }
        Ok(self.undecodable == 1)
    }
}

/// The event with every value in it bounded; an error where an id that the server would have to rely on is not valid.
pub(super) fn bounded(event: AgentEvent) -> Result<AgentEvent, String> {
    Ok(match event {
        AgentEvent::Started { execution_id } => AgentEvent::Started { execution_id: id("execution_id", execution_id)? },
        AgentEvent::System { session_id, model, tools } => AgentEvent::System {
            session_id: id("session_id", session_id)?,
            model: name(model),
            tools: tools.into_iter().take(MOST_TOOLS).map(name).collect(),
        },
        AgentEvent::Assistant { content_blocks, parent_tool_use_id } => AgentEvent::Assistant {
            content_blocks: content_blocks
                .into_iter()
                .map(|ContentBlock::Text { text: prose }| ContentBlock::Text { text: text(prose) })
                .collect(),
            parent_tool_use_id: parent_tool_use_id.map(name),
        },
        AgentEvent::TextDelta { text: piece } => AgentEvent::TextDelta { text: text(piece) },
        AgentEvent::Thinking { content, parent_tool_use_id } => {
            AgentEvent::Thinking { content: text(content), parent_tool_use_id: parent_tool_use_id.map(name) }
        }
        AgentEvent::ToolUse { tool_use_id, tool_name, input, parent_tool_use_id } => AgentEvent::ToolUse {
            tool_use_id: name(tool_use_id),
            tool_name: name(tool_name),
            input: value(input),
            parent_tool_use_id: parent_tool_use_id.map(name),
        },
        AgentEvent::ToolResult { tool_use_id, content, is_error, parent_tool_use_id } => AgentEvent::ToolResult {
            tool_use_id: name(tool_use_id),
            content: text(content),
            is_error,
            parent_tool_use_id: parent_tool_use_id.map(name),
        },
        AgentEvent::Result {
            is_error,
            result,
            session_id,
            usage: used,
            num_turns,
            duration_ms,
            model_failed,
            model_status,
        } => AgentEvent::Result {
            is_error,
            result: text(result),
            session_id: id("session_id", session_id)?,
            usage: usage(used),
            num_turns: num_turns.min(MOST_TURNS),
            duration_ms: duration_ms.min(MOST_MILLIS),
            model_failed,
            model_status,
        },
        AgentEvent::Retry { attempt, most, delay_ms, status, reason } => {
            AgentEvent::Retry { attempt, most, delay_ms: delay_ms.min(MOST_MILLIS), status, reason: name(reason) }
        }
        AgentEvent::Usage { usage: used } => AgentEvent::Usage { usage: usage(used) },
        AgentEvent::Error { error_type, message } => AgentEvent::Error { error_type, message: text(message) },
    })
}

/// An id that the server stores or sends back: visible ASCII without spaces.
fn id(field: &str, id: String) -> Result<String, String> {
    let valid = id.len() <= LONGEST_NAME && id.bytes().all(|byte| byte.is_ascii_graphic());
    if valid { Ok(id) } else { Err(format!("its {field} is not up to {LONGEST_NAME} visible ASCII characters")) }
}

/// A name that is only shown: without control characters, and cut.
fn name(name: String) -> String {
    if name.len() <= LONGEST_NAME && !name.contains(char::is_control) {
        return name;
    }
    name.chars().filter(|c| !c.is_control()).take(LONGEST_NAME).collect()
}

/// A text without NUL.
fn text(text: String) -> String {
    if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text }
}

/// A JSON value without NUL in its texts and keys.
fn value(value: Value) -> Value {
    match value {
        Value::String(content) => Value::String(text(content)),
        Value::Array(items) => Value::Array(items.into_iter().map(self::value).collect()),
        Value::Object(fields) => {
            Value::Object(fields.into_iter().map(|(key, field)| (text(key), self::value(field))).collect())
        }
        other => other,
    }
}

fn usage(usage: Usage) -> Usage {
    let bounded = |tokens: u64| tokens.min(MOST_TOKENS);
    Usage {
        input_tokens: bounded(usage.input_tokens),
        output_tokens: bounded(usage.output_tokens),
        cache_creation_5m_tokens: bounded(usage.cache_creation_5m_tokens),
        cache_creation_1h_tokens: bounded(usage.cache_creation_1h_tokens),
        cache_read_tokens: bounded(usage.cache_read_tokens),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(value: Value) -> Result<AgentEvent, String> {
        bounded(serde_json::from_value(value).expect("an event"))
    }

    fn result(session: &str, tokens: u64) -> Value {
        json!({"type": "result", "is_error": false, "result": "a\0b", "session_id": session, "num_turns": u32::MAX,
               "duration_ms": u64::MAX, "usage": {"input_tokens": tokens, "output_tokens": tokens,
               "cache_creation_5m_tokens": tokens, "cache_creation_1h_tokens": tokens, "cache_read_tokens": tokens}})
    }

    #[test]
    fn counts_stop_where_their_sums_still_fit() {
        for tokens in [i64::MAX.unsigned_abs(), 9_000_000_000_000_000_000, u64::MAX] {
            let Ok(AgentEvent::Result { usage, result, num_turns, .. }) = event(result("s", tokens)) else {
                panic!("a result");
            };
            assert_eq!(usage.total(), 5 * MOST_TOKENS);
            assert_eq!((result.as_str(), num_turns), ("a\u{fffd}b", MOST_TURNS));
        }
    }

    #[test]
    fn ids_that_the_server_relies_on_must_be_valid() {
        assert!(event(result("0191-ab_c.d", 1)).is_ok());
        for bad in ["a\0b", "a\u{1b}[2J", "a b", "é", &"x".repeat(15 << 20)] {
            assert!(event(result(bad, 1)).is_err());
            assert!(event(json!({"type": "started", "execution_id": bad})).is_err());
        }
    }

    #[test]
    fn names_are_cut_and_texts_lose_nul() {
        let long = "n\u{7}".repeat(5_000);
        let tool =
            json!({"type": "tool_use", "tool_use_id": long, "tool_name": long, "input": {"a\0": ["b\0", {"c": "\0"}]}});
        let Ok(AgentEvent::ToolUse { tool_use_id, tool_name, input, .. }) = event(tool) else { panic!("a tool use") };
        assert_eq!((tool_use_id.len(), tool_name.len()), (LONGEST_NAME, LONGEST_NAME));
        assert!(!tool_name.contains('\u{7}'));
        assert_eq!(input, json!({"a\u{fffd}": ["b\u{fffd}", {"c": "\u{fffd}"}]}));
        let tools: Vec<String> = (0..50_000).map(|n| n.to_string()).collect();
        let system = json!({"type": "system", "session_id": "s", "model": "m", "tools": tools});
        let Ok(AgentEvent::System { tools, .. }) = event(system) else { panic!("a system event") };
        assert_eq!(tools.len(), MOST_TOOLS);
    }

    #[test]
    fn an_execution_has_a_total_of_bytes_and_events() {
        let mut budget = Budget::default();
        for _ in 0..MOST_BYTES >> 20 {
            budget.take_bytes(1 << 20).expect("within the total");
        }
        assert!(budget.take_bytes(1).is_err());
        let mut budget = Budget { events: 2, ..Budget::default() };
        assert!(budget.take_event().is_ok() && budget.take_event().is_ok() && budget.take_event().is_err());
        assert_eq!((budget.take_undecodable(), budget.take_undecodable()), (Ok(true), Ok(false)));
        for _ in 2..MOST_UNDECODABLE {
            budget.take_undecodable().expect("within the limit");
        }
        assert!(budget.take_undecodable().is_err());
    }
}
