//! The past of a run: what an earlier process recorded in its journal.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use crate::conversation::approvals::{Decision, Pending};
use crate::conversation::waiting::Message;
use nagaya_driver::{Ask, AskKind};

use super::line::{Ending, EventLine, Head, NOTE, Note};
use super::{Lines, MARKS_APART};

/// Names of the events of which something is remembered.
const REMEMBERED: [&str; 9] = [
    "tool_call",
    "tool_result",
    "error",
    "mcp_server",
    "approval_required",
    "question",
    "tool_request",
    "approval_resolved",
    "tool_request_resolved",
];

/// The past of a run, reconstructed from its journal.
#[derive(Debug)]
pub struct Past {
    /// Id, time and order of the run.
    pub head: Head,
    /// Id of the run's room, once it had one.
    pub room: Option<String>,
    /// The execution in the room, once the agent had reported its start.
    pub execution: Option<PastExecution>,
    /// Number of the last of the agent's events from which an event was recorded; 0 for none.
    pub agent_event: u64,
    /// How many events were recorded from that one; not all of them if the process was killed in between.
    pub recorded: usize,
    /// Tool calls without a result so far, and what was reported already.
    known: Known,
    /// How to undo what the events of `agent_event` have changed of that.
    undo: Vec<Undo>,
    /// Messages of the `error` events.
    pub errors: Vec<String>,
    /// What the driver had asked and nobody had told it: questions, with decisions that may not have been delivered.
    pub asked: Vec<(Pending, Option<Decision>)>,
    /// Ids of what was told to the driver since the event of the agent's that `agent_event` names.
    pub told: Vec<String>,
    /// How long the run had waited for people, while nothing else was waited for, and since when it did.
    waited: Duration,
    waiting_since: Option<Timestamp>,
    /// Whether a request had cancelled the run.
    pub cancelled: bool,
    /// Whether a request had interrupted the turn.
    pub interrupted: bool,
    /// The end of the run, if it had ended.
    pub ending: Option<Ending>,
    /// Whether `done` was recorded.
    pub done: bool,
    /// Messages that wait for the end of the run, and that have not been dropped.
    pub waiting: Vec<Message>,
    /// Whether the run is completely in the database.
    pub settled: bool,
    /// Number of the last event.
    pub seq: usize,
    /// Length of the journal up to its last complete line, in bytes, and the number of these lines.
    pub bytes: u64,
    /// See `bytes`.
    pub lines: u64,
    pub(super) marks: Vec<(u64, usize)>,
}

/// What the events of a run mean for those that follow.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Tool calls without a result: id and name.
    pub tools: HashMap<String, String>,
    /// MCP servers whose failure was reported.
    pub failed_servers: HashSet<String>,
}

/// A change of [`Known`], undone.
#[derive(Debug)]
enum Undo {
    Tool(String, Option<String>),
    Server(String),
}

/// An execution that was in progress.
#[derive(Debug, Clone)]
pub struct PastExecution {
    /// The agent's id of the execution.
    pub id: String,
    /// Time when the execution began.
    pub began: jiff::Timestamp,
    /// Number of the last of its events before the run.
    pub after: u64,
}

impl Past {
    /// The empty past of a new run.
    #[must_use]
    pub fn none(head: Head) -> Self {
        Self {
            head,
            room: None,
            execution: None,
            agent_event: 0,
            recorded: 0,
            known: Known::default(),
            undo: Vec::new(),
            errors: Vec::new(),
            asked: Vec::new(),
            told: Vec::new(),
            waited: Duration::ZERO,
            waiting_since: None,
            cancelled: false,
            interrupted: false,
            ending: None,
            done: false,
            waiting: Vec::new(),
            settled: false,
            seq: 0,
            bytes: 0,
            lines: 0,
            marks: Vec::new(),
        }
    }

    /// What was known before the agent's event that `agent_event` names: that one comes again and must become the same events again, of
    /// which the recorded ones are then left out.
    pub fn take_known_before(&mut self) -> Known {
        let mut known = std::mem::take(&mut self.known);
        for undo in self.undo.drain(..).rev() {
            match undo {
                Undo::Tool(id, Some(name)) => drop(known.tools.insert(id, name)),
                Undo::Tool(id, None) => drop(known.tools.remove(&id)),
                Undo::Server(name) => drop(known.failed_servers.remove(&name)),
            }
        }
        known
    }

