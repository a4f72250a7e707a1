//! Translates the agent's events to the client's.

use std::sync::Arc;

use nagaya_driver as driver;
use nagaya_driver::{Driver, ErrorKind};
use serde_json::Value;

use super::event::{ErrorType, Event, ProgressKind};
use super::journal::Known;
use super::skills::SKILLS;

/// Longest summary of a tool call, and longest preview of a sub-agent's report, in characters.
const SHORT: usize = 120;

/// Tool calls that may be without a result at the same time. A driver has a few for each of its sub-agents.
const MOST_OPEN_TOOLS: usize = 1_000;

/// MCP servers whose failure one run reports. A conversation has fewer; what a workspace says may name any.
const MOST_FAILED_SERVERS: usize = 100;

/// The translator of one run. It remembers the open tool calls, because a result does not name its tool.
#[derive(Debug)]
pub(super) struct Translator {
    conversation: String,
    request_id: Option<String>,
    driver: Arc<dyn Driver>,
    known: Known,
}

impl Translator {
    /// `known` is what earlier events of the run mean for those that follow.
    pub(super) fn new(conversation: String, request_id: Option<String>, driver: Arc<dyn Driver>, known: Known) -> Self {
        Self { conversation, request_id, driver, known }
    }

    /// How many tool calls are without a result.
    pub(super) fn open_tools(&self) -> usize {
        self.known.tools.len()
    }

    /// Why what the driver has open is more than a driver has; `None` if it is not.
    pub(super) fn excess(&self) -> Option<String> {
        let open = self.known.tools.len();
        (open > MOST_OPEN_TOOLS).then(|| format!("{open} tool calls without a result"))
    }

    /// Those of the driver's commands that a run may ask for: the ones that are listed, and the conversation's skills.
    fn offered(&self, commands: &[String]) -> Vec<String> {
        let known = self.driver.commands();
        let may = |name: &&String| known.contains(&name.as_str()) || name.starts_with(SKILLS);
        commands.iter().filter(may).map(|name| format!("/{name}")).collect()
    }

    /// The client's events for one event of the agent. What the run itself handles yields none.
    pub(super) fn translate(&mut self, event: driver::Event) -> Vec<Event> {
        match event {
            driver::Event::Begins { .. }
            | driver::Event::Usage { .. }
            | driver::Event::Fallback { .. }
            | driver::Event::Ask(_)
            | driver::Event::Withdrawn { .. }
            | driver::Event::Reply { .. }
            | driver::Event::Transcript { .. }
            | driver::Event::Unknown { .. }
            | driver::Event::Result(_)
            | driver::Event::Failed(_) => Vec::new(),
            driver::Event::Compacted { asked } => {
                let why = if asked { "As was asked" } else { "The model's context was full" };
                vec![Event::Compacted {
                    message: format!("{why}: the conversation so far has been summed up for the model"),
                }]
            }
            driver::Event::McpServer { name, status } => self.failed_server(name, status, None).into_iter().collect(),
            driver::Event::Retry { attempt, most, delay_ms, status, reason } => {
                vec![Event::progress(ProgressKind::Retry, retry(attempt, most, delay_ms, status, &reason))]
            }
            driver::Event::System { session_id, model, tools, commands, .. } => vec![
                Event::Init {
                    session_id,
                    tools,
                    model,
                    commands: self.offered(&commands),
                    conversation_id: self.conversation.clone(),
                    request_id: self.request_id.clone(),
                },
                Event::progress(ProgressKind::Generating, "The model is generating an answer"),
            ],
            driver::Event::Assistant { content_blocks, parent_tool_use_id } => {
                vec![Event::Assistant { content_blocks, parent_agent_id: parent_tool_use_id }]
            }
            driver::Event::TextDelta { text } => vec![Event::TextDelta { text }],
            driver::Event::Thinking { content, parent_tool_use_id } => {
                vec![Event::Thinking { content, parent_agent_id: parent_tool_use_id }]
            }
            driver::Event::ToolUse { tool_use_id, tool_name, input, parent_tool_use_id } => {
                self.tool_use(tool_use_id, tool_name, input, parent_tool_use_id)
            }
            driver::Event::ToolResult { tool_use_id, content, is_error, parent_tool_use_id } => {
                self.tool_result(tool_use_id, content, is_error, parent_tool_use_id)
            }
        }
    }

    /// Reports that an MCP server fails: once.
    fn failed_server(&mut self, name: String, status: String, message: Option<String>) -> Option<Event> {
        let new =
            self.known.failed_servers.len() < MOST_FAILED_SERVERS && self.known.failed_servers.insert(name.clone());
        new.then_some(Event::McpServer { name, status, message })
    }

