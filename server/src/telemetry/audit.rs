//! The audit trail: one JSON object a line, appended to a file of its own, so that it can be kept, shipped and read without
//! the log. Nothing in it is a secret: no path, no query, no header, no body.

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

use super::metrics::{Metrics, RunOutcome};

/// Lines that may wait for the disk. What comes beyond them is lost, and that is told in the trail itself.
const WAITING: usize = 16 * 1024;

/// Whose something is.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Whose<'a> {
    /// The room; `None` where there is none yet.
    pub workspace: Option<&'a str>,
    /// The conversation; `None` for a room of the pool.
    pub conversation: Option<&'a str>,
    /// The conversation's tenant.
    pub tenant: Option<&'a str>,
}

/// Which way a file goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// Into the conversation's files.
    In,
    /// Out to whoever asked.
    Out,
    /// It is removed.
    Delete,
}

/// What can be in the trail; docs/security.md describes each for its readers.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event<'a> {
    /// A room stands ready.
    RoomCreated {
        /// Whose it is.
        #[serde(flatten)]
        whose: Whose<'a>,
    },
    /// A conversation has got a room that waited.
    RoomAssigned {
        /// Whose it is.
        #[serde(flatten)]
        whose: Whose<'a>,
    },
    /// A room that another server, or an earlier life of this one, had.
    RoomAdopted {
        /// Whose it is.
        #[serde(flatten)]
        whose: Whose<'a>,
    },
    /// A room was lost under a run.
    RoomCrashed {
        /// Whose it is.
        #[serde(flatten)]
        whose: Whose<'a>,
        /// The run's id.
        run: &'a str,
        /// The request that asked for it.
        request_id: Option<&'a str>,
        /// Why.
        reason: &'a str,
    },
    /// Nothing is left of a room.
    RoomDestroyed {
        /// Whose it is.
        #[serde(flatten)]
        whose: Whose<'a>,
        /// Why.
        reason: &'static str,
    },
    /// Somebody has asked for a run.
    RunStarted {
        /// Whose it is.
        #[serde(flatten)]
        whose: Whose<'a>,
        /// The run's id.
        run: &'a str,
        /// The request that asked for it.
        request_id: Option<&'a str>,
        /// The user, as the client calls them.
        user: Option<&'a str>,
        /// The model's id.
        model: &'a str,
    },
    /// A run is over.
    RunEnded {
        /// Whose it is.
        #[serde(flatten)]
        whose: Whose<'a>,
        /// The run's id.
        run: &'a str,
        /// The request that asked for it.
        request_id: Option<&'a str>,
        /// How it ended, or was answered.
        status: RunOutcome,
        /// Tokens read.
        input_tokens: u64,
        /// Tokens written.
        output_tokens: u64,
        /// How long it took, in milliseconds.
        duration_ms: u64,
    },
    /// A request of a room, or its tunnel, has ended.
    Egress {
        /// Whose it is.
        #[serde(flatten)]
        whose: Whose<'a>,
        /// HTTP method.
        method: &'a str,
        /// Host asked for; empty where none could be read.
        host: &'a str,
        /// Port asked for.
        port: u16,
        /// `allowed`, `denied` or `failed`.
        decision: &'static str,
        /// Why.
        reason: Option<&'static str>,
        /// Rule of the allow-list that decided.
        rule: Option<&'a str>,
        /// How it ended, or was answered.
        status: u16,
        /// Bytes from the room.
        bytes_up: u64,
        /// Bytes to the room.
        bytes_down: u64,
        /// How long it took, in milliseconds.
        duration_ms: u64,
    },
    /// A file went in or out, or was removed.
    File {
        /// Whose it is.
        #[serde(flatten)]
        whose: Whose<'a>,
        /// Which way.
        way: Way,
        /// Path below the conversation's working directory.
        path: &'a str,
        /// Its size.
        bytes: u64,
        /// The request that asked for it.
        request_id: Option<&'a str>,
    },
    /// Something was changed, or tried to be, that is an operator's to change.
    Operator {
        /// HTTP method.
        method: &'a str,
        /// Without a query.
        path: &'a str,
        /// How it ended, or was answered.
        status: u16,
        /// The request that asked for it.
        request_id: &'a str,
        /// Place of the key in `API_KEYS`, from 1; `None` where there are no keys.
        key: Option<usize>,
        /// Whose key it was; `None` for an operator's.
        tenant: Option<&'a str>,
    },
    /// So many lines before this one could not be kept.
    Lost {
        /// How many.
        lines: u64,
    },
}

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

    fn metrics() -> Arc<Metrics> {
        Arc::new(Metrics::new().expect("metrics"))
    }

    #[test]
    fn each_request_is_a_line_and_none_is_lost_at_the_end() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("audit.jsonl");
        for _ in 0..2 {
            let audit = Audit::open(&path, metrics()).expect("opens");
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

    /// A disk that is full after so many bytes, until it has place again.
    struct Disk(Arc<Mutex<(usize, Vec<u8>)>>);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut disk = self.0.lock().expect("whole");
            let taken = bytes.len().min(disk.0);
            disk.0 -= taken;
            disk.1.extend(&bytes[..taken]);
            if taken == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(taken) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_costs_whole_lines_which_are_counted_and_told() {
        let disk = Arc::new(Mutex::new((10, Vec::new())));
        let metrics = metrics();
        let losses = Losses { untold: AtomicU64::new(0), metrics: metrics.clone() };
        let one = |path| {
            let event = Event::Operator { method: "PUT", path, status: 200, request_id: "r", key: None, tenant: None };
            line(&event).expect("a line")
        };
        let (lines, waiting) = sync_channel(1);
        let writer = std::thread::spawn({
            let disk = disk.clone();
            move || {
                write(Disk(disk), &waiting, &losses);
                losses.untold.load(Ordering::Relaxed)
            }
        });
        let lost = || {
            let page = metrics.render(crate::telemetry::metrics::Reality::default(), &[]).expect("renders");
            let page = String::from_utf8(page).expect("text");
            let line = page.lines().find_map(|line| line.strip_prefix("workspace_audit_lines_lost_total "));
            line.expect("counted").parse::<u64>().expect("a number")
        };
        for (path, expected) in [("/cut", 1), ("/lost", 2)] {
            lines.send(one(path)).expect("sent");
            let until = std::time::Instant::now() + Duration::from_secs(10);
            while lost() < expected {
                assert!(std::time::Instant::now() < until, "{} lost", lost());
                std::thread::yield_now();
            }
        }
        disk.lock().expect("whole").0 = usize::MAX;
        lines.send(one("/kept")).expect("sent");
        drop(lines);
        assert_eq!(writer.join().expect("ends"), 0, "all losses are told");
        let text = String::from_utf8(disk.lock().expect("whole").1.clone()).expect("text");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert_eq!(lines[0].len(), 10, "what was cut short");
        assert!(lines[1].contains("/kept") && lines[2].contains(r#""event":"lost","lines":2"#), "{text}");
    }

    #[test]
    fn a_trail_that_cannot_be_written_stops_nobody() {
        let metrics = metrics();
        let audit = Audit::open(Path::new("/dev/full"), metrics.clone()).expect("opens");
        for _ in 0..3 {
            audit.egress(&record("a.example", Decision::Allowed));
        }
        audit.close();
        let page = metrics.render(crate::telemetry::metrics::Reality::default(), &[]).expect("renders");
        assert!(String::from_utf8(page).expect("text").contains("workspace_audit_lines_lost_total 3"));
    }
}
