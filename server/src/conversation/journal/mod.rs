//! The log of conversations: for each run a journal, with what was put into the run and all that happened in it. The run appends to its
//! journal, and clients read it, each at its own pace. A slow reader cannot hold up the run, and no memory is used per unread event.
//!
//! Durability: readers see an event only after it is written to the file, so an event that was seen survives the death of the
//! process. The file is synced to disk only before a run ends (`Ending`) and when a server stops. A power failure may therefore
//! lose the events of the last seconds, including events that a client has already seen. Where the deployment's database is PostgreSQL,
//! readers see an event only after it is there as well ([`shared`]), and the file is this server's copy.

mod copy;
mod decisions;
mod directory;
mod line;
mod listing;
mod past;
mod reader;
mod retention;
pub mod shared;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, MutexGuard};
use serde::Serialize;
use tokio::sync::watch;

pub use directory::{JournalRef, Journals};
pub use line::{Ending, EventLine, Head, Note};
pub use listing::{Entry, Position};
pub use past::{Known, Past, PastExecution};
pub use reader::{Lines, Reader};
pub use retention::Retention;

use self::copy::SharedCopy;
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
    /// Settled, and not kept yet: messages wait that have no other place.
    aside: AtomicBool,
    /// What other servers can read.
    copy: Option<SharedCopy>,
    /// How often the file was synced.
    #[cfg(test)]
    synced: std::sync::atomic::AtomicUsize,
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
    /// The file cannot be written, or the shared log does not answer.
    async fn begin(file: File, head: Head, copy: Option<SharedCopy>) -> io::Result<Self> {
        let journal = Self::new(head.run_id.clone(), file, Inner::default(), Progress::default(), copy);
        journal.note(&Note::Run(Box::new(head))).await?;
        Ok(journal)
    }

    /// Continues a journal where an earlier process left it, after truncating it to its last complete line.
    ///
    /// # Errors
    /// The file cannot be truncated.
    fn resume(file: File, past: &Past, copy: Option<SharedCopy>) -> io::Result<Self> {
        file.set_len(past.bytes)?;
        let inner = Inner {
            written: past.bytes,
            seq: past.seq,
            marks: past.marks.clone(),
            closed: past.done,
            ..Inner::default()
        };
        let progress = Progress { bytes: past.bytes, closed: past.done, over: past.done };
        Ok(Self::new(past.head.run_id.clone(), file, inner, progress, copy))
    }

    /// Opens a journal to which this server adds nothing: its run has ended, or belongs to another server, which has died and left it.
    ///
    /// # Errors
    /// The file's length cannot be read.
    fn finished(file: File, run_id: String) -> io::Result<Self> {
        let bytes = file.metadata()?.len();
        let inner = Inner { written: bytes, closed: true, ..Inner::default() };
        let progress = Progress { bytes, closed: true, over: true };
        Ok(Self::new(run_id, file, inner, progress, None))
    }

    fn new(run_id: String, file: File, inner: Inner, progress: Progress, copy: Option<SharedCopy>) -> Self {
        let (inner, progress) = (Mutex::new(inner), watch::Sender::new(progress));
        Self {
            run_id,
            file,
            inner,
            progress,
            settled: AtomicBool::new(false),
            aside: AtomicBool::new(false),
            copy,
            #[cfg(test)]
            synced: std::sync::atomic::AtomicUsize::new(0),
        }
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

    /// Says that the journal of a settled run is to be kept only once another one has the messages that wait.
    pub(super) fn set_aside(&self) {
        self.aside.store(true, Ordering::Release);
    }

    pub(super) fn is_set_aside(&self) -> bool {
        self.aside.load(Ordering::Acquire)
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

    /// Writes the pending lines to the file, and to the shared log where there is one, and shows them to the readers.
    ///
    /// # Errors
    /// The file cannot be written. Readers then get the lines from memory, and the next flush tries again: the end of a run must
    /// reach its readers even if the disk is full.
    pub async fn flush(&self) -> io::Result<()> {
        let (result, seen, sent) = {
            let mut inner = self.inner();
            let lines = self.copy.as_ref().map(|_| inner.pending.clone());
            let result = inner.write_to(&self.file);
            let sent = self.copy.as_ref().zip(lines).map(|(copy, lines)| copy.submit(lines, result.is_ok()));
            let bytes = inner.written + inner.pending.len() as u64;
            (result, Progress { bytes, closed: inner.closed, over: inner.closed }, sent)
        };
        if let Some(copy) = &self.copy {
            if let Some(sent) = sent.flatten() {
                sent.wait().await;
            }
            copy.catch_up(self).await;
        }
        // Another flush may have come first, with more.
        self.progress.send_if_modified(|now| {
            let newer = seen.bytes > now.bytes || (seen.closed && !now.closed);
            if newer {
                *now = Progress { over: now.over || seen.over, ..seen };
            }
            newer
        });
        result
    }

    /// [`Journal::put`] and [`Journal::flush`].
    ///
    /// # Errors
    /// As [`Journal::flush`].
    pub async fn append(&self, agent_event: u64, event: &Event) -> io::Result<usize> {
        let seq = self.put(agent_event, event);
        self.flush().await.map(|()| seq)
    }

    /// Writes a note, which readers do not see.
    ///
    /// # Errors
    /// As [`Journal::flush`].
    pub async fn note(&self, note: &Note) -> io::Result<()> {
        {
            let mut inner = self.inner();
            inner.pending.push(line::NOTE);
            if let Err(error) = serde_json::to_writer(&mut inner.pending, note) {
                unreachable!("notes are plain data: {error}");
            }
            inner.pending.push(b'\n');
        }
        self.flush().await
    }

    /// Decides what a driver has asked; the decision is in the journal before it counts.
    ///
    /// # Errors
    /// The decision does not count.
    pub async fn decide(&self, approvals: &Approvals, id: &str, decision: Decision) -> Result<Decision, DecideError> {
        if let Some(until) = approvals.too_late(id).filter(|_| decision.by.is_some()) {
            return Err(DecideError::Late(until));
        }
        let write = async |decision: &Decision| {
            self.note(&Note::Decision { request_id: id.to_owned(), decision: decision.clone() }).await
        };
        approvals.decide(id, decision, write).await
    }

    /// Copies to the shared log what is missing there; `false` if something is missing still.
    pub async fn complete_copy(&self) -> bool {
        match &self.copy {
            Some(copy) => copy.complete(self).await,
            None => true,
        }
    }

    /// Whether another server has taken the run over.
    #[must_use]
    pub fn is_taken_over(&self) -> bool {
        self.copy.as_ref().is_some_and(SharedCopy::is_lost)
    }

    /// Returns once another server has taken the run over: this one must not touch it any more.
    pub async fn taken_over(&self) {
        match &self.copy {
            Some(copy) => copy.lost().await,
            None => std::future::pending().await,
        }
    }

    /// Writes how the run ends, and waits until the disk has it, so that a power failure does not lose what is then told.
    ///
    /// # Errors
    /// It was not written, or is not known to be on the disk.
    pub async fn keep_ending(self: &Arc<Self>, ending: &Ending) -> io::Result<()> {
        self.note(&Note::Ending(Box::new(ending.clone()))).await?;
        self.sync().await
    }

    /// Syncs the file to disk.
    ///
    /// # Errors
    /// The disk reports an error.
    pub async fn sync(self: &Arc<Self>) -> io::Result<()> {
        let this = self.clone();
        #[cfg(test)]
        self.synced.fetch_add(1, Ordering::Relaxed);
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
pub(super) mod tests;