    fn tool_use(&mut self, id: String, name: String, input: Value, parent: Option<String>) -> Vec<Event> {
        self.known.tools.insert(id.clone(), name.clone());
        let summary = summary(&name, &input);
        let mut events = Vec::new();
        if let Some(driver::Subagent { kind, description, model }) = self.driver.subagent(&name, &input) {
            events.push(Event::SubagentStart { agent_id: id.clone(), agent_type: kind, description, model });
        }
        events.push(Event::Progress {
            kind: ProgressKind::Tool,
            message: summary.clone(),
            tool_use_id: Some(id.clone()),
            tool_name: Some(name.clone()),
            tool_status: Some("running"),
        });
        events.push(Event::ToolCall { tool_use_id: id, tool_name: name, input, summary, parent_agent_id: parent });
        events
    }

    fn tool_result(&mut self, id: String, content: String, is_error: bool, parent: Option<String>) -> Vec<Event> {
        let tool_name = self.known.tools.remove(&id).unwrap_or_else(|| "unknown".into());
        let status = if is_error { "error" } else { "completed" };
        let mut events = Vec::new();
        if self.driver.subagent(&tool_name, &Value::Null).is_some() {
            let result_preview = Some(shorten(self.driver.report(&content))).filter(|preview| !preview.is_empty());
            events.push(Event::SubagentEnd { agent_id: id.clone(), status, result_preview });
        }
        // Before the result, which is written at once: a server that is killed in between must not lose it.
        if is_error && let Some((server, state)) = self.driver.clone().failed_server(&tool_name, &content) {
            events.extend(self.failed_server(server.to_owned(), state.to_owned(), Some(shorten(&content))));
        }
        events.push(Event::ToolResult {
            tool_use_id: id,
            tool_name,
            status,
            content,
            is_error,
            parent_agent_id: parent,
        });
        events
    }
}

/// One line that says why a call of the model is repeated, and when.
fn retry(attempt: u32, most: u32, delay_ms: u64, status: Option<u16>, reason: &str) -> String {
    if attempt == 0 {
        return "The model's answer broke off. If it is requested again, its text begins anew".into();
    }
    let answer = status.map_or_else(|| "did not answer".into(), |status| format!("answered {status}"));
    let seconds = delay_ms.div_ceil(1000);
    format!("The model's endpoint {answer} ({}); retry {attempt} of {most} within {seconds} s", shorten(reason))
}

/// One line that describes the call: the tool's name and its most descriptive argument.
fn summary(tool: &str, input: &Value) -> String {
    let descriptive = ["description", "command", "file_path", "path", "pattern", "url", "query", "prompt"];
    match descriptive.iter().find_map(|key| input.get(key)?.as_str()) {
        Some(text) => shorten(&format!("{tool}: {text}")),
        None => tool.to_owned(),
    }
}

/// The first line of a text, cut to [`SHORT`] characters.
pub(super) fn shorten(text: &str) -> String {
    let line = text.trim().lines().next().unwrap_or_default().trim_end();
    match line.char_indices().nth(SHORT) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line.to_owned(),
    }
}

