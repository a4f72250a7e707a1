//! A run's journal: what it has said so far. The run writes it; clients read it, each at its own pace; nothing a reader
//! does can hold the run up.

use std::sync::{Arc, Mutex, PoisonError};

use nagaya_protocol::sse;
use serde::Serialize;
use tokio::sync::watch;

use super::event::Event;

/// The events of one run, ready to be sent.
#[derive(Debug)]
pub struct Journal {
    run_id: String,
    lines: Mutex<Vec<Arc<str>>>,
    progress: watch::Sender<Progress>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Progress {
    written: usize,
    closed: bool,
}

#[derive(Serialize)]
struct Data<'a> {
    seq: usize,
    timestamp: jiff::Timestamp,
    #[serde(flatten)]
    event: &'a Event,
}

impl Journal {
    /// An empty journal of a run.
    #[must_use]
    pub fn new(run_id: String) -> Self {
        Self { run_id, lines: Mutex::default(), progress: watch::Sender::default() }
    }

    /// The run's id: the first half of every event's id.
    #[must_use]
    pub fn run_id(&self) -> &str {
        &self.run_id
    }

    /// Writes an event; `done` closes the journal, and nothing is written after it.
    pub fn append(&self, event: &Event) {
        let closes = matches!(event, Event::Done(_));
        let written = {
            let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            if self.is_closed() {
                tracing::error!(run = self.run_id, event = event.name(), "an event after done was dropped");
                return;
            }
            let seq = lines.len() + 1;
            let data = Data { seq, timestamp: jiff::Timestamp::now(), event };
            let data = match serde_json::to_string(&data) {
                Ok(data) => data,
                Err(error) => unreachable!("events are plain data: {error}"),
            };
            lines.push(sse::encode(&format!("{}:{seq}", self.run_id), event.name(), &data).into());
            seq
        };
        self.progress.send_replace(Progress { written, closed: closes });
    }

    /// Whether the run has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.progress.borrow().closed
    }

    /// A reader of everything after event number `after`.
    #[must_use]
    pub fn reader(self: &Arc<Self>, after: usize) -> Reader {
        Reader { journal: self.clone(), progress: self.progress.subscribe(), next: after }
    }

    /// How many events there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.progress.borrow().written
    }

    /// Whether nothing was said yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Reads a journal from some event on, then follows it to its end.
#[derive(Debug)]
pub struct Reader {
    journal: Arc<Journal>,
    progress: watch::Receiver<Progress>,
    next: usize,
}

impl Reader {
    /// The next event as it stands on the wire, or `None` after `done`. Cancel-safe.
    pub async fn next(&mut self) -> Option<Arc<str>> {
        let seen = *self.progress.wait_for(|progress| progress.written > self.next || progress.closed).await.ok()?;
        if seen.written <= self.next {
            return None;
        }
        let line = self.journal.lines.lock().unwrap_or_else(PoisonError::into_inner).get(self.next).cloned();
        self.next += 1;
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conversation::event::{Done, DoneStatus, UsageReport};

    fn done() -> Event {
        Event::Done(Done {
            status: DoneStatus::Success,
            result: String::new(),
            is_error: false,
            errors: Vec::new(),
            usage: UsageReport::default(),
            cost_usd: "0".into(),
            turn_count: 1,
            duration_ms: 1,
            session_id: None,
        })
    }

    async fn all(mut reader: Reader) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(line) = reader.next().await {
            lines.push(line.lines().next().unwrap_or_default().to_owned());
        }
        lines
    }

    #[tokio::test]
    async fn readers_get_all_of_it_whenever_they_come() {
        let journal = Arc::new(Journal::new("r".into()));
        let early = tokio::spawn(all(journal.reader(0)));
        for n in 0..100 {
            journal.append(&Event::Ping { elapsed_ms: n });
            tokio::task::yield_now().await;
        }
        journal.append(&done());
        journal.append(&Event::Ping { elapsed_ms: 0 });
        let expected: Vec<String> = (1..=101).map(|seq| format!("id: r:{seq}")).collect();
        assert_eq!(early.await.expect("reads"), expected);
        assert_eq!(all(journal.reader(0)).await, expected);
        assert_eq!(all(journal.reader(99)).await, expected[99..]);
        assert_eq!(all(journal.reader(101)).await, Vec::<String>::new());
        assert_eq!(all(journal.reader(500)).await, Vec::<String>::new());
    }
}
