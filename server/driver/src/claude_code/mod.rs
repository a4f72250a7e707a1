//! The driver of the Claude Code CLI, by its stream-json format and its control protocol.

mod client_tools;
mod control;
mod environment;
mod known;
mod mapping;
mod servers;
mod transcript;
mod usage;

use std::collections::BTreeMap;

use nagaya_protocol::{Ended, ExecuteRequest, How};
use serde_json::{Value, json};

use self::usage::Counted;
use crate::event::{Ask, ErrorKind, Event, Failure};
use crate::options::{Options, Permissions};
use crate::prompt::{Block, Prompt};
use crate::{Access, Answer, Dialogue, Driver, Memory, Subagent, claims};

/// The oldest version of the CLI that is supported, `workspace-base/requirements-oldest.txt`.
const OLDEST: &str = "2.1.316";
/// The version of the image, `workspace-base/requirements.txt`.
const NEWEST: &str = "2.1.331";
/// Tools of the CLI that promise something for a time after the turn, when no process but the CLI's is left.
const TOOLS_FOR_LATER: &str = "CronCreate,CronDelete,CronList,Monitor,PushNotification,RemoteTrigger,ScheduleWakeup";
/// What the CLI says when it does not find the session to continue, or no message in its file.
const SESSION_LOST: &str = "No conversation found with session ID";
/// How often the CLI may announce that it repeats a call whose credentials were refused. Not never: the egress proxy fetches
/// credentials anew after a refusal, so the first repetition may succeed.
const REFUSALS: u32 = 1;
/// The tool that uses skills.
const SKILL_TOOL: &str = "Skill";
/// Names of the tools that start sub-agents.
const SUBAGENT_TOOLS: [&str; 2] = ["Task", "Agent"];
/// Marks the line before a sub-agent's report in the tool's result.
const HAND_BACK: &str = "[Subagent hand-back]";

/// The driver of the Claude Code CLI.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClaudeCode;

impl Driver for ClaudeCode {
    fn start(&self, options: &Options) -> ExecuteRequest {
        let mut environment: BTreeMap<_, _> =
            options.environment.iter().map(|(name, value)| (name.clone(), Some(value.clone()))).collect();
        // What leads to the model comes last, so that no variable of a configuration replaces it.
        environment.extend(options.access.iter().flat_map(|access| environment::of_a_run(access, &options.model)));
        ExecuteRequest {
            // The image's CLI.
            program: None,
            arguments: arguments(options),
            environment,
            input: Vec::new(),
            cwd: options.directory.clone(),
        }
    }

    fn fixed(&self, options: &Options) -> Options {
        Options { system_prompt: String::new(), ..options.clone() }
    }

    fn introduce(&self, options: &Options) -> Vec<String> {
        match options.system_prompt.as_str() {
            "" => Vec::new(),
            prompt => vec![control::initialize(prompt)],
        }
    }

    fn dialogue(&self, options: &Options, after_others: Option<&str>) -> Box<dyn Dialogue> {
        let tools = client_tools::Server::new(options.client_tools.clone());
        Box::new(Turn { awaited: after_others.map(ToOwned::to_owned), tools, ..Turn::default() })
    }

    /// `client_composed` makes the input plain text: without it, `/clear` and the like are carried out as commands, and `@path` is
    /// replaced by the content of a file.
    fn prompt(&self, id: &str, prompt: &Prompt) -> Vec<String> {
        let text = Block::Text { text: prompt.text.clone() };
        let content: Vec<_> = prompt.blocks.iter().chain([&text]).map(block).collect();
        let mut message = json!({"type": "user", "message": {"role": "user", "content": content}, "parent_tool_use_id": null,
            "session_id": "", "uuid": id});
        if !prompt.command {
            message["client_composed"] = true.into();
        }
        vec![message.to_string()]
    }

    fn interrupt(&self, id: &str) -> Vec<String> {
        vec![control::interrupt(id)]
    }

    fn answer(&self, ask: &Ask, answer: &Answer) -> Vec<String> {
        vec![control::answer(ask, answer)]
    }

