//! The lines of a journal: each is an event, or a note that readers do not see.
//!
//! An event is `<agent event> <name> <data>`: the number of the agent's event that it was translated from (0 for an event of the
//! server), and its name and payload as they are sent. A reader thus frames it without parsing the JSON, and a restarted server
//! knows which of the agent's events it has handled. A note is `#<note>`, with the note as JSON.

use nagaya_driver::Usage;
use serde::{Deserialize, Serialize};

use crate::conversation::approvals::Decision;
use crate::conversation::event::Done;
use crate::conversation::order::Order;
use crate::conversation::store::RunTotals;
use crate::conversation::waiting::Message;
use nagaya_telemetry::metrics::RunOutcome;

/// What a restarted server needs to know of a run beyond its events.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Note {
    /// The first line of every journal: the run's order.
    Run(Box<Head>),
    /// The run has this room; from here on an execution may be in progress there.
    Room {
        /// Id of the room.
        workspace: String,
    },
    /// The agent has started the execution.
    Execution {
        /// The agent's id of the execution.
        id: String,
        /// Time of the start, from which the time limit counts.
        began: jiff::Timestamp,
        /// Number of the last of its events before this run; 0 where the run has started it.
        #[serde(default)]
        after: u64,
    },
    /// A request has decided what the driver asked.
    Decision {
        /// Id of the question.
        request_id: String,
        /// The decision.
        decision: Decision,
    },
    /// A message waits for the end of the run.
    Waits(Box<Message>),
    /// The messages that waited were dropped.
    Dropped,
    /// A request has interrupted the turn.
    Interrupt,
    /// A request has cancelled the run.
    Cancel,
    /// The run has ended; what is left is to write it to the database and to emit `done`.
    Ending(Box<Ending>),
    /// The run is completely in the database.
    Settled,
}

/// Id, time and order of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Head {
    /// Id of the run.
    pub run_id: String,
    /// Time when the run began.
    pub began: jiff::Timestamp,
    /// The client's order.
    pub order: Order,
}

/// The end of a run, as it will be reported and stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ending {
    /// Data of the `done` event.
    pub done: Done,
    /// Changes to the conversation.
    pub totals: RunTotals,
    /// Tokens that the run used, by kind.
    pub usage: Usage,
    /// Outcome for the metrics and the audit trail.
    pub outcome: RunOutcome,
}

/// First byte of a note; an event begins with a digit.
pub(super) const NOTE: u8 = b'#';

/// The parts of an event's line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventLine<'a> {
    /// Number of the agent's event that it was translated from; 0 for none.
    pub agent_event: u64,
    /// Name of the event.
    pub name: &'a str,
    /// Payload of the event, or as much of it as the line holds.
    pub data: &'a str,
}

impl<'a> EventLine<'a> {
    /// Splits a line into its parts; `None` if it is not an event's line.
    #[must_use]
    pub fn parse(line: &'a str) -> Option<Self> {
        let (agent_event, rest) = line.split_once(' ')?;
        let (name, data) = rest.split_once(' ')?;
        Some(Self { agent_event: agent_event.parse().ok()?, name, data })
    }

    /// Number of the event, which is the first field of the payload.
    #[must_use]
    pub fn seq(&self) -> Option<usize> {
        let digits = self.data.strip_prefix("{\"seq\":")?;
        digits[..digits.find(',')?].parse().ok()
    }
}
