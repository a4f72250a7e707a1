//! The audit trail: one JSON object a line, appended to a file of its own, so that it can be kept, shipped and read without
//! the log. Nothing in it is a secret: no path, no query, no header, no body.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use nagaya_egress::{Decision, RequestRecord};
use serde::Serialize;

/// Lines that may wait for the disk. What comes beyond them is lost, and that is told in the trail itself.
const WAITING: usize = 16 * 1024;

/// One line.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'a> {
    Egress {
        workspace: &'a str,
        conversation: Option<&'a str>,
        tenant: Option<&'a str>,
        method: &'a str,
        host: &'a str,
        port: u16,
        decision: &'static str,
        reason: Option<&'static str>,
        rule: Option<&'a str>,
        status: u16,
        bytes_up: u64,
        bytes_down: u64,
        duration_ms: u64,
    },
    /// So many lines before this one could not be kept.
    Lost { lines: u64 },
}

#[derive(Serialize)]
struct Line<'a> {
    timestamp: jiff::Timestamp,
    #[serde(flatten)]
    event: Event<'a>,
}

fn line(event: Event<'_>) -> Option<String> {
    let text = serde_json::to_string(&Line { timestamp: jiff::Timestamp::now(), event });
    // Plain data always has a text.
    text.map(|text| text + "\n").ok()
}

/// The trail, written by a thread of its own: a slow disk holds no request up.
#[derive(Debug)]
pub struct Audit {
    lines: Mutex<Option<SyncSender<String>>>,
    lost: Arc<AtomicU64>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Audit {
    /// Appends to a file, which only this user may read.
    ///
    /// # Errors
    /// It cannot be opened for writing.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        let (lines, waiting) = sync_channel(WAITING);
        let lost = Arc::<AtomicU64>::default();
        let counted = lost.clone();
        let writer = std::thread::Builder::new().name("audit".into()).spawn(move || write(file, &waiting, &counted))?;
        Ok(Self { lines: Mutex::new(Some(lines)), lost, writer: Mutex::new(Some(writer)) })
    }

    /// A request of a room, or its tunnel, has ended.
    pub fn egress(&self, record: &RequestRecord) {
        let decision = match record.decision {
            Decision::Allowed => "allowed",
            Decision::Denied(_) => "denied",
            Decision::Failed(_) => "failed",
        };
        self.keep(Event::Egress {
            workspace: &record.identity.workspace,
            conversation: record.identity.conversation.as_deref(),
            tenant: record.identity.tenant.as_deref(),
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

    fn keep(&self, event: Event<'_>) {
        let Some(text) = line(event) else { return };
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = lines.as_ref().map_or(Err(TrySendError::Disconnected(String::new())), |lines| lines.try_send(text));
        if sent.is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
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

fn write(mut file: File, waiting: &Receiver<String>, lost: &AtomicU64) {
    let mut broken = false;
    while let Ok(first) = waiting.recv() {
        let mut batch = first;
        let mut count = 1;
        while batch.len() < 64 * 1024
            && let Ok(next) = waiting.try_recv()
        {
            batch.push_str(&next);
            count += 1;
        }
        match lost.swap(0, Ordering::Relaxed) {
            0 => {}
            lines => batch.push_str(&line(Event::Lost { lines }).unwrap_or_default()),
        }
        match file.write_all(batch.as_bytes()) {
            Ok(()) => broken = false,
            Err(error) => {
                lost.fetch_add(count, Ordering::Relaxed);
                // Told once, until it is written again.
                if !std::mem::replace(&mut broken, true) {
                    tracing::error!(%error, "the audit trail cannot be written");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nagaya_egress::Identity;
    use serde_json::Value;

    use super::*;

    fn record(host: &str, decision: Decision) -> RequestRecord {
        RequestRecord {
            identity: Identity { workspace: "w".into(), conversation: Some("c".into()), tenant: Some("t".into()) },
            method: "GET".into(),
            host: host.into(),
            port: 443,
            decision,
            rule: None,
            status: 403,
            bytes_up: 1,
            bytes_down: 2,
            duration: Duration::from_millis(3),
        }
    }

    #[test]
    fn each_request_is_a_line_and_none_is_lost_at_the_end() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("audit.jsonl");
        for _ in 0..2 {
            let audit = Audit::open(&path).expect("opens");
            for n in 0..500 {
                audit.egress(&record(&format!("{n}.example\n"), Decision::Denied("not_allowed")));
            }
            audit.close();
            audit.egress(&record("late.example", Decision::Allowed));
        }
        let text = std::fs::read_to_string(&path).expect("reads");
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(lines.len(), 1000, "it is appended to");
        let first = &lines[0];
        assert_eq!((first["event"].as_str(), first["decision"].as_str()), (Some("egress"), Some("denied")));
        assert_eq!((first["reason"].as_str(), first["host"].as_str()), (Some("not_allowed"), Some("0.example\n")));
        assert_eq!((first["workspace"].as_str(), first["tenant"].as_str()), (Some("w"), Some("t")));
        assert!(first["timestamp"].as_str().expect("text").ends_with('Z'));
    }

    #[test]
    fn what_could_not_be_kept_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("audit.jsonl");
        let audit = Audit::open(&path).expect("opens");
        audit.lost.store(7, Ordering::Relaxed);
        audit.egress(&record("a.example", Decision::Allowed));
        audit.close();
        let text = std::fs::read_to_string(&path).expect("reads");
        assert!(text.lines().nth(1).expect("a second line").contains(r#""event":"lost","lines":7"#), "{text}");
    }
}
