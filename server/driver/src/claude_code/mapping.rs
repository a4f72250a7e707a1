//! Maps the CLI's stream-json messages to events.
//!
//! The messages are those the CLI prints with `--output-format stream-json --verbose --include-partial-messages`. The image's
//! requirements.txt pins its version, and scenario BUG-10 checks the real CLI.

use serde_json::Value;

use super::usage::{self, Counted};
use super::{client_tools, control, known, servers, transcript};
use crate::event::{ContentBlock, Event, NOT_JSON, SYSTEM, TOO_MANY, TurnResult};
use crate::weight;

/// Maps one line of output to events: one for each block of a message. `counted` has the tokens of the lines before, `tools` the calls
/// of the caller's tools.
pub(super) fn map(line: &str, counted: &mut Counted, tools: &mut client_tools::Server) -> Vec<Event> {
    if !weight::is_light(line) {
        return vec![Event::Unknown { kind: TOO_MANY.into() }];
    }
    let message: Value = match serde_json::from_str(line) {
        Ok(message) => message,
        Err(error) => {
            tracing::debug!(%error, line = line.chars().take(200).collect::<String>(), "skipped a line that is not JSON");
            return vec![Event::Unknown { kind: NOT_JSON.into() }];
        }
    };
    let parent = text(&message["parent_tool_use_id"]);
    match message["type"].as_str().unwrap_or_default() {
        "system" => system(&message),
        "stream_event" => {
            let event = &message["event"];
            let told = counted.see(event, parent.as_deref()).map(|usage| Event::Usage { usage });
            [told, delta(event, parent.as_deref()), abandoned(&message)].into_iter().flatten().collect()
        }
        "assistant" => {
            if let (Some(error), None) = (message["error"].as_str(), &parent) {
                counted.fail(error, message["message"]["stop_reason"].as_str());
            }
            blocks(&message).iter().filter_map(|block| assistant(block, parent.as_deref())).collect()
        }
        "user" => blocks(&message).iter().filter_map(|block| tool_result(block, parent.as_deref())).collect(),
        "result" => vec![result(&message, counted)],
        "command_lifecycle" => text(&message["command_uuid"]).map(|turn| Event::Begins { turn }).into_iter().collect(),
        "control_request" => control::request(&message, tools),
        "control_cancel_request" => {
            text(&message["request_id"]).map(|request_id| Event::Withdrawn { request_id }).into_iter().collect()
        }
        "transcript_mirror" => transcript::mirrored(&message).into_iter().collect(),
        // Other answers to requests need no more than to be received.
        "control_response" => {
            let refused = control::not_introduced(&message).map(Event::Failed);
            refused.into_iter().chain(servers::states(&message["response"]["response"]["mcpServers"])).collect()
        }
        known if known::is_message(known) => Vec::new(),
        unknown => vec![Event::Unknown { kind: unknown.to_owned() }],
    }
}

