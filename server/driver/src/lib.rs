//! Drivers: programs in a workspace that conduct the conversation with the model. A driver prints lines and reads lines, which the agent
//! in the workspace carries without reading them. This crate knows what the lines of each driver mean; nothing else does.
//!
//! [`Driver`] says how one is started, and [`Dialogue`] is the talk with one that runs. [`Kind`] names those that there are: that of the
//! Claude Code CLI, and a script that calls no model. Another one, for example of the Agent Client Protocol, is another implementation of
//! the two (docs/decisions/0018-the-seam-of-drivers.md).

mod access;
mod claims;
mod claude_code;
mod event;
mod kind;
mod options;
mod prompt;
mod script;
mod weight;

use std::collections::BTreeMap;

pub use access::{Access, Place};
pub use event::{
    Ask, AskKind, ContentBlock, ErrorKind, Event, Failure, NOT_JSON, REQUEST, SYSTEM, TOO_MANY, TurnResult, Usage,
};
pub use kind::Kind;
pub use options::{ClientTool, Options, Permissions};
pub use prompt::{Block, Prompt};

use nagaya_protocol::{Ended, ExecuteRequest};

/// A kind of driver. What has a default is for drivers that have more than a conversation needs.
pub trait Driver: std::fmt::Debug + Send + Sync {
    /// The request that starts one with the fixed part of `options`, without what [`Driver::introduce`] tells it and its first turn.
    fn start(&self, options: &Options) -> ExecuteRequest;

    /// What of `options` a driver must be started with, because it cannot be told later: all of it, unless [`Driver::introduce`] tells some.
    fn fixed(&self, options: &Options) -> Options {
        options.clone()
    }

    /// Lines that tell a driver the rest of `options` after its start, before its first turn.
    fn introduce(&self, options: &Options) -> Vec<String> {
        let _ = options;
        Vec::new()
    }

    /// A talk with a driver that was started with `options`, at the beginning of a turn. `after_others` is the id of the turn for a driver
    /// that has had other turns: until it says that this one begins, its lines are left over from those before.
    fn dialogue(&self, options: &Options, after_others: Option<&str>) -> Box<dyn Dialogue>;

    /// Lines that begin a turn. `id` is that of the turn, a UUID.
    fn prompt(&self, id: &str, prompt: &Prompt) -> Vec<String>;

    /// Lines that stop the turn; the driver then reports its result. `id` is that of the request.
    fn interrupt(&self, id: &str) -> Vec<String>;

    /// Lines that answer a question of the driver's.
    fn answer(&self, ask: &Ask, answer: &Answer) -> Vec<String>;

    /// Why a driver that has ended did so, for an execution that has no result.
    fn failure(&self, ended: &Ended) -> Failure;

    /// The oldest and the newest version of the driver's program that this was tested with; `None` if it comes with this server.
    fn versions(&self) -> Option<(&'static str, &'static str)> {
        None
    }

    /// Variables of a workspace's container, for a driver that somebody starts there by hand. None is a secret.
    fn by_hand(&self, access: &Access) -> BTreeMap<String, String> {
        let _ = access;
        BTreeMap::new()
    }

    /// Names of the driver's own commands that a turn may be. Those that only concern its terminal, or would change how it was started, are
    /// not among them.
    fn commands(&self) -> &'static [&'static str] {
        &[]
    }

    /// The questions that an [`AskKind::Question`] consists of.
    fn questions<'a>(&self, ask: &'a Ask) -> Vec<&'a str> {
        let _ = ask;
        Vec::new()
    }

    /// The answer to them: a text for each question for which there is one.
    fn answers(&self, ask: &Ask, answer: &dyn Fn(&str) -> Option<String>) -> Answer {
        let _ = (ask, answer);
        Answer::Allow { updated_input: None }
    }

    /// What a new driver needs to remember the conversation as the one did that has reported these [`Event::Transcript`]s, in their order;
    /// `None` if they are not complete.
    fn restore(&self, transcript: &[(String, String)]) -> Option<Memory> {
        let _ = transcript;
        None
    }

    /// The sub-agent that a call of this tool starts; `None` if it starts none.
    fn subagent(&self, tool: &str, input: &serde_json::Value) -> Option<Subagent> {
        let _ = (tool, input);
        None
    }

    /// What a sub-agent has reported, without what the driver says around it.
    fn report<'c>(&self, result: &'c str) -> &'c str {
        result
    }

    /// The MCP server whose tool this is, and its state in the driver's words, if this result of a call that failed says that the server has
    /// failed. `None` where the tool has failed.
    fn failed_server<'t>(&self, tool: &'t str, result: &str) -> Option<(&'t str, &'static str)> {
        let _ = (tool, result);
        None
    }

    /// The file, beside `skills/NAME/…`, that makes a directory one of [`Options::plugins`]: its path in it, and its content.
    fn plugin(&self, name: &str) -> Option<(String, String)> {
        let _ = name;
        None
    }
}

impl dyn Driver {
    /// Whether this was tested with that version of the driver's program, or with an older and a newer one.
    #[must_use]
    pub fn is_tested_with(&self, version: &str) -> bool {
        let numbers = |text: &str| text.split('.').map(str::parse).collect::<Result<Vec<u32>, _>>().ok();
        let Some((oldest, newest)) = self.versions() else { return true };
        numbers(version).is_some_and(|version| {
            Some(&version) >= numbers(oldest).as_ref() && Some(&version) <= numbers(newest).as_ref()
        })
    }
}

/// A sub-agent that a driver starts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subagent {
    /// Its kind, in the driver's words.
    pub kind: String,
    /// What it is to do.
    pub description: String,
    /// Its model, if the call names one.
    pub model: Option<String>,
}

/// The talk with a driver during one turn.
pub trait Dialogue: std::fmt::Debug + Send {
    /// The events that a line of the driver's means, each within bounds.
    ///
    /// # Errors
    /// The line has what no driver prints, so that it is not the driver's.
    fn read(&mut self, line: &str) -> Result<Vec<Event>, String>;

    /// Whether the driver has taken the turn's input. One that has had other turns may have ended before it did.
    fn has_begun(&self) -> bool;
}

/// A driver's memory of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    /// The session to continue.
    pub session: String,
    /// Files in the driver's home directory, each with its content.
    pub files: Vec<(String, String)>,
}

/// An answer to what a driver has asked.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "decision", rename_all = "snake_case")]
pub enum Answer {
    /// The tool may be called.
    Allow {
        /// Arguments in the place of the model's; the model's if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        updated_input: Option<serde_json::Value>,
    },
    /// The tool may not be called.
    Deny {
        /// What the model is told.
        message: String,
    },
    /// What a tool of the caller's has returned.
    Result {
        /// The result's text.
        content: String,
        /// Whether the tool failed.
        is_error: bool,
    },
}
