//! A run's journal: a file with all events of the run so far. The run appends to it, and clients read it, each at its own pace. A
//! slow reader cannot hold up the run, and no memory is used per unread event.
//!
//! Durability: readers see an event only after it is written to the file, so an event that was seen survives the death of the
//! process. The file is synced to disk only before a run ends (`Ending`) and when a server stops. A power failure may therefore
//! lose the events of the last seconds, including events that a client has already seen.

mod decisions;
mod directory;
mod line;
mod past;
mod reader;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, MutexGuard};
use serde::Serialize;
use tokio::sync::watch;

pub use directory::{JournalDir, JournalRef};
pub use line::{Ending, EventLine, Head, Note};
pub use past::{Past, PastExecution};
pub use reader::{Lines, Reader};

use super::approvals::{Approvals, DecideError, Decision};
use super::event::Event;

/// Length from which on a journal takes no more of what a workspace reports, in bytes. The messages that a run adds to the database
/// are a part of its journal, so that a run cannot add more to both together than twice this.
const MOST_BYTES: u64 = 128 << 20;
/// Number of events from which on it does not.
const MOST_EVENTS: usize = 500_000;
/// Distance between two marks, in bytes. A reader that starts in the middle begins at a mark instead of the file's start.
const MARKS_APART: u64 = 64 * 1024;

/// The journal of one run.
#[derive(Debug)]
pub struct Journal {
    run_id: String,
    file: File,
    inner: Mutex<Inner>,
    progress: watch::Sender<Progress>,
    settled: AtomicBool,
}

#[derive(Debug, Default)]
struct Inner {
    /// Length of the file up to the last successful write, in bytes.
    written: u64,
    /// Lines that are not in the file yet.
    pending: Vec<u8>,
    /// Number of the last event.
    seq: usize,
    /// Start of some events in ascending order: offset, and number of the event before.
    marks: Vec<(u64, usize)>,
    /// The last event is `done`.
    closed: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Progress {
    /// How many bytes readers may read.
    bytes: u64,
    /// The last readable event is `done`.
    closed: bool,
    /// This process writes no further event.
    over: bool,
}

#[derive(Serialize)]
struct Data<'a> {
    seq: usize,
    timestamp: jiff::Timestamp,
    #[serde(flatten)]
    event: &'a Event,
}

