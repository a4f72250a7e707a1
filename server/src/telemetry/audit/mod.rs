//! The audit trail: one JSON object a line, appended to a file of its own, so that it can be kept, shipped and read without
//! the log. Nothing in it is a secret: no path, no query, no header, no body.

mod event;

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use nagaya_egress::{Decision, RequestRecord};
use serde::Serialize;

pub use event::{Event, Way, Whose};

use super::metrics::Metrics;

/// Lines that may wait for the disk. What comes beyond them is lost, and that is told in the trail itself.
const WAITING: usize = 16 * 1024;

#[derive(Serialize)]
struct Line<'a> {
    timestamp: jiff::Timestamp,
    #[serde(flatten)]
    event: &'a Event<'a>,
}

fn line(event: &Event<'_>) -> Option<String> {
    let text = serde_json::to_string(&Line { timestamp: jiff::Timestamp::now(), event });
    // Plain data always has a text.
    text.map(|text| text + "\n").ok()
}

/// The trail, written by a thread of its own: a slow disk holds no request up.
#[derive(Debug)]
pub struct Audit {
    lines: Mutex<Option<SyncSender<String>>>,
    losses: Arc<Losses>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Audit {
    /// Appends to a file, which only this user may read.
    ///
    /// # Errors
    /// It cannot be opened for writing.
    pub fn open(path: &Path, metrics: Arc<Metrics>) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        let (lines, waiting) = sync_channel(WAITING);
        let losses = Arc::new(Losses { untold: AtomicU64::new(0), metrics });
        let told = losses.clone();
        let writer = std::thread::Builder::new().name("audit".into()).spawn(move || write(file, &waiting, &told))?;
        Ok(Self { lines: Mutex::new(Some(lines)), losses, writer: Mutex::new(Some(writer)) })
    }

    /// A request of a room, or its tunnel, has ended.
    pub fn egress(&self, record: &RequestRecord) {
        let decision = match record.decision {
            Decision::Allowed => "allowed",
            Decision::Denied(_) => "denied",
            Decision::Failed(_) => "failed",
        };
        self.tell(&Event::Egress {
            whose: Whose {
                workspace: Some(&record.identity.workspace),
                conversation: record.identity.conversation.as_deref(),
                tenant: record.identity.tenant.as_deref(),
            },
            method: &record.method,
            host: &record.host,
            port: record.port,
            decision,
            reason: record.decision.reason(),
            rule: record.rule.as_deref(),
            status: record.status,
            bytes_up: record.bytes_up,
            bytes_down: record.bytes_down,
            duration_ms: u64::try_from(record.duration.as_millis()).unwrap_or(u64::MAX),
        });
    }

    /// Something has happened. Never blocks: what the disk is too slow for is lost, counted and told.
    pub fn tell(&self, event: &Event<'_>) {
        let Some(text) = line(event) else { return };
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = lines.as_ref().map_or(Err(TrySendError::Disconnected(String::new())), |lines| lines.try_send(text));
        if sent.is_err() {
            self.losses.add(1);
        }
    }

    /// Writes what waits, and ends.
    pub fn close(&self) {
        drop(self.lines.lock().unwrap_or_else(PoisonError::into_inner).take());
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if writer.is_some_and(|writer| writer.join().is_err()) {
            tracing::error!("the audit trail's writer failed");
        }
    }
}

/// Lines that could not be kept.
#[derive(Debug)]
struct Losses {
    /// Those that the trail itself does not tell of yet.
    untold: AtomicU64,
    metrics: Arc<Metrics>,
}

impl Losses {
    fn add(&self, lines: u64) {
        self.untold.fetch_add(lines, Ordering::Relaxed);
        self.metrics.audit_lost(lines);
    }
}

fn write(mut file: impl Write, waiting: &Receiver<String>, losses: &Losses) {
    let mut broken = false;
    while let Ok(first) = waiting.recv() {
        // What was cut short by a full disk gets its end, so that it spoils no line but itself.
        let mut batch = if broken { "\n".to_owned() } else { String::new() };
        batch.push_str(&first);
        let mut count = 1;
        while batch.len() < 64 * 1024
            && let Ok(next) = waiting.try_recv()
        {
            batch.push_str(&next);
            count += 1;
        }
        let untold = losses.untold.swap(0, Ordering::Relaxed);
        if untold > 0 {
            batch.push_str(&line(&Event::Lost { lines: untold }).unwrap_or_default());
        }
        match file.write_all(batch.as_bytes()) {
            Ok(()) => {
                if std::mem::take(&mut broken) {
                    tracing::info!("the audit trail is written again");
                }
            }
            Err(error) => {
                losses.untold.fetch_add(untold, Ordering::Relaxed);
                losses.add(count);
                // Told once, until it is written again.
                if !std::mem::replace(&mut broken, true) {
                    tracing::error!(%error, "the audit trail cannot be written; its lines are lost until it can");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
