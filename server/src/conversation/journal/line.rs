//! The lines of a journal: an event, or a note that no reader sees.
//!
//! An event is `<agent> <name> <data>`: the number of the agent's event it came of (0 for one of the server's own), the
//! name and the payload it has on the wire. So a frame is made of it without looking into the JSON, and a restarted server
//! knows how far it had listened. A note is `#<note>`, JSON.

use nagaya_protocol::Usage;
use serde::{Deserialize, Serialize};

use crate::conversation::event::Done;
use crate::conversation::order::Order;
use crate::conversation::store::RunTotals;
use nagaya_telemetry::metrics::RunOutcome;

/// What a restarted server must know of a run beyond what its readers saw.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Note {
    /// The first line: what was ordered.
    Run(Box<Head>),
    /// The run is in this room; from here on something of it may be going on there.
    Room {
        /// The room's id.
        workspace: String,
    },
    /// The agent has begun.
    Execution {
        /// Under which the agent knows it.
        id: String,
        /// When: the run's time counts from here.
        began: jiff::Timestamp,
    },
    /// Somebody wants the run to end.
    Cancel,
    /// The run has ended, like this; what is left is to write it to the database and to tell it.
    Ending(Box<Ending>),
    /// The database has all of the run.
    Settled,
}

/// What was ordered, and when.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Head {
    /// The run's id.
    pub run_id: String,
    /// When it began.
    pub began: jiff::Timestamp,
    /// What is to be run.
    pub order: Order,
}

/// How a run ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ending {
    /// What the readers are told last.
    pub done: Done,
    /// What it leaves in its conversation.
    pub totals: RunTotals,
    /// Tokens by kind.
    pub usage: Usage,
    /// For the metrics.
    pub outcome: RunOutcome,
}

/// How a note is told from an event.
pub(super) const NOTE: u8 = b'#';

/// An event's line, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventLine<'a> {
    /// The agent's event it came of; 0 for none.
    pub agent: u64,
    /// The event's name.
    pub name: &'a str,
    /// Its payload, or as much of it as there is.
    pub data: &'a str,
}

impl<'a> EventLine<'a> {
    /// Takes a line apart; `None` where it is none.
    #[must_use]
    pub fn parse(line: &'a str) -> Option<Self> {
        let (agent, rest) = line.split_once(' ')?;
        let (name, data) = rest.split_once(' ')?;
        Some(Self { agent: agent.parse().ok()?, name, data })
    }

    /// Number of the event, as it stands first in the payload.
    #[must_use]
    pub fn seq(&self) -> Option<usize> {
        let digits = self.data.strip_prefix("{\"seq\":")?;
        digits[..digits.find(',')?].parse().ok()
    }
}
