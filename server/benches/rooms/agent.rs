//! Minimal requests to a room's agent, and its resident memory.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::process::status;
use crate::report::{Goal, Report, Table};
use crate::stage::Stage;
use crate::stats::{Sample, rounds};
use anyhow::{Context, Result, ensure};
use nagaya_protocol::AGENT_SOCKET;

/// Time limit for the response to a health request.
const DEADLINE: Duration = Duration::from_secs(5);

/// The agent's socket in a room's directory.
pub(crate) fn socket(dir: &Path) -> PathBuf {
    dir.join(AGENT_SOCKET)
}

/// One bare round trip: connect, send a request, read the response.
pub(crate) fn round_trip(socket: &Path) -> Result<()> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    let status = get(stream, "/health")?;
    ensure!(status == 200, "the agent answered {status}");
    Ok(())
}

/// Sends a request and returns the status, once the whole body has arrived.
pub(crate) fn get(mut stream: impl Read + Write, path: &str) -> Result<u16> {
    write!(stream, "GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n")?;
    let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        if let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = std::str::from_utf8(&answer[..end])?.to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
            let length: usize = length.context("a response without a Content-Length")?.trim().parse()?;
            if answer.len() >= end + 4 + length {
                return Ok(head.split(' ').nth(1).context("no status")?.parse()?);
            }
        }
        let read = stream.read(&mut piece)?;
        ensure!(read > 0, "the connection was closed within a response");
        answer.extend_from_slice(&piece[..read]);
    }
}

pub(crate) fn measure(stage: &mut Stage, count: usize, report: &mut Report) {
    let stage = &*stage;
    let series = rounds(count, vec![("ours", stage.deployment())], |_, deployment| {
        let lease = stage.acquire(deployment, "agent")?;
        let resident = resident(&deployment.dir(lease.workspace_id()));
        drop(lease);
        stage.release(deployment, "agent")?;
        Ok(Sample { value: resident?, p99: None })
    });
    report.add(Table {
        id: "memory-agent",
        title: "A room's agent: resident memory, idle",
        unit: "MiB",
        more_is_better: false,
        note: "VmRSS of the first process of a newly built room that has run nothing; a new room each round.".into(),
        series,
        goals: vec![Goal::at_most(4.0)],
    });
}

/// Resident memory in MiB of the first process of the room with this directory.
fn resident(dir: &Path) -> Result<f64> {
    // The room's user is its own.
    let uid = std::fs::read_to_string(dir.join(".lock"))?;
    let is_first = |pid: u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let last = |name: &str| {
            text.lines().find(|line| line.starts_with(name)).and_then(|line| line.split_whitespace().last())
        };
        last("Uid:") == Some(uid.trim()) && last("NSpid:") == Some("1")
    };
    let processes = std::fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let pid = processes.into_iter().find(|pid| is_first(*pid)).context("the room has no first process")?;
    #[allow(clippy::cast_precision_loss, reason = "kibibytes of one process")]
    Ok(status(pid, "VmRSS")? as f64 / 1024.0)
}