    /// After which event the agent is asked for the rest where it no longer has the turn's beginning: the last one that was handled comes
    /// again, as only some of what it became may be in the journal.
    #[must_use]
    pub fn asked_again_after(&self) -> u64 {
        self.agent_event.saturating_sub(1)
    }

    /// Reads a journal up to the first line that is incomplete or invalid, as a power failure may leave one. `None` if the first line
    /// is incomplete: then no client has seen anything of the run. The second value is where line number `shared` begins, or the end.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn read(file: &File, shared: u64) -> io::Result<Option<(Self, u64)>> {
        let mut lines = Lines::new(file, file.metadata()?.len());
        let mut past: Option<Self> = None;
        let mut at = 0;
        while let Some(line) = lines.next_line()? {
            let bytes = line.len() as u64 + 1;
            let Ok(line) = std::str::from_utf8(line) else { break };
            let Some(known) = &mut past else {
                let Some(Note::Run(head)) = note(line) else { return Ok(None) };
                past = Some(Self { bytes, lines: 1, ..Self::none(*head) });
                at = if shared > 0 { bytes } else { 0 };
                continue;
            };
            if !known.apply(line) {
                break;
            }
            known.bytes += bytes;
            known.lines += 1;
            if known.lines <= shared {
                at = known.bytes;
            }
        }
        Ok(past.map(|past| (past, at)))
    }

    /// Applies a line; `false` if it is not valid at this point.
    fn apply(&mut self, line: &str) -> bool {
        if line.as_bytes().first() == Some(&NOTE) {
            match note(line) {
                None | Some(Note::Run(_)) => return false,
                Some(Note::Settled) => self.settled = true,
                Some(Note::Waits(message)) => self.waiting.push(*message),
                Some(Note::Dropped) => self.waiting.clear(),
                // From a request that came when the run was ending.
                Some(Note::Cancel | Note::Interrupt | Note::Decision { .. }) if self.done => {}
                // The rest belongs to a run that goes on.
                Some(_) if self.done => return false,
                Some(Note::Room { workspace }) => self.room = Some(workspace),
                // A process that resumed the run may have written it again, and one whose session was lost is followed by another; the
                // time limit counts from the first.
                Some(Note::Execution { id, began, after }) => {
                    let began = self.execution.take().map_or(began, |earlier| earlier.began);
                    self.execution = Some(PastExecution { id, began, after });
                }
                Some(Note::Decision { request_id, decision }) => {
                    let asked = self.asked.iter_mut().find(|(pending, _)| pending.ask.request_id == request_id);
                    asked.into_iter().for_each(|(_, decided)| *decided = Some(decision.clone()));
                }
                Some(Note::Cancel) => self.cancelled = true,
                Some(Note::Interrupt) => self.interrupted = true,
                Some(Note::Ending(ending)) => self.ending = Some(*ending),
            }
            return true;
        }
        let next = |event: &EventLine<'_>| event.seq() == Some(self.seq + 1);
        let Some(event) = EventLine::parse(line).filter(|event| next(event) && !self.done) else {
            return false;
        };
        if !event.data.ends_with('}') {
            return false;
        }
        if self.bytes - self.marks.last().map_or(0, |(at, _)| *at) >= MARKS_APART {
            self.marks.push((self.bytes, self.seq));
        }
        self.seq += 1;
        if event.agent_event > 0 {
            if event.agent_event != self.agent_event {
                self.told.clear();
                self.undo.clear();
            }
            self.recorded = if event.agent_event == self.agent_event { self.recorded + 1 } else { 1 };
            self.agent_event = event.agent_event;
        }
        self.done = event.name == "done";
        if REMEMBERED.contains(&event.name) {
            let Ok(data) = serde_json::from_str::<Value>(event.data) else { return false };
            self.remember(event.name, &data, event.agent_event > 0);
        }
        true
    }

    fn remember(&mut self, name: &str, data: &Value, agents: bool) {
        let text = |field: &str| data[field].as_str().unwrap_or_default().to_owned();
        let mut undo = None;
        match name {
            "tool_call" => {
                let before = self.known.tools.insert(text("tool_use_id"), text("tool_name"));
                undo = Some(Undo::Tool(text("tool_use_id"), before));
            }
            "tool_result" => {
                let before = self.known.tools.remove(&text("tool_use_id"));
                undo = Some(Undo::Tool(text("tool_use_id"), before));
            }
            "mcp_server" if self.known.failed_servers.insert(text("name")) => undo = Some(Undo::Server(text("name"))),
            "mcp_server" => {}
            name if asks(name) => self.asked.push((pending(name, data), None)),
            "approval_resolved" | "tool_request_resolved" => {
                let resolved = text("request_id");
                self.asked.retain(|(pending, _)| pending.ask.request_id != resolved);
                self.told.push(resolved);
            }
            _ => self.errors.push(text("message")),
        }
        if agents {
            self.undo.extend(undo);
        }
        let at = data["timestamp"].as_str().and_then(|at| at.parse().ok());
        // As while it runs: tools of which nobody is asked work.
        let waits = !self.asked.is_empty() && self.known.tools.len() <= self.asked.len();
        match (self.waiting_since, waits) {
            (None, true) => self.waiting_since = at,
            (Some(_), false) => {
                self.waited = self.waited_until(at.unwrap_or(Timestamp::MIN));
                self.waiting_since = None;
            }
            _ => {}
        }
    }

    /// How long the run has waited for people until then; this is not its own time.
    #[must_use]
    pub fn waited_until(&self, then: Timestamp) -> Duration {
        let open = self.waiting_since.map(|since| Duration::try_from(then.duration_since(since)).unwrap_or_default());
        self.waited + open.unwrap_or_default()
    }
}