/// The client's error type for one of the agent's.
pub(super) fn error_type(kind: ErrorKind) -> ErrorType {
    match kind {
        ErrorKind::SdkNotInstalled => ErrorType::SdkNotInstalled,
        ErrorKind::OptionsError => ErrorType::OptionsError,
        ErrorKind::OutOfMemory => ErrorType::OutOfMemory,
        ErrorKind::ModelCredentials => ErrorType::ModelError,
        ErrorKind::ExecutionError | ErrorKind::Cancelled | ErrorKind::SessionLost => ErrorType::ExecutionError,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn translator() -> Translator {
        Translator::new("c".into(), None, driver::Kind::default().driver(), Known::default())
    }

    #[test]
    fn a_tool_call_and_its_result_are_paired() {
        let mut translator = translator();
        let input = json!({"command": "ls -l\nwc", "timeout": 3});
        let call = driver::Event::ToolUse {
            tool_use_id: "t1".into(),
            tool_name: "Bash".into(),
            input,
            parent_tool_use_id: None,
        };
        let names: Vec<_> = translator.translate(call).iter().map(Event::name).collect();
        assert_eq!(names, ["progress", "tool_call"]);
        let result = |id: &str| driver::Event::ToolResult {
            tool_use_id: id.into(),
            content: "ok".into(),
            is_error: false,
            parent_tool_use_id: None,
        };
        let events = translator.translate(result("t1"));
        assert!(matches!(&events[..], [Event::ToolResult { tool_name, .. }] if tool_name == "Bash"));
        let events = translator.translate(result("never called"));
        assert!(matches!(&events[..], [Event::ToolResult { tool_name, .. }] if tool_name == "unknown"));
    }

    #[test]
    fn a_server_that_fails_is_told_once_before_the_result() {
        let mut translator = translator();
        let mut call = |id: &str, content: &str, is_error: bool| {
            let (tool_use_id, parent_tool_use_id) = (id.to_owned(), None);
            let tool_name = "mcp__sums__add".into();
            translator.translate(driver::Event::ToolUse {
                tool_use_id,
                tool_name,
                input: json!({}),
                parent_tool_use_id,
            });
            let (tool_use_id, content) = (id.to_owned(), content.to_owned());
            let result = driver::Event::ToolResult { tool_use_id, content, is_error, parent_tool_use_id: None };
            translator.translate(result)
        };
        assert!(matches!(&call("1", "ECONNREFUSED: as it may be printed", false)[..], [Event::ToolResult { .. }]));
        assert!(matches!(&call("2", "not a number", true)[..], [Event::ToolResult { .. }]));
        let told = call("3", "Error POSTing to endpoint: no\nmore", true);
        let [Event::McpServer { name, status, message }, Event::ToolResult { .. }] = &told[..] else {
            panic!("{told:?}")
        };
        assert_eq!((name.as_str(), status.as_str()), ("sums", "failed"));
        assert_eq!(message.as_deref(), Some("Error POSTing to endpoint: no"));
        assert!(matches!(&call("4", "ECONNREFUSED: again", true)[..], [Event::ToolResult { .. }]));
    }

    #[test]
    fn what_a_sub_agent_does_is_its_own() {
        let parent = || Some("agent".to_owned());
        let (id, name) = ("t".to_owned(), "Bash".to_owned());
        let done = [
            driver::Event::Assistant { content_blocks: Vec::new(), parent_tool_use_id: parent() },
            driver::Event::Thinking { content: "hm".into(), parent_tool_use_id: parent() },
            driver::Event::ToolUse {
                tool_use_id: id.clone(),
                tool_name: name,
                input: json!({}),
                parent_tool_use_id: parent(),
            },
            driver::Event::ToolResult {
                tool_use_id: id,
                content: "ok".into(),
                is_error: false,
                parent_tool_use_id: parent(),
            },
        ];
        let mut translator = translator();
        for event in done {
            let told = translator.translate(event);
            let whose = |event: &Event| match event {
                Event::Assistant { parent_agent_id, .. }
                | Event::Thinking { parent_agent_id, .. }
                | Event::ToolCall { parent_agent_id, .. }
                | Event::ToolResult { parent_agent_id, .. } => Some(parent_agent_id.clone()),
                _ => None,
            };
            let whose: Vec<_> = told.iter().filter_map(whose).collect();
            assert_eq!(whose, [parent()], "{told:?}");
        }
    }

    #[test]
    fn tool_calls_without_a_result_are_limited() {
        let mut translator = translator();
        let mut open = |from: usize, to: usize| {
            for n in from..to {
                let (tool_use_id, tool_name) = (n.to_string(), "Bash".into());
                let input = json!({});
                translator.translate(driver::Event::ToolUse {
                    tool_use_id,
                    tool_name,
                    input,
                    parent_tool_use_id: None,
                });
            }
            translator.excess()
        };
        assert_eq!(open(0, MOST_OPEN_TOOLS), None);
        // The same call again is not another one.
        assert_eq!(open(0, 1), None);
        assert!(open(MOST_OPEN_TOOLS, MOST_OPEN_TOOLS + 1).is_some());
    }

    #[test]
    fn a_retry_says_why_and_when() {
        let told = retry(1, 4, 581, Some(429), "rate_limit");
        assert_eq!(told, "The model's endpoint answered 429 (rate_limit); retry 1 of 4 within 1 s");
        assert!(retry(2, 4, 0, None, "unknown").contains("did not answer"));
    }

    #[test]
    fn a_summary_is_one_short_line() {
        assert_eq!(summary("Bash", &json!({"command": "ls\nrm"})), "Bash: ls");
        assert_eq!(summary("Odd", &json!({"n": 1})), "Odd");
        assert_eq!(shorten(&"長".repeat(500)).chars().count(), SHORT + 1);
    }
}
