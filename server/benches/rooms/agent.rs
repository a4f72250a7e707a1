//! A room's agent, asked with as little as possible of one's own; and what it holds in memory.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nagaya_protocol::AGENT_SOCKET;
use rustix::net::sockopt::socket_peercred;

use crate::process::status;
use crate::report::{Goal, Report, Table};
use crate::stage::Stage;
use crate::stats::{Sample, rounds};

/// How long an answer may take that needs no work.
const PATIENCE: Duration = Duration::from_secs(5);

/// The socket of the agent of the room with this directory.
pub(crate) fn socket(dir: &Path) -> PathBuf {
    dir.join(AGENT_SOCKET)
}

/// One bare round trip: connect, ask, read the answer.
pub(crate) fn round_trip(socket: &Path) -> Result<()> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let status = get(stream, "/health")?;
    ensure!(status == 200, "the agent answered {status}");
    Ok(())
}

/// The status of an answer, once its body is there to the last byte.
pub(crate) fn get(mut stream: impl Read + Write, path: &str) -> Result<u16> {
    write!(stream, "GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n")?;
    let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        if let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = std::str::from_utf8(&answer[..end])?.to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
            let length: usize = length.context("an answer without a length")?.trim().parse()?;
            if answer.len() >= end + 4 + length {
                return Ok(head.split(' ').nth(1).context("no status")?.parse()?);
            }
        }
        let read = stream.read(&mut piece)?;
        ensure!(read > 0, "closed in the middle of an answer");
        answer.extend_from_slice(&piece[..read]);
    }
}

pub(crate) fn measure(stage: &mut Stage, count: usize, report: &mut Report) {
    let stage = &*stage;
    let series = rounds(count, vec![("ours", stage.deployment())], |_, deployment| {
        let lease = stage.acquire(deployment, "agent")?;
        let held = held(&socket(&deployment.dir(lease.workspace_id())));
        drop(lease);
        stage.release(deployment, "agent")?;
        Ok(Sample { value: held?, p99: None })
    });
    report.add(Table {
        id: "memory-agent",
        title: "A room's agent: resident memory, idle",
        unit: "MiB",
        more_is_better: false,
        note:
            "VmRSS of the first process of a room that has just been made and has run nothing; a new room each round."
                .into(),
        series,
        goals: vec![Goal::at_most(4.0)],
    });
}

/// What the process holds that listens on this socket, in MiB.
fn held(socket: &Path) -> Result<f64> {
    // Whoever listens is told by the kernel, and by the number it has out here.
    let pid = socket_peercred(UnixStream::connect(socket)?)?.pid.as_raw_nonzero().get();
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let numbers = text.lines().find(|line| line.starts_with("NSpid:")).context("no NSpid")?;
    ensure!(numbers.split_whitespace().last() == Some("1"), "not a room's first process: {numbers}");
    #[allow(clippy::cast_precision_loss, reason = "kibibytes of one process")]
    Ok(status(pid.unsigned_abs(), "VmRSS")? as f64 / 1024.0)
}
