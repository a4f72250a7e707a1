//! A driver that calls no model: a script that does what the user's text says. It goes the way of every driver, through the agent, the log
//! and its readers, and costs almost nothing: so it shows what the way costs, and that nothing on it knows another driver.
//!
//! It has no tools, remembers nothing, and heeds of its options the session, the directory and the environment.

use nagaya_protocol::{Ended, ExecuteRequest, How};
use serde_json::json;

use crate::event::{Ask, AskKind, ContentBlock, ErrorKind, Event, Failure, TurnResult};
use crate::options::Options;
use crate::prompt::{Block, Prompt};
use crate::{Answer, Dialogue, Driver, claims};

/// Runs it, in every image of workspaces.
const SHELL: &str = "/bin/bash";
const SCRIPT: &str = include_str!("script.bash");
/// What it calls the tool for which it asks consent.
const TOOL: &str = "Ask";

/// The driver that is a script.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Script;

impl Driver for Script {
    fn start(&self, options: &Options) -> ExecuteRequest {
        let arguments = ["-c", SCRIPT, "driver"].into_iter().chain(options.session.as_deref());
        ExecuteRequest {
            program: Some(SHELL.into()),
            arguments: arguments.map(ToOwned::to_owned).collect(),
            environment: options.environment.iter().map(|(name, value)| (name.clone(), Some(value.clone()))).collect(),
            input: Vec::new(),
            cwd: options.directory.clone(),
        }
    }

    fn dialogue(&self, _options: &Options, after_others: Option<&str>) -> Box<dyn Dialogue> {
        Box::new(Turn { awaited: after_others.map(ToOwned::to_owned), ..Turn::default() })
    }

    fn prompt(&self, id: &str, prompt: &Prompt) -> Vec<String> {
        let before = prompt.blocks.iter().map(|block| match block {
            Block::Text { text } | Block::TextDocument { text, .. } => text.clone(),
            Block::Image { media_type, .. } | Block::Document { media_type, .. } => format!("[{media_type}]"),
        });
        let texts: Vec<String> = before.chain([prompt.text.clone()]).collect();
        let lines = texts.iter().flat_map(|text| text.lines()).map(|line| format!("> {}", plain(line)));
        [format!("turn {id}")].into_iter().chain(lines).chain([".".to_owned()]).collect()
    }

    fn interrupt(&self, _id: &str) -> Vec<String> {
        vec!["interrupt".into()]
    }

    fn answer(&self, ask: &Ask, answer: &Answer) -> Vec<String> {
        let told = match answer {
            Answer::Allow { .. } => "allowed",
            Answer::Deny { message } => message,
            Answer::Result { content, .. } => content,
        };
        vec![format!("answer {} {}", ask.request_id, plain(told))]
    }

    fn failure(&self, ended: &Ended) -> Failure {
        let kind = match ended.how {
            How::Missing => ErrorKind::SdkNotInstalled,
            How::Refused => ErrorKind::OptionsError,
            How::Cancelled => ErrorKind::Cancelled,
            How::Exited | How::Failed | How::Unfinished if ended.out_of_memory.is_some() => ErrorKind::OutOfMemory,
            How::Exited | How::Failed | How::Unfinished => ErrorKind::ExecutionError,
        };
        let why = ended.out_of_memory.as_ref().unwrap_or(&ended.message);
        Failure { kind, message: format!("the script has ended: {why}\n{}", ended.stderr).trim().to_owned() }
    }
}

/// A text as one line.
fn plain(text: &str) -> String {
    text.replace(['\n', '\r', '\0'], " ")
}

/// One turn of the script.
#[derive(Debug, Default)]
struct Turn {
    /// Id of the turn, until it begins.
    awaited: Option<String>,
    session: String,
    /// What was said last.
    said: String,
}

impl Dialogue for Turn {
    fn has_begun(&self) -> bool {
        self.awaited.is_none()
    }

    fn read(&mut self, line: &str) -> Result<Vec<Event>, String> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let event = match word {
            "began" => {
                let (turn, session) = rest.split_once(' ').unwrap_or((rest, ""));
                if self.awaited.as_deref() == Some(turn) {
                    self.awaited = None;
                }
                self.session = session.into();
                Event::System {
                    session_id: session.into(),
                    model: "none".into(),
                    tools: Vec::new(),
                    commands: Vec::new(),
                    version: None,
                }
            }
            "piece" => Event::TextDelta { text: rest.into() },
            "said" => {
                self.said = rest.into();
                let content_blocks = vec![ContentBlock::Text { text: rest.into() }];
                Event::Assistant { content_blocks, parent_tool_use_id: None }
            }
            "ask" => {
                let (id, about) = rest.split_once(' ').unwrap_or((rest, ""));
                Event::Ask(Ask {
                    request_id: id.into(),
                    tool_use_id: id.into(),
                    tool_name: TOOL.into(),
                    input: json!({"about": about}),
                    title: Some(about.into()),
                    kind: AskKind::Approval,
                })
            }
            "withdrawn" => Event::Withdrawn { request_id: rest.into() },
            "end" => Event::Result(TurnResult {
                result: std::mem::take(&mut self.said),
                session_id: self.session.clone(),
                num_turns: 1,
                interrupted: rest == "interrupted",
                ..TurnResult::default()
            }),
            other => Event::Unknown { kind: other.into() },
        };
        let counts = self.has_begun() || event.is_of_any_turn();
        Some(event).filter(|_| counts).into_iter().map(claims::bounded).collect()
    }
}

#[cfg(test)]
mod tests;