impl Journal {
    /// Begins a journal in an empty file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn begin(file: File, head: Head) -> io::Result<Self> {
        let run_id = head.run_id.clone();
        let journal = Self::new(run_id, file, Inner::default(), Progress::default());
        journal.note(&Note::Run(Box::new(head)))?;
        Ok(journal)
    }

    /// Continues a journal where an earlier process left it, after truncating it to its last complete line.
    ///
    /// # Errors
    /// The file cannot be truncated.
    pub fn resume(file: File, past: &Past) -> io::Result<Self> {
        file.set_len(past.bytes)?;
        let inner = Inner {
            written: past.bytes,
            seq: past.seq,
            marks: past.marks.clone(),
            closed: past.done,
            ..Inner::default()
        };
        let progress = Progress { bytes: past.bytes, closed: past.done, over: past.done };
        Ok(Self::new(past.head.run_id.clone(), file, inner, progress))
    }

    /// Opens the journal of a finished run for reading.
    ///
    /// # Errors
    /// The file's length cannot be read.
    pub fn finished(file: File, run_id: String) -> io::Result<Self> {
        let bytes = file.metadata()?.len();
        let inner = Inner { written: bytes, closed: true, ..Inner::default() };
        let progress = Progress { bytes, closed: true, over: true };
        Ok(Self::new(run_id, file, inner, progress))
    }

    fn new(run_id: String, file: File, inner: Inner, progress: Progress) -> Self {
        let (inner, progress) = (Mutex::new(inner), watch::Sender::new(progress));
        Self { run_id, file, inner, progress, settled: AtomicBool::new(false) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    /// Number of the last event, also of a journal that was opened for reading only, which is read for it.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn last_seq(&self) -> io::Result<usize> {
        let known = self.seq();
        if known > 0 || !self.is_closed() {
            return Ok(known);
        }
        let (mut lines, mut last) = (self.lines(), 0);
        while let Some(line) = lines.next_line()? {
            last += usize::from(line.first() != Some(&line::NOTE));
        }
        Ok(last)
    }

    /// Whether the run began before the machine was last started. Then a power failure may have shortened the journal.
    #[must_use]
    pub fn outlived_the_machine(&self) -> bool {
        let began = uuid::Uuid::parse_str(&self.run_id).ok().and_then(|id| id.get_timestamp());
        let booted = std::fs::read_to_string("/proc/stat").ok();
        let booted =
            booted.as_deref().and_then(|stat| stat.lines().find_map(|line| line.strip_prefix("btime ")?.parse().ok()));
        matches!((began, booted), (Some(began), Some(booted)) if began.to_unix().0 < booted)
    }

    /// Id of the run, which is the first half of every event's id.
    #[must_use]
    pub fn run_id(&self) -> &str {
        &self.run_id
    }

    /// Number of the last event; 0 before the first.
    #[must_use]
    pub fn seq(&self) -> usize {
        self.inner().seq
    }

    /// Length that readers see, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.progress.borrow().bytes
    }

    /// Why the journal takes no more of what a workspace reports; `None` while it does. The server's own events are always taken.
    #[must_use]
    pub fn full(&self) -> Option<String> {
        let inner = self.inner();
        let bytes = inner.written + inner.pending.len() as u64;
        let too_long = bytes > MOST_BYTES;
        (too_long || inner.seq > MOST_EVENTS)
            .then(|| format!("the run has {} events and {} MiB of them", inner.seq, bytes >> 20))
    }

    /// Whether the run has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.progress.borrow().closed
    }

    /// Whether the run is completely in the database.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Acquire)
    }

    /// Marks the run as completely in the database. Called before `done` is written whenever possible, so that a client that has read
    /// `done` can start the next run at once.
    pub fn settle(&self) {
        self.settled.store(true, Ordering::Release);
    }

    /// Waits until the run has ended; `false` if this process leaves the run to the next.
    pub async fn ended(&self) -> bool {
        let mut progress = self.progress.subscribe();
        progress.wait_for(|progress| progress.over).await.is_ok_and(|progress| progress.closed)
    }

    /// Appends an event, which readers see after the next [`Journal::flush`], and returns its number. `done` closes the journal; later
    /// events are dropped. `agent_event` is the number of the agent's event that it was translated from, or 0.
    pub fn put(&self, agent_event: u64, event: &Event) -> usize {
        let mut inner = self.inner();
        if inner.closed {
            tracing::error!(run = self.run_id, event = event.name(), "dropped an event after done");
            return inner.seq;
        }
        let at = inner.written + inner.pending.len() as u64;
        if inner.marks.last().map_or(at, |(last, _)| at - last) >= MARKS_APART {
            let before = inner.seq;
            inner.marks.push((at, before));
        }
        inner.seq += 1;
        inner.closed = matches!(event, Event::Done(_));
        let data = Data { seq: inner.seq, timestamp: jiff::Timestamp::now(), event };
        inner.pending.extend_from_slice(format!("{agent_event} {} ", event.name()).as_bytes());
        if let Err(error) = serde_json::to_writer(&mut inner.pending, &data) {
            unreachable!("events are plain data: {error}");
        }
        inner.pending.push(b'\n');
        inner.seq
    }

    /// Writes the pending lines to the file and shows them to the readers.
    ///
    /// # Errors
    /// The file cannot be written. Readers then get the lines from memory, and the next flush tries again: the end of a run must
    /// reach its readers even if the disk is full.
    pub fn flush(&self) -> io::Result<()> {
        let (result, progress) = {
            let mut inner = self.inner();
            let result = inner.write_to(&self.file);
            let bytes = inner.written + inner.pending.len() as u64;
            (result, Progress { bytes, closed: inner.closed, over: inner.closed })
        };
        self.progress.send_replace(progress);
        result
    }

    /// [`Journal::put`] and [`Journal::flush`].
    ///
    /// # Errors
    /// As [`Journal::flush`].
    pub fn append(&self, agent_event: u64, event: &Event) -> io::Result<usize> {
        let seq = self.put(agent_event, event);
        self.flush().map(|()| seq)
    }

    /// Writes a note, which readers do not see.
    ///
    /// # Errors
    /// As [`Journal::flush`].
    pub fn note(&self, note: &Note) -> io::Result<()> {
        {
            let mut inner = self.inner();
            inner.pending.push(line::NOTE);
            if let Err(error) = serde_json::to_writer(&mut inner.pending, note) {
                unreachable!("notes are plain data: {error}");
            }
            inner.pending.push(b'\n');
        }
        self.flush()
    }

    /// Decides what a driver has asked; the decision is in the journal before it counts.
    ///
    /// # Errors
    /// The decision does not count.
    pub fn decide(&self, approvals: &Approvals, id: &str, decision: Decision) -> Result<Decision, DecideError> {
        approvals.decide(id, decision, |decision| {
            self.note(&Note::Decision { request_id: id.to_owned(), decision: decision.clone() })
        })
    }

    /// Syncs the file to disk.
    ///
    /// # Errors
    /// The disk reports an error.
    pub async fn sync(self: &Arc<Self>) -> io::Result<()> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || this.file.sync_data())
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)))
    }

    /// Ends the readers' streams: the next process continues this journal.
    pub fn leave(&self) {
        self.progress.send_modify(|progress| progress.over = true);
    }

    /// A reader of all events after number `after`.
    #[must_use]
    pub fn reader(self: &Arc<Self>, after: usize) -> Reader {
        let (offset, seq) = {
            let inner = self.inner();
            let at = inner.marks.partition_point(|(_, before)| *before <= after);
            at.checked_sub(1).map_or((0, 0), |at| inner.marks[at])
        };
        Reader::new(self.clone(), self.progress.subscribe(), offset, seq, after)
    }

    /// All lines written so far, for the run itself.
    #[must_use]
    pub fn lines(&self) -> Lines<'_> {
        Lines::new(&self.file, self.inner().written)
    }

    /// Reads from the pending lines; `None` if the offset is in the file.
    fn read_pending(&self, offset: u64, buffer: &mut [u8]) -> Option<usize> {
        let inner = self.inner();
        let from = usize::try_from(offset.checked_sub(inner.written)?).ok()?;
        let rest = inner.pending.get(from..)?;
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Some(count)
    }
}

impl Inner {
    fn write_to(&mut self, file: &File) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        // At an explicit offset, so that the remains of a failed attempt are overwritten.
        file.write_all_at(&self.pending, self.written)?;
        self.written += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