    fn failure(&self, ended: &Ended) -> Failure {
        let stderr = ended.stderr.trim();
        let told = if stderr.is_empty() { "nothing on standard error" } else { stderr };
        let without_result = || format!("the CLI exited without a result ({}): {told}", ended.message);
        if let Some(used_up) = &ended.out_of_memory
            && ended.how != How::Cancelled
        {
            return Failure { kind: ErrorKind::OutOfMemory, message: format!("{used_up} ({})", without_result()) };
        }
        let (kind, message) = match ended.how {
            How::Missing => (ErrorKind::SdkNotInstalled, ended.message.clone()),
            How::Refused => (ErrorKind::OptionsError, ended.message.clone()),
            How::Cancelled => (ErrorKind::Cancelled, ended.message.clone()),
            // The CLI's argument parser begins its messages like this, and what checks the values of options.
            _ if stderr.starts_with("error: ") || stderr.starts_with("Error: --") => {
                (ErrorKind::OptionsError, stderr.to_owned())
            }
            How::Exited | How::Failed | How::Unfinished => (ErrorKind::ExecutionError, without_result()),
        };
        Failure { kind, message }
    }

    fn versions(&self) -> Option<(&'static str, &'static str)> {
        Some((OLDEST, NEWEST))
    }

    fn by_hand(&self, access: &Access) -> BTreeMap<String, String> {
        environment::of_a_container(access)
    }

    fn commands(&self) -> &'static [&'static str] {
        &["compact", "context", "usage", "init", "code-review", "security-review", "simplify"]
    }

    fn questions<'a>(&self, ask: &'a Ask) -> Vec<&'a str> {
        control::questions(ask)
    }

    fn answers(&self, ask: &Ask, answer: &dyn Fn(&str) -> Option<String>) -> Answer {
        control::answers(ask, answer)
    }

    fn restore(&self, transcript: &[(String, String)]) -> Option<Memory> {
        transcript::restore(transcript)
    }

    fn subagent(&self, tool: &str, input: &Value) -> Option<Subagent> {
        let text = |key: &str| input[key].as_str().map(ToOwned::to_owned);
        SUBAGENT_TOOLS.contains(&tool).then(|| Subagent {
            kind: text("subagent_type").unwrap_or_default(),
            description: text("description").unwrap_or_default(),
            model: text("model"),
        })
    }

    fn report<'c>(&self, result: &'c str) -> &'c str {
        let report = result.split_once(HAND_BACK).and_then(|(_, rest)| Some(rest.split_once('\n')?.1));
        report.unwrap_or(result)
    }

    fn failed_server<'t>(&self, tool: &'t str, result: &str) -> Option<(&'t str, &'static str)> {
        servers::failed(tool, result)
    }

    fn plugin(&self, name: &str) -> Option<(String, String)> {
        let manifest = json!({"name": name, "description": "Skills of the tenant"}).to_string();
        Some((".claude-plugin/plugin.json".into(), manifest))
    }
}

/// A block of the Messages API.
fn block(block: &Block) -> Value {
    let document = |source: Value, title: &Option<String>| {
        let mut document = json!({"type": "document", "source": source});
        if let Some(title) = title {
            document["title"] = title.as_str().into();
        }
        document
    };
    let bytes = |media_type: &str, data: &str| json!({"type": "base64", "media_type": media_type, "data": data});
    match block {
        Block::Text { text } => json!({"type": "text", "text": text}),
        Block::Image { media_type, data } => json!({"type": "image", "source": bytes(media_type, data)}),
        Block::Document { media_type, data, title } => document(bytes(media_type, data), title),
        Block::TextDocument { text, title } => {
            document(json!({"type": "text", "media_type": "text/plain", "data": text}), title)
        }
    }
}