/// What an event of this name asks somebody for; `None` if it asks nothing.
fn kind(name: &str) -> Option<AskKind> {
    match name {
        "approval_required" => Some(AskKind::Approval),
        "question" => Some(AskKind::Question),
        "tool_request" => Some(AskKind::ClientTool),
        _ => None,
    }
}

/// Whether an event of this name asks somebody something.
pub(super) fn asks(name: &str) -> bool {
    kind(name).is_some()
}

/// What such an event asks.
pub(super) fn pending(name: &str, data: &Value) -> Pending {
    let text = |field: &str| data[field].as_str().unwrap_or_default().to_owned();
    let ask = Ask {
        request_id: text("request_id"),
        tool_use_id: text("tool_use_id"),
        tool_name: text("tool_name"),
        input: data["input"].clone(),
        title: data["title"].as_str().map(ToOwned::to_owned),
        kind: kind(name).unwrap_or(AskKind::Approval),
    };
    Pending { ask, expires_at: text("expires_at").parse().unwrap_or(jiff::Timestamp::UNIX_EPOCH) }
}

pub(super) fn note(line: &str) -> Option<Note> {
    serde_json::from_str(line.strip_prefix(char::from(NOTE))?).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::conversation::journal::tests::order;

    #[test]
    fn time_in_which_only_people_are_waited_for_is_known_after_a_restart() {
        let head = Head { run_id: "r".into(), began: Timestamp::UNIX_EPOCH, order: order() };
        let mut past = Past::none(head);
        let second = |second| Timestamp::from_second(second).expect("a time");
        let waited = |past: &Past, now| past.waited_until(second(now)).as_secs();
        let mut take = |at, name: &str, id: &str| {
            let field = if name.starts_with("tool_") { "tool_use_id" } else { "request_id" };
            past.remember(name, &json!({field: id, "timestamp": second(at).to_string()}), true);
            waited(&past, at + 1)
        };
        assert_eq!(take(0, "tool_call", "a"), 0);
        assert_eq!(take(10, "approval_required", "1"), 1);
        assert_eq!(take(20, "approval_resolved", "1"), 10);
        assert_eq!(take(30, "tool_result", "a"), 10);
        // Beside a tool that works, nothing is waited for.
        assert_eq!((take(40, "tool_call", "a"), take(40, "tool_call", "b")), (10, 10));
        assert_eq!(take(50, "question", "2"), 10);
        assert_eq!(take(60, "tool_result", "a"), 11);
        assert_eq!(waited(&past, 100), 50, "it waits still");
    }
}
