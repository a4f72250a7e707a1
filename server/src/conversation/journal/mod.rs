//! A run's journal: what it has said so far, in a file. The run writes it; clients read it, each at its own pace; nothing a
//! reader does can hold the run up, and nothing of it is kept in memory for them.
//!
//! What it promises: readers see an event only when the kernel has it, so one that was seen is still there after the
//! process was killed. The disk is waited for only where a run begins to end (`Ending`) and where a server stops. When the power
//! fails, the events of the last seconds may be gone, and whoever saw them has seen more than there is.

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

use super::event::Event;

/// Bytes between two places that are kept in memory for readers that come in the middle.
const MARKS_APART: u64 = 64 * 1024;

/// The events of one run.
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
    /// Length of the file, as far as it is whole.
    written: u64,
    /// Lines that the file does not have yet.
    pending: Vec<u8>,
    /// Number of the last event.
    seq: usize,
    /// Where some events begin, in ascending order: offset, number of the event before.
    marks: Vec<(u64, usize)>,
    closed: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Progress {
    /// Bytes that readers may read.
    bytes: u64,
    /// The last of them is `done`.
    closed: bool,
    /// Nothing more will come from this process.
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
    /// A journal that begins in an empty file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn begin(file: File, head: Head) -> io::Result<Self> {
        let run_id = head.run_id.clone();
        let journal = Self::new(run_id, file, Inner::default(), Progress::default());
        journal.note(&Note::Run(Box::new(head)))?;
        Ok(journal)
    }

    /// A journal that goes on where an earlier process left it.
    ///
    /// # Errors
    /// What stands after its last whole line cannot be cut off.
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

    /// The journal of a run that ended, only to be read.
    ///
    /// # Errors
    /// The file cannot be looked at.
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

    /// The run's id: the first half of every event's id.
    #[must_use]
    pub fn run_id(&self) -> &str {
        &self.run_id
    }

    /// Number of the last event.
    #[must_use]
    pub fn seq(&self) -> usize {
        self.inner().seq
    }

    /// How long it is, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.progress.borrow().bytes
    }

    /// Whether the run has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.progress.borrow().closed
    }

    /// Whether the database has all of the run.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Acquire)
    }

    /// Says that it has: before `done`, wherever possible, so that whoever read that may go on at once.
    pub fn settle(&self) {
        self.settled.store(true, Ordering::Release);
    }

    /// Waits until the run has ended; `false` where this process leaves it to the next.
    pub async fn ended(&self) -> bool {
        let mut progress = self.progress.subscribe();
        progress.wait_for(|progress| progress.over).await.is_ok_and(|progress| progress.closed)
    }

    /// Puts an event down, to be seen after the next [`Journal::flush`]; `done` closes the journal, and nothing is put down
    /// after it. `agent` is the number of the agent's event it came of, or 0. Returns the event's number.
    pub fn put(&self, agent: u64, event: &Event) -> usize {
        let mut inner = self.inner();
        if inner.closed {
            tracing::error!(run = self.run_id, event = event.name(), "an event after done was dropped");
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
        inner.pending.extend_from_slice(format!("{agent} {} ", event.name()).as_bytes());
        if let Err(error) = serde_json::to_writer(&mut inner.pending, &data) {
            unreachable!("events are plain data: {error}");
        }
        inner.pending.push(b'\n');
        inner.seq
    }

    /// Writes what was put down and shows it to the readers.
    ///
    /// # Errors
    /// The disk does not take it. Then it is shown all the same, out of memory, and tried again at the next flush: a run
    /// whose end cannot be written must still be able to tell it.
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
    pub fn append(&self, agent: u64, event: &Event) -> io::Result<usize> {
        let seq = self.put(agent, event);
        self.flush().map(|()| seq)
    }

    /// Writes a note.
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

    /// Waits until the disk has what was written.
    ///
    /// # Errors
    /// It does not take it.
    pub async fn sync(self: &Arc<Self>) -> io::Result<()> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || this.file.sync_data())
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)))
    }

    /// Lets the readers go: the next process goes on with this journal.
    pub fn leave(&self) {
        self.progress.send_modify(|progress| progress.over = true);
    }

    /// A reader of everything after event number `after`.
    #[must_use]
    pub fn reader(self: &Arc<Self>, after: usize) -> Reader {
        let (offset, seq) = {
            let inner = self.inner();
            let at = inner.marks.partition_point(|(_, before)| *before <= after);
            at.checked_sub(1).map_or((0, 0), |at| inner.marks[at])
        };
        Reader::new(self.clone(), self.progress.subscribe(), offset, seq, after)
    }

    /// All lines there are, for the run itself.
    #[must_use]
    pub fn lines(&self) -> Lines<'_> {
        Lines::new(&self.file, self.inner().written)
    }

    /// Reads from what the file does not have yet; `None` where the file has it.
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
        // At its place, so that what an attempt that failed left behind is written over.
        file.write_all_at(&self.pending, self.written)?;
        self.written += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