pub(super) fn text(value: &Value) -> Option<String> {
    value.as_str().map(ToOwned::to_owned)
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(text).collect()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

fn blocks(message: &Value) -> &[Value] {
    message["message"]["content"].as_array().map_or(&[], Vec::as_slice)
}

fn system(message: &Value) -> Vec<Event> {
    match message["subtype"].as_str().unwrap_or_default() {
        "init" => {
            let mut events = vec![Event::System {
                session_id: text(&message["session_id"]).unwrap_or_default(),
                model: text(&message["model"]).unwrap_or_default(),
                tools: texts(&message["tools"]),
                commands: texts(&message["slash_commands"]),
                version: text(&message["claude_code_version"]),
            }];
            events.extend(servers::states(&message["mcp_servers"]));
            events
        }
        "api_retry" => vec![Event::Retry {
            attempt: small(&message["attempt"]),
            most: small(&message["max_retries"]),
            delay_ms: number(&message["retry_delay_ms"]),
            status: status(&message["error_status"]),
            reason: text(&message["error"]).unwrap_or_else(|| "unknown".into()),
        }],
        "model_fallback" => vec![Event::Fallback {
            from: text(&message["original_model"]).unwrap_or_default(),
            to: text(&message["fallback_model"]).unwrap_or_default(),
            reason: text(&message["trigger"]).unwrap_or_else(|| "unknown".into()),
        }],
        "compact_boundary" => vec![Event::Compacted { asked: message["compact_metadata"]["trigger"] == "manual" }],
        known if known::is_system(known) => Vec::new(),
        unknown => vec![Event::Unknown { kind: format!("{SYSTEM}{unknown}") }],
    }
}

/// The CLI gives up an answer in the middle, because nothing of it has arrived for too long, and asks for it once more.
fn abandoned(message: &Value) -> Option<Event> {
    let given_up = message["abandoned_blocks"].is_object();
    given_up.then(|| Event::Retry { attempt: 0, most: 0, delay_ms: 0, status: None, reason: "broken_off".into() })
}

fn small(value: &Value) -> u32 {
    u32::try_from(number(value)).unwrap_or(u32::MAX)
}

/// An HTTP status; `None` for null and for anything else.
fn status(value: &Value) -> Option<u16> {
    u16::try_from(value.as_u64()?).ok()
}

/// Only the main conversation's text is sent as it arrives; a sub-agent's text is sent once complete.
fn delta(event: &Value, parent: Option<&str>) -> Option<Event> {
    let is_text = event["type"] == "content_block_delta" && event["delta"]["type"] == "text_delta";
    let text = text(&event["delta"]["text"]).filter(|text| !text.is_empty())?;
    (is_text && parent.is_none()).then_some(Event::TextDelta { text })
}

fn assistant(block: &Value, parent: Option<&str>) -> Option<Event> {
    let parent_tool_use_id = parent.map(ToOwned::to_owned);
    match block["type"].as_str().unwrap_or_default() {
        "text" => Some(Event::Assistant {
            content_blocks: vec![ContentBlock::Text { text: text(&block["text"])? }],
            parent_tool_use_id,
        }),
        "thinking" => Some(Event::Thinking { content: text(&block["thinking"])?, parent_tool_use_id }),
        "tool_use" => Some(Event::ToolUse {
            tool_use_id: text(&block["id"])?,
            tool_name: text(&block["name"])?,
            input: block["input"].clone(),
            parent_tool_use_id,
        }),
        unknown => Some(Event::Unknown { kind: unknown.to_owned() }),
    }
}

fn tool_result(block: &Value, parent: Option<&str>) -> Option<Event> {
    (block["type"] == "tool_result").then(|| Event::ToolResult {
        tool_use_id: text(&block["tool_use_id"]).unwrap_or_default(),
        content: flatten(&block["content"]),
        is_error: block["is_error"].as_bool().unwrap_or(false),
        parent_tool_use_id: parent.map(ToOwned::to_owned),
    })
}

/// The text of a tool's result, which is either a string or a list of blocks.
fn flatten(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(blocks) => blocks.iter().map(block_text).collect::<Vec<_>>().join("\n"),
        _ => String::new(),
    }
}

/// The text of a block. In the place of any other, a line says what was there: `[image: image/png]`.
fn block_text(block: &Value) -> String {
    if let Some(text) = block["text"].as_str() {
        return text.to_owned();
    }
    let kind = block["type"].as_str().unwrap_or("block");
    match block["source"]["media_type"].as_str() {
        Some(media) => format!("[{kind}: {media}]"),
        None => format!("[{kind}]"),
    }
}

