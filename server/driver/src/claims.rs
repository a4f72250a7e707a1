//! Bounds everything that a driver reports, because the room is untrusted: each value before other code sees it.
//!
//! Texts lose NUL, which PostgreSQL does not store (its manual, 8.3 "Character Types"). Counts stop at a number that no real run
//! reaches and whose sums fit into 64 bits. Names that are too long, or hold control characters, are cut or refused.

use serde_json::Value;

use crate::event::{Ask, ContentBlock, Event, Failure, TurnResult, Usage};

/// Tokens of one kind in one run. A sum over nine billion runs still fits into an `i64`.
const MOST_TOKENS: u64 = 1_000_000_000;
/// Model turns of one run.
const MOST_TURNS: u32 = 1_000_000;
/// Milliseconds until something: a year.
const MOST_MILLIS: u64 = 365 * 24 * 3600 * 1000;
/// Characters of an id or a name.
const LONGEST_NAME: usize = 256;
/// Tools that a driver may list.
const MOST_TOOLS: usize = 1_000;

/// The event with every value in it bounded; an error where an id that the server would have to rely on is not valid.
pub(crate) fn bounded(event: Event) -> Result<Event, String> {
    Ok(match event {
        Event::Begins { turn } => Event::Begins { turn: id("command_uuid", turn)? },
        Event::System { session_id, model, tools, commands, version } => Event::System {
            session_id: id("session_id", session_id)?,
            model: name(model),
            tools: tools.into_iter().take(MOST_TOOLS).map(name).collect(),
            commands: commands.into_iter().take(MOST_TOOLS).map(name).collect(),
            version: version.map(name),
        },
        Event::Assistant { content_blocks, parent_tool_use_id } => Event::Assistant {
            content_blocks: content_blocks
                .into_iter()
                .map(|ContentBlock::Text { text: prose }| ContentBlock::Text { text: text(prose) })
                .collect(),
            parent_tool_use_id: parent_tool_use_id.map(name),
        },
        Event::TextDelta { text: piece } => Event::TextDelta { text: text(piece) },
        Event::Thinking { content, parent_tool_use_id } => {
            Event::Thinking { content: text(content), parent_tool_use_id: parent_tool_use_id.map(name) }
        }
        Event::ToolUse { tool_use_id, tool_name, input, parent_tool_use_id } => Event::ToolUse {
            tool_use_id: name(tool_use_id),
            tool_name: name(tool_name),
            input: value(input),
            parent_tool_use_id: parent_tool_use_id.map(name),
        },
        Event::ToolResult { tool_use_id, content, is_error, parent_tool_use_id } => Event::ToolResult {
            tool_use_id: name(tool_use_id),
            content: text(content),
            is_error,
            parent_tool_use_id: parent_tool_use_id.map(name),
        },
        Event::Result(turn) => Event::Result(TurnResult {
            result: text(turn.result),
            session_id: id("session_id", turn.session_id)?,
            usage: usage(turn.usage),
            num_turns: turn.num_turns.min(MOST_TURNS),
            structured_output: turn.structured_output.map(value),
            stop_reason: turn.stop_reason.map(name),
            ..turn
        }),
        Event::Retry { attempt, most, delay_ms, status, reason } => {
            Event::Retry { attempt, most, delay_ms: delay_ms.min(MOST_MILLIS), status, reason: name(reason) }
        }
        Event::Fallback { from, to, reason } => {
            Event::Fallback { from: name(from), to: name(to), reason: name(reason) }
        }
        Event::Usage { usage: used } => Event::Usage { usage: usage(used) },
        Event::Ask(ask) => Event::Ask(Ask {
            request_id: id("request_id", ask.request_id)?,
            tool_use_id: name(ask.tool_use_id),
            tool_name: name(ask.tool_name),
            input: value(ask.input),
            title: ask.title.map(name),
            kind: ask.kind,
        }),
        Event::Withdrawn { request_id } => Event::Withdrawn { request_id: id("request_id", request_id)? },
        Event::Reply { id: request, lines } => Event::Reply { id: id("request_id", request)?, lines },
        Event::McpServer { name: server, status } => Event::McpServer { name: name(server), status: name(status) },
        Event::Unknown { kind } => Event::Unknown { kind: name(kind) },
        // Only the driver reads it, in a workspace of the same conversation.
        Event::Transcript { file, lines } => Event::Transcript { file, lines },
        Event::Compacted { asked } => Event::Compacted { asked },
        Event::Failed(failure) => Event::Failed(Failure { message: text(failure.message), ..failure }),
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

    fn result(session: &str, tokens: u64) -> Event {
        let usage = Usage {
            input_tokens: tokens,
            output_tokens: tokens,
            cache_creation_5m_tokens: tokens,
            cache_creation_1h_tokens: tokens,
            cache_read_tokens: tokens,
        };
        Event::Result(TurnResult {
            result: "a\0b".into(),
            session_id: session.into(),
            usage,
            num_turns: u32::MAX,
            ..TurnResult::default()
        })
    }

    #[test]
    fn counts_stop_where_their_sums_still_fit() {
        for tokens in [i64::MAX.unsigned_abs(), 9_000_000_000_000_000_000, u64::MAX] {
            let Ok(Event::Result(turn)) = bounded(result("s", tokens)) else { panic!("a result") };
            assert_eq!(turn.usage.total(), 5 * MOST_TOKENS);
            assert_eq!((turn.result.as_str(), turn.num_turns), ("a\u{fffd}b", MOST_TURNS));
        }
    }

    #[test]
    fn ids_that_the_server_relies_on_must_be_valid() {
        assert!(bounded(result("0191-ab_c.d", 1)).is_ok());
        for bad in ["a\0b", "a\u{1b}[2J", "a b", "é", &"x".repeat(15 << 20)] {
            assert!(bounded(result(bad, 1)).is_err());
            assert!(bounded(Event::Withdrawn { request_id: bad.into() }).is_err());
        }
    }

    #[test]
    fn names_are_cut_and_texts_lose_nul() {
        let long = "n\u{7}".repeat(5_000);
        let call = Event::ToolUse {
            tool_use_id: long.clone(),
            tool_name: long,
            input: json!({"a\0": ["b\0", {"c": "\0"}]}),
            parent_tool_use_id: None,
        };
        let Ok(Event::ToolUse { tool_use_id, tool_name, input, .. }) = bounded(call) else { panic!("a tool use") };
        assert_eq!((tool_use_id.len(), tool_name.len()), (LONGEST_NAME, LONGEST_NAME));
        assert!(!tool_name.contains('\u{7}'));
        assert_eq!(input, json!({"a\u{fffd}": ["b\u{fffd}", {"c": "\u{fffd}"}]}));
        let tools: Vec<String> = (0..50_000).map(|n| n.to_string()).collect();
        let commands = Vec::new();
        let system = Event::System { session_id: "s".into(), model: "m".into(), tools, commands, version: None };
        let Ok(Event::System { tools, .. }) = bounded(system) else { panic!("a system event") };
        assert_eq!(tools.len(), MOST_TOOLS);
    }
    #[test]
    fn every_text_of_every_event_is_bounded() {
        // What is in each text before, and in a name, a text and an id after.
        const BEFORE: &str = "a\0b\u{7}";
        const NAME: &str = "ab";
        const TEXT: &str = "a\u{fffd}b\u{7}";
        let (before, name, text) = (|| BEFORE.to_owned(), || NAME.to_owned(), || TEXT.to_owned());
        let (given, taken) = (json!({BEFORE: [BEFORE]}), json!({TEXT: [TEXT]}));
        let id = || "id".to_owned();
        let ask = |request_id, text: &dyn Fn() -> String, input| Ask {
            request_id,
            tool_use_id: text(),
            tool_name: text(),
            input,
            title: Some(text()),
            kind: crate::event::AskKind::Question,
        };
        let system = |session_id, text: &dyn Fn() -> String| Event::System {
            session_id,
            model: text(),
            tools: vec![text()],
            commands: vec![text()],
            version: Some(text()),
        };
        let failed = |message| Event::Failed(Failure { kind: crate::event::ErrorKind::OutOfMemory, message });
        let cases = [
            (Event::Begins { turn: id() }, Event::Begins { turn: id() }),
            (system(id(), &before), system(id(), &name)),
            (
                Event::Assistant {
                    content_blocks: vec![ContentBlock::Text { text: before() }; 2],
                    parent_tool_use_id: Some(before()),
                },
                Event::Assistant {
                    content_blocks: vec![ContentBlock::Text { text: text() }; 2],
                    parent_tool_use_id: Some(name()),
                },
            ),
            (Event::TextDelta { text: before() }, Event::TextDelta { text: text() }),
            (
                Event::Thinking { content: before(), parent_tool_use_id: Some(before()) },
                Event::Thinking { content: text(), parent_tool_use_id: Some(name()) },
            ),
            (
                Event::ToolUse {
                    tool_use_id: before(),
                    tool_name: before(),
                    input: given.clone(),
                    parent_tool_use_id: Some(before()),
                },
                Event::ToolUse {
                    tool_use_id: name(),
                    tool_name: name(),
                    input: taken.clone(),
                    parent_tool_use_id: Some(name()),
                },
            ),
            (
                Event::ToolResult {
                    tool_use_id: before(),
                    content: before(),
                    is_error: true,
                    parent_tool_use_id: Some(before()),
                },
                Event::ToolResult {
                    tool_use_id: name(),
                    content: text(),
                    is_error: true,
                    parent_tool_use_id: Some(name()),
                },
            ),
            (
                Event::Retry { attempt: 3, most: 4, delay_ms: u64::MAX, status: Some(500), reason: before() },
                Event::Retry { attempt: 3, most: 4, delay_ms: MOST_MILLIS, status: Some(500), reason: name() },
            ),
            (
                Event::Fallback { from: before(), to: "to".into(), reason: before() },
                Event::Fallback { from: name(), to: "to".into(), reason: name() },
            ),
            (Event::Ask(ask(id(), &before, given.clone())), Event::Ask(ask(id(), &name, taken.clone()))),
            (Event::Withdrawn { request_id: id() }, Event::Withdrawn { request_id: id() }),
            (Event::Reply { id: id(), lines: vec![before()] }, Event::Reply { id: id(), lines: vec![before()] }),
            (
                Event::McpServer { name: before(), status: "failed\0".into() },
                Event::McpServer { name: name(), status: "failed".into() },
            ),
            (Event::Unknown { kind: before() }, Event::Unknown { kind: name() }),
            (
                Event::Transcript { file: before(), lines: before() },
                Event::Transcript { file: before(), lines: before() },
            ),
            (Event::Compacted { asked: true }, Event::Compacted { asked: true }),
            (failed(before()), failed(text())),
            (
                Event::Result(TurnResult {
                    is_error: true,
                    result: before(),
                    session_id: id(),
                    num_turns: 7,
                    model_failed: true,
                    model_status: Some(529),
                    interrupted: true,
                    structured_output: Some(given),
                    ..TurnResult::default()
                }),
                Event::Result(TurnResult {
                    is_error: true,
                    result: text(),
                    session_id: id(),
                    num_turns: 7,
                    model_failed: true,
                    model_status: Some(529),
                    interrupted: true,
                    structured_output: Some(taken),
                    ..TurnResult::default()
                }),
            ),
        ];
        for (event, expected) in cases {
            assert_eq!(bounded(event), Ok(expected));
        }
        for bad in [
            Event::Begins { turn: before() },
            system(before(), &id),
            Event::Ask(ask(before(), &id, Value::Null)),
            Event::Reply { id: before(), lines: Vec::new() },
        ] {
            assert!(bounded(bad.clone()).is_err(), "{bad:?}");
        }
        // The longest id and name, and one letter more.
        for (length, is_valid) in [(LONGEST_NAME, true), (LONGEST_NAME + 1, false)] {
            let long = "x".repeat(length);
            assert_eq!(bounded(Event::Begins { turn: long.clone() }).is_ok(), is_valid);
            assert_eq!(bounded(Event::Unknown { kind: long }), Ok(Event::Unknown { kind: "x".repeat(LONGEST_NAME) }));
        }
        let one = |count: u64| Usage {
            input_tokens: count,
            output_tokens: count + 1,
            cache_creation_5m_tokens: count + 2,
            cache_creation_1h_tokens: count + 3,
            cache_read_tokens: count + 4,
        };
        assert_eq!(bounded(Event::Usage { usage: one(5) }), Ok(Event::Usage { usage: one(5) }));
        let all = Usage { input_tokens: MOST_TOKENS, ..one(MOST_TOKENS) };
        let Ok(Event::Usage { usage }) = bounded(Event::Usage { usage: all }) else { panic!("a count") };
        assert_eq!(usage.total(), 5 * MOST_TOKENS);
    }
}
