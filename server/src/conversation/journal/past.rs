//! What an earlier process left of a run: read off its journal.

use std::collections::HashMap;
use std::fs::File;
use std::io;

use serde_json::Value;

use super::line::{Ending, EventLine, Head, NOTE, Note};
use super::{Lines, MARKS_APART};

/// A run as its journal tells it.
#[derive(Debug)]
pub struct Past {
    /// What was ordered.
    pub head: Head,
    /// The room it was in, once it was in one.
    pub room: Option<String>,
    /// What was going on in the room, once the agent had told it.
    pub execution: Option<PastExecution>,
    /// Number of the last of the agent's events that something was told of; 0 for none.
    pub agent: u64,
    /// How many events were told of that one. Where the process was killed in the middle, that is not all.
    pub of_agent: usize,
    /// Tool calls without a result: id and name.
    pub tools: HashMap<String, String>,
    /// Messages of the `error` events.
    pub errors: Vec<String>,
    /// Whether somebody wanted it to end.
    pub cancelled: bool,
    /// How it ended, where it had come to that.
    pub ending: Option<Ending>,
    /// Whether its readers were told the end.
    pub done: bool,
    /// Number of the last event.
    pub seq: usize,
    /// Length up to the last whole line.
    pub bytes: u64,
    pub(super) marks: Vec<(u64, usize)>,
}

/// An execution that was going on.
#[derive(Debug, Clone)]
pub struct PastExecution {
    /// Under which the agent knows it.
    pub id: String,
    /// When it began.
    pub began: jiff::Timestamp,
}

impl Past {
    /// A run that is only just ordered.
    #[must_use]
    pub fn none(head: Head) -> Self {
        Self {
            head,
            room: None,
            execution: None,
            agent: 0,
            of_agent: 0,
            tools: HashMap::new(),
            errors: Vec::new(),
            cancelled: false,
            ending: None,
            done: false,
            seq: 0,
            bytes: 0,
            marks: Vec::new(),
        }
    }

    /// Reads a journal up to the first line that is not whole or not what it should be; a power failure may leave such.
    /// `None` where not even the first line is whole: then nobody ever saw anything of the run.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(file: &File) -> io::Result<Option<Self>> {
        let mut lines = Lines::new(file, file.metadata()?.len());
        let mut past: Option<Self> = None;
        while let Some(line) = lines.next_line()? {
            let bytes = line.len() as u64 + 1;
            let Ok(line) = std::str::from_utf8(line) else { break };
            let Some(known) = &mut past else {
                let Some(Note::Run(head)) = note(line) else { return Ok(None) };
                past = Some(Self { bytes, ..Self::none(*head) });
                continue;
            };
            if known.done || !known.take(line) {
                break;
            }
            known.bytes += bytes;
        }
        Ok(past)
    }

    /// Takes a line in; `false` where it is not one that can stand here.
    fn take(&mut self, line: &str) -> bool {
        if line.as_bytes().first() == Some(&NOTE) {
            match note(line) {
                None | Some(Note::Run(_) | Note::Settled) => return false,
                Some(Note::Room { workspace }) => self.room = Some(workspace),
                // Told again by a process that took it up: its time counts from the first.
                Some(Note::Execution { id, began }) => {
                    self.execution.get_or_insert(PastExecution { id, began });
                }
                Some(Note::Cancel) => self.cancelled = true,
                Some(Note::Ending(ending)) => self.ending = Some(*ending),
            }
            return true;
        }
        let Some(event) = EventLine::parse(line).filter(|event| event.seq() == Some(self.seq + 1)) else {
            return false;
        };
        if !event.data.ends_with('}') {
            return false;
        }
        if self.bytes - self.marks.last().map_or(0, |(at, _)| *at) >= MARKS_APART {
            self.marks.push((self.bytes, self.seq));
        }
        self.seq += 1;
        if event.agent > 0 {
            self.of_agent = if event.agent == self.agent { self.of_agent + 1 } else { 1 };
            self.agent = event.agent;
        }
        self.done = event.name == "done";
        if ["tool_call", "tool_result", "error"].contains(&event.name) {
            let Ok(data) = serde_json::from_str::<Value>(event.data) else { return false };
            self.remember(event.name, &data);
        }
        true
    }

    fn remember(&mut self, name: &str, data: &Value) {
        let text = |field: &str| data[field].as_str().unwrap_or_default().to_owned();
        match name {
            "tool_call" => drop(self.tools.insert(text("tool_use_id"), text("tool_name"))),
            "tool_result" => drop(self.tools.remove(&text("tool_use_id"))),
            _ => self.errors.push(text("message")),
        }
    }
}

fn note(line: &str) -> Option<Note> {
    serde_json::from_str(line.strip_prefix(char::from(NOTE))?).ok()
}