fn result(message: &Value, counted: &Counted) -> Event {
    let failed = message["is_error"].as_bool().unwrap_or(false) || message["subtype"] != "success";
    let errors = || {
        let errors = message["errors"].as_array()?;
        Some(errors.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("; "))
    };
    let out_of_turns = message["subtype"] == "error_max_turns";
    let told = out_of_turns.then(|| "the run has taken as many turns as it may (limits.max_turns)".to_owned());
    let said = told.or_else(|| text(&message["result"]).or_else(errors).filter(|said| !said.is_empty()));
    Event::Result(TurnResult {
        is_error: failed,
        result: said.unwrap_or_else(|| text(&message["subtype"]).filter(|_| failed).unwrap_or_default()),
        session_id: text(&message["session_id"]).unwrap_or_default(),
        usage: usage::of(&message["usage"]),
        num_turns: small(&message["num_turns"]),
        model_failed: failed && message["terminal_reason"] == "api_error",
        model_status: status(&message["api_error_status"]),
        // The CLI's own is that of its last message, which may be one of its own in the place of an answer.
        stop_reason: counted.stop_reason(),
        interrupted: message["terminal_reason"].as_str().is_some_and(|why| why.starts_with("aborted")),
        structured_output: message.get("structured_output").filter(|output| !output.is_null()).cloned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn one(message: Value) -> Event {
        one_line(&message.to_string())
    }

    fn one_line(line: &str) -> Event {
        let mut events = map(line, &mut Counted::default(), &mut client_tools::Server::default());
        assert_eq!(events.len(), 1, "{events:?}");
        events.remove(0)
    }

    #[test]
    fn each_message_maps_to_its_event() {
        let init = json!({"type": "system", "subtype": "init", "session_id": "s", "model": "m", "tools": ["Bash"],
            "slash_commands": ["compact"], "claude_code_version": "2.1.0"});
        let (tools, commands, version) = (vec!["Bash".into()], vec!["compact".into()], Some("2.1.0".into()));
        assert_eq!(one(init), Event::System { session_id: "s".into(), model: "m".into(), tools, commands, version });
        let delta = json!({"type": "stream_event", "parent_tool_use_id": null,
            "event": {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "長"}}});
        assert_eq!(one(delta), Event::TextDelta { text: "長".into() });
        let call = json!({"type": "assistant", "parent_tool_use_id": "p", "message": {"content": [
            {"type": "tool_use", "id": "t", "name": "Bash", "input": {"command": "ls"}}]}});
        assert_eq!(
            one(call),
            Event::ToolUse {
                tool_use_id: "t".into(),
                tool_name: "Bash".into(),
                input: json!({"command": "ls"}),
                parent_tool_use_id: Some("p".into())
            }
        );
        let answer = json!({"type": "user", "message": {"content": [{"type": "tool_result", "tool_use_id": "t",
            "is_error": true, "content": [{"type": "text", "text": "a"}, {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
            {"type": "text", "text": "b"}]}]}});
        assert_eq!(
            one(answer),
            Event::ToolResult {
                tool_use_id: "t".into(),
                content: "a\n[image: image/png]\nb".into(),
                is_error: true,
                parent_tool_use_id: None
            }
        );
    }

    #[test]
    fn a_result_keeps_token_counts_by_kind() {
        let event = one(json!({"type": "result", "subtype": "success", "is_error": false, "result": "done",
            "session_id": "s", "num_turns": 2, "duration_ms": 700, "usage": {"input_tokens": 3, "output_tokens": 5,
            "cache_creation_input_tokens": 30, "cache_read_input_tokens": 7,
            "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 10}}}));
        let Event::Result(turn) = event else { panic!("{event:?}") };
        assert!(!turn.is_error && !turn.interrupted);
        let usage = turn.usage;
        assert_eq!((usage.cache_creation_5m_tokens, usage.cache_creation_1h_tokens, turn.num_turns), (20, 10, 2));
        assert_eq!(usage.total(), 45);
        let failed = one(json!({"type": "result", "subtype": "error_max_turns", "is_error": false}));
        assert!(matches!(failed, Event::Result(turn) if turn.is_error && turn.result.contains("limits.max_turns")));
    }

    #[test]
    fn a_retry_is_told_and_so_is_an_answer_that_is_given_up() {
        let retry = one(json!({"type": "system", "subtype": "api_retry", "attempt": 1, "max_retries": 4,
            "retry_delay_ms": 581, "error_status": 429, "error": "rate_limit", "session_id": "s"}));
        let reason = "rate_limit".into();
        assert_eq!(retry, Event::Retry { attempt: 1, most: 4, delay_ms: 581, status: Some(429), reason });
        let given_up =
            one(json!({"type": "stream_event", "parent_tool_use_id": null, "event": {"type": "message_stop"},
            "abandoned_blocks": {"api_message_id": "m", "from_block_index": 0}}));
        assert!(matches!(given_up, Event::Retry { status: None, .. }), "{given_up:?}");
        let stop = json!({"type": "stream_event", "event": {"type": "message_stop"}}).to_string();
        assert_eq!(map(&stop, &mut Counted::default(), &mut client_tools::Server::default()), vec![]);
    }

    #[test]
    fn a_model_that_stands_in_and_a_structured_result_are_told() {
        let fallback = json!({"type": "system", "subtype": "model_fallback", "trigger": "overloaded", "original_model": "a",
            "fallback_model": "b", "content": "Switched"});
        assert_eq!(one(fallback), Event::Fallback { from: "a".into(), to: "b".into(), reason: "overloaded".into() });
        let result = json!({"type": "result", "subtype": "success", "structured_output": {"n": 3}});
        assert!(matches!(one(result), Event::Result(turn) if turn.structured_output == Some(json!({"n": 3}))));
    }

    #[test]
    fn unknown_messages_are_counted_and_others_skipped() {
        let blocks = r#"{"type":"assistant","message":{"content":[{"type":"hologram"}]}}"#;
        for line in ["not json", "", "[]", "null", r#"{"type":"telemetry"}"#, blocks, r#"{"type":"system"}"#] {
            assert!(matches!(one_line(line), Event::Unknown { .. }), "{line}");
        }
        let kind = "system/of_the_future".into();
        assert_eq!(one(json!({"type": "system", "subtype": "of_the_future"})), Event::Unknown { kind });
        for line in [
            r#"{"type":"assistant","message":{"content":"text"}}"#,
            r#"{"type":"system","subtype":"hook_started"}"#,
            r#"{"type":"user","message":{"content":[{"type":"text","text":"hi"}]}}"#,
            r#"{"type":"control_response","response":{"subtype":"success","request_id":"r"}}"#,
        ] {
            assert_eq!(map(line, &mut Counted::default(), &mut client_tools::Server::default()), vec![], "{line}");
        }
    }
    #[test]
    fn states_of_servers_compactions_and_withdrawals_are_told() {
        let events =
            |message: Value| map(&message.to_string(), &mut Counted::default(), &mut client_tools::Server::default());
        let init = json!({"type": "system", "subtype": "init", "mcp_servers": [{"name": "a", "status": "connected"},
            {"name": "b", "status": "pending"}, {"name": "c", "status": "failed"}, {"name": "d", "status": "needs-auth"}, {"name": "e"}]});
        let nothing = Event::System {
            session_id: String::new(),
            model: String::new(),
            tools: Vec::new(),
            commands: Vec::new(),
            version: None,
        };
        let server = |name: &str, status: &str| Event::McpServer { name: name.into(), status: status.into() };
        let states = [("a", "connected"), ("b", "pending"), ("c", "failed"), ("d", "needs-auth"), ("e", "unknown")];
        let expected: Vec<Event> =
            std::iter::once(nothing).chain(states.map(|(name, status)| server(name, status))).collect();
        assert_eq!(events(init), expected);
        for (trigger, asked) in [("manual", true), ("auto", false)] {
            let compacted =
                json!({"type": "system", "subtype": "compact_boundary", "compact_metadata": {"trigger": trigger}});
            assert_eq!(events(compacted), [Event::Compacted { asked }]);
        }
        let withdrawn = json!({"type": "control_cancel_request", "request_id": "r"});
        assert_eq!(events(withdrawn), [Event::Withdrawn { request_id: "r".into() }]);
        let begins = json!({"type": "command_lifecycle", "command_uuid": "u"});
        assert_eq!(events(begins), [Event::Begins { turn: "u".into() }]);
        let bare = json!({"type": "system", "subtype": "api_retry"});
        let reason = "unknown".into();
        assert_eq!(events(bare), [Event::Retry { attempt: 0, most: 0, delay_ms: 0, status: None, reason }]);
        for kind in known::MESSAGES.iter().chain(&["control_cancel_request", "command_lifecycle"]) {
            assert_eq!(events(json!({"type": kind})), [], "{kind}");
        }
    }

    #[test]
    fn blocks_of_a_message_are_told_in_order_and_whose_they_are() {
        let events =
            |message: Value| map(&message.to_string(), &mut Counted::default(), &mut client_tools::Server::default());
        let message = json!({"type": "assistant", "parent_tool_use_id": "p", "message": {"content": [
            {"type": "text", "text": "one"}, {"type": "thinking", "thinking": "two"}, {"type": "text"}, {"type": "tool_use", "id": "t"},
            {"type": "tool_use", "id": "t", "name": "n", "input": 3}]}});
        let parent = || Some("p".to_owned());
        let text = |text: &str| vec![ContentBlock::Text { text: text.into() }];
        assert_eq!(
            events(message),
            [
                Event::Assistant { content_blocks: text("one"), parent_tool_use_id: parent() },
                Event::Thinking { content: "two".into(), parent_tool_use_id: parent() },
                Event::ToolUse {
                    tool_use_id: "t".into(),
                    tool_name: "n".into(),
                    input: json!(3),
                    parent_tool_use_id: parent()
                },
            ]
        );
        let result = |content: Value| {
            let message = json!({"type": "user", "parent_tool_use_id": "p", "message": {"content": [
                {"type": "tool_result", "tool_use_id": "t", "content": content}]}});
            match &events(message)[..] {
                [Event::ToolResult { content, is_error: false, parent_tool_use_id: Some(_), .. }] => content.clone(),
                other => panic!("{other:?}"),
            }
        };
        for (content, expected) in [
            (json!("plain"), "plain"),
            (json!([]), ""),
            (json!(null), ""),
            (json!([{"type": "text", "text": "a"}, {"type": "resource"}, {}]), "a\n[resource]\n[block]"),
            (json!([{"type": "document", "source": {"media_type": "application/pdf"}}]), "[document: application/pdf]"),
        ] {
            assert_eq!(result(content), expected);
        }
        // A sub-agent's text is told once it is complete, and so is nothing but text.
        let delta = |parent: Value, kind: &str, text: &str| {
            events(json!({"type": "stream_event", "parent_tool_use_id": parent,
                "event": {"type": "content_block_delta", "delta": {"type": kind, "text": text}}}))
        };
        assert_eq!(delta(json!(null), "text_delta", "a"), [Event::TextDelta { text: "a".into() }]);
        assert_eq!(delta(json!("p"), "text_delta", "a"), []);
        assert_eq!(delta(json!(null), "text_delta", ""), []);
        assert_eq!(delta(json!(null), "input_json_delta", "a"), []);
    }

    #[test]
    fn a_result_says_what_it_is_in_each_of_its_forms() {
        let told = |mut message: Value| {
            message["type"] = "result".into();
            let Event::Result(turn) = one(message) else { panic!("a result") };
            turn
        };
        for (message, is_error, said) in [
            (json!({"subtype": "success", "result": "r"}), false, "r"),
            (json!({"subtype": "success", "is_error": true, "result": "r"}), true, "r"),
            (json!({"subtype": "success"}), false, ""),
            (json!({"subtype": "success", "result": ""}), false, ""),
            (json!({"subtype": "error_during_execution", "errors": ["a", "b", 3]}), true, "a; b"),
            (json!({"subtype": "error_during_execution", "errors": []}), true, "error_during_execution"),
            (json!({"subtype": "error_of_the_future", "result": "", "errors": ["a"]}), true, "error_of_the_future"),
            (
                json!({"subtype": "error_max_turns", "errors": ["a"]}),
                true,
                "the run has taken as many turns as it may (limits.max_turns)",
            ),
            (json!({}), true, ""),
        ] {
            let turn = told(message.clone());
            assert_eq!((turn.is_error, turn.result.as_str()), (is_error, said), "{message}");
        }
        for (reason, is_error, failed, interrupted) in [
            ("api_error", true, true, false),
            ("api_error", false, false, false),
            ("aborted_streaming", true, false, true),
            ("aborted_tools", false, false, true),
            ("completed", true, false, false),
        ] {
            let turn = told(
                json!({"subtype": "success", "is_error": is_error, "terminal_reason": reason, "api_error_status": 529}),
            );
            assert_eq!(
                (turn.model_failed, turn.interrupted, turn.model_status),
                (failed, interrupted, Some(529)),
                "{reason}"
            );
        }
        let turn = told(
            json!({"subtype": "success", "session_id": "s", "num_turns": 5_000_000_000_u64, "api_error_status": null,
            "structured_output": null}),
        );
        assert_eq!((turn.session_id.as_str(), turn.num_turns, turn.model_status), ("s", u32::MAX, None));
        assert_eq!(turn.structured_output, None);
    }
}
