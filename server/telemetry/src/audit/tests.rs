use std::time::Duration;

use serde_json::Value;

use super::*;

fn denied(host: &str) -> Event<'_> {
    Event::Egress {
        subject: Subject { workspace: Some("w"), conversation: Some("c"), tenant: Some("t") },
        method: "GET",
        host,
        port: 443,
        decision: "denied",
        reason: Some("not_allowed"),
        rule: None,
        layer: None,
        policy: None,
        operation: None,
        credential: None,
        status: 403,
        bytes_up: 1,
        bytes_down: 2,
        duration_ms: 3,
        count: 1,
    }
}

fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::new().expect("metrics"))
}

#[test]
fn every_event_is_a_line_and_closing_writes_all_of_them() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("audit.jsonl");
    for _ in 0..2 {
        let audit = Audit::open(&path, metrics()).expect("opens");
        for n in 0..500 {
            audit.record(&denied(&format!("{n}.example\n")));
        }
        audit.close();
        audit.record(&denied("late.example"));
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

/// A disk with space for a limited number of bytes, which can be raised.
struct Disk(Arc<Mutex<(usize, Vec<u8>)>>);

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut disk = self.0.lock();
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
fn a_full_disk_loses_whole_lines_which_are_counted_and_reported() {
    let disk = Arc::new(Mutex::new((10, Vec::new())));
    let metrics = metrics();
    let losses = Losses { unreported: AtomicU64::new(0), metrics: metrics.clone() };
    let one = |path| {
        let event = Event::Operator {
            method: "PUT",
            path,
            status: 200,
            request_id: "r",
            key: None,
            key_id: None,
            subject: None,
            tenant: None,
        };
        line(&event).expect("a line")
    };
    let (lines, waiting) = sync_channel(1);
    let writer = std::thread::spawn({
        let disk = disk.clone();
        move || {
            write(Disk(disk), &waiting, &losses);
            losses.unreported.load(Ordering::Relaxed)
        }
    });
    let lost = || {
        let page = metrics.render(crate::metrics::Counts::default(), &[]).expect("renders");
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
    disk.lock().0 = usize::MAX;
    lines.send(one("/kept")).expect("sent");
    drop(lines);
    assert_eq!(writer.join().expect("ends"), 0, "all losses are reported");
    let text = String::from_utf8(disk.lock().1.clone()).expect("text");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert_eq!(lines[0].len(), 10, "what was cut short");
    assert!(lines[1].contains("/kept") && lines[2].contains(r#""event":"lost","lines":2"#), "{text}");
}

#[test]
fn an_unwritable_audit_trail_blocks_no_caller() {
    let metrics = metrics();
    let audit = Audit::open(Path::new("/dev/full"), metrics.clone()).expect("opens");
    for _ in 0..3 {
        audit.record(&denied("a.example"));
    }
    audit.close();
    let page = metrics.render(crate::metrics::Counts::default(), &[]).expect("renders");
    assert!(String::from_utf8(page).expect("text").contains("workspace_audit_lines_lost_total 3"));
}
