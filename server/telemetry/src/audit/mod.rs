//! The audit trail: one JSON object a line, appended to a file of its own, so that it can be kept, shipped and read without
//! the log. Nothing in it is a secret: no path, no query, no header, no body.

mod event;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use serde::Serialize;

pub use event::{Event, Subject, Way};

use crate::metrics::Metrics;

/// Lines that may be queued for the writer. Further lines are dropped and counted, and the trail itself records how many.
const WAITING: usize = 16 * 1024;

#[derive(Serialize)]
struct Line<'a> {
    timestamp: jiff::Timestamp,
    #[serde(flatten)]
    event: &'a Event<'a>,
}

fn line(event: &Event<'_>) -> Option<String> {
    let text = serde_json::to_string(&Line { timestamp: jiff::Timestamp::now(), event });
    // Serialising plain data cannot fail.
    text.map(|text| text + "\n").ok()
}

/// The audit trail. A thread of its own writes it, so that a slow disk delays no request.
#[derive(Debug)]
pub struct Audit {
    lines: Mutex<Option<SyncSender<String>>>,
    losses: Arc<Losses>,
    writer: Mutex<Option<JoinHandle<()>>>,
    path: PathBuf,
    /// The file that the writer is to continue in.
    next: Arc<Mutex<Option<File>>>,
}

/// The file of the trail, which is replaced when it is reopened.
struct Current {
    file: File,
    next: Arc<Mutex<Option<File>>>,
}

impl Write for Current {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(next) = self.next.lock().take() {
            self.file = next;
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

impl Audit {
    /// Opens a file to append to; a new one is readable by this user only.
    ///
    /// # Errors
    /// It cannot be opened for writing.
    pub fn open(path: &Path, metrics: Arc<Metrics>) -> io::Result<Self> {
        let next = Arc::new(Mutex::new(None));
        let file = Current { file: open(path)?, next: next.clone() };
        let (lines, waiting) = sync_channel(WAITING);
        let losses = Arc::new(Losses { unreported: AtomicU64::new(0), metrics });
        let for_writer = losses.clone();
        let writer =
            std::thread::Builder::new().name("audit".into()).spawn(move || write(file, &waiting, &for_writer))?;
        Ok(Self {
            lines: Mutex::new(Some(lines)),
            losses,
            writer: Mutex::new(Some(writer)),
            path: path.to_owned(),
            next,
        })
    }

    /// Opens the file anew, for example after it was renamed, and continues in it.
    ///
    /// # Errors
    /// It cannot be opened for writing; the trail continues in the file that is open.
    pub fn reopen(&self) -> io::Result<()> {
        *self.next.lock() = Some(open(&self.path)?);
        Ok(())
    }

    /// Queues an event. Never blocks: where the queue is full, the line is dropped and counted.
    pub fn record(&self, event: &Event<'_>) {
        let Some(text) = line(event) else { return };
        let lines = self.lines.lock();
        let sent = lines.as_ref().map_or(Err(TrySendError::Disconnected(String::new())), |lines| lines.try_send(text));
        if sent.is_err() {
            self.losses.add(1);
        }
    }

    /// Writes the queued lines and ends the writer.
    pub fn close(&self) {
        drop(self.lines.lock().take());
        let writer = self.writer.lock().take();
        if writer.is_some_and(|writer| writer.join().is_err()) {
            tracing::error!("the audit trail's writer panicked");
        }
    }
}

/// Lines that could not be written.
#[derive(Debug)]
struct Losses {
    /// Losses that no `lost` line reports yet.
    unreported: AtomicU64,
    metrics: Arc<Metrics>,
}

impl Losses {
    fn add(&self, lines: u64) {
        self.unreported.fetch_add(lines, Ordering::Relaxed);
        self.metrics.audit_lost(lines);
    }
}

fn write(mut file: impl Write, waiting: &Receiver<String>, losses: &Losses) {
    let mut broken = false;
    while let Ok(first) = waiting.recv() {
        // A line that a full disk cut short is ended here, so that it spoils only itself.
        let mut batch = if broken { "\n".to_owned() } else { String::new() };
        batch.push_str(&first);
        let mut count = 1;
        while batch.len() < 64 * 1024
            && let Ok(next) = waiting.try_recv()
        {
            batch.push_str(&next);
            count += 1;
        }
        let unreported = losses.unreported.swap(0, Ordering::Relaxed);
        if unreported > 0 {
            batch.push_str(&line(&Event::Lost { lines: unreported }).unwrap_or_default());
        }
        match file.write_all(batch.as_bytes()) {
            Ok(()) => {
                if std::mem::take(&mut broken) {
                    tracing::info!("the audit trail can be written again");
                }
            }
            Err(error) => {
                losses.unreported.fetch_add(unreported, Ordering::Relaxed);
                losses.add(count);
                // Logged once until it can be written again.
                if !std::mem::replace(&mut broken, true) {
                    tracing::error!(%error, "the audit trail cannot be written; its lines are lost until it can");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