/// The CLI's options, but for the system prompt: that may be longer than the 128 KiB which the kernel takes as one argument (execve(2),
/// `MAX_ARG_STRLEN`), so it is told by a control request. Name and value are one argument, so that a value that begins with a dash is not
/// parsed as an option.
fn arguments(options: &Options) -> Vec<String> {
    let mut arguments: Vec<String> = [
        "-p",
        "--input-format",
        "stream-json",
        "--output-format",
        "stream-json",
        "--verbose",
        "--include-partial-messages",
        // The container is the sandbox, so all is permitted but what the rules ask about or deny, which apply in this mode, too.
        "--permission-mode",
        "bypassPermissions",
        "--permission-prompt-tool",
        "stdio",
        // What it writes to its transcript it reports as well.
        "--session-mirror",
        // Nothing that an earlier run left in the room's files changes the driver: no settings with hooks or plugins, no MCP servers.
        "--setting-sources=",
        "--strict-mcp-config",
        // Otherwise a session keeps the system prompt of its first turn for ever, whatever a later driver is started with.
        "--system-prompt-snapshot=off",
    ]
    .map(String::from)
    .to_vec();
    let Permissions { ask, deny, questions } = &options.permissions;
    let mut denied = vec![TOOLS_FOR_LATER.to_owned()];
    if !questions {
        denied.push(control::QUESTION_TOOL.into());
    }
    let mut option = |name: &str, value: Option<String>| arguments.extend(value.map(|value| format!("{name}={value}")));
    option("--disallowedTools", Some(denied.join(",")));
    if !ask.is_empty() || !deny.is_empty() {
        option("--settings", Some(json!({"permissions": {"ask": ask, "deny": deny}}).to_string()));
    }
    option("--model", Some(options.model.clone()));
    option("--resume", options.session.clone());
    let fallbacks = Some(options.fallback_models.join(",")).filter(|models| !models.is_empty());
    option("--fallback-model", fallbacks);
    for plugin in &options.plugins {
        option("--plugin-dir", Some(plugin.clone()));
    }
    option("--effort", options.effort.clone());
    option("--json-schema", options.output_schema.as_ref().map(ToString::to_string));
    option("--max-turns", options.max_turns.map(|turns| turns.to_string()));
    // Not --allowedTools, which only lists tools that need no permission; in this mode none does. Skills are used by a tool, which is
    // permitted with them.
    option(
        "--tools",
        options.tools.as_ref().map(|tools| {
            let skills = !options.plugins.is_empty() && !tools.iter().any(|tool| tool == SKILL_TOOL);
            tools.iter().map(String::as_str).chain(skills.then_some(SKILL_TOOL)).collect::<Vec<_>>().join(",")
        }),
    );
    let server = |(name, url): (&String, &String)| (name.clone(), json!({"type": "http", "url": url}));
    let mut servers: serde_json::Map<_, _> = options.mcp_servers.iter().map(server).collect();
    if !options.client_tools.is_empty() {
        servers.insert(client_tools::SERVER.into(), json!({"type": "sdk", "name": client_tools::SERVER}));
    }
    if !servers.is_empty() {
        option("--mcp-config", Some(json!({"mcpServers": servers}).to_string()));
    }
    arguments
}

/// One turn of the CLI.
#[derive(Debug, Default)]
struct Turn {
    counted: Counted,
    /// How often it has announced that it repeats a call whose credentials were refused.
    refusals: u32,
    /// Id of the turn, until it begins.
    awaited: Option<String>,
    /// Id of the turn, once it has begun.
    id: String,
    /// The caller's tools.
    tools: client_tools::Server,
    /// MCP servers of which it is not known yet whether they can be used.
    servers: servers::Awaited,
}

impl Dialogue for Turn {
    fn has_begun(&self) -> bool {
        self.awaited.is_none()
    }

    fn read(&mut self, line: &str) -> Result<Vec<Event>, String> {
        let mut counted = std::mem::take(&mut self.counted);
        let events = mapping::map(line, &mut counted, &mut self.tools);
        for event in &events {
            if let Event::Begins { turn } = event
                && self.awaited.as_ref().is_none_or(|awaited| awaited == turn)
            {
                self.awaited = None;
                self.id.clone_from(turn);
            }
        }
        let begun = self.awaited.is_none();
        if begun {
            self.counted = counted;
        }
        let counts = |event: &Event| begun || event.is_of_any_turn();
        let events = events.into_iter().filter(|event| !matches!(event, Event::Begins { .. }) && counts(event));
        let events = events.flat_map(|event| {
            let event = self.judge(event);
            self.servers.follow(event, &self.id)
        });
        events.map(claims::bounded).collect()
    }
}

impl Turn {
    /// The event, or the failure that it means.
    fn judge(&mut self, event: Event) -> Event {
        match event {
            Event::Result(turn) if turn.is_error && turn.result.starts_with(SESSION_LOST) => {
                Event::Failed(Failure { kind: ErrorKind::SessionLost, message: turn.result })
            }
            Event::Retry { status: Some(401 | 403), .. } if self.refusals >= REFUSALS => {
                let message = "the model's endpoint refuses the credentials; the call was repeated once".into();
                Event::Failed(Failure { kind: ErrorKind::ModelCredentials, message })
            }
            Event::Retry { status: Some(401 | 403), .. } => {
                self.refusals += 1;
                event
            }
            event => event,
        }
    }
}

#[cfg(test)]
mod tests;
