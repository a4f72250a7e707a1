//! Memory use of tunnels: idle ones, and a busy one.

use std::io::{Read, Write};

use anyhow::{Context, Result, bail, ensure};

use crate::bulk;
use crate::net::{Address, Conn};
use crate::process::status;
use crate::report::{Goal, Report, Table};
use crate::stage::Stage;
use crate::stats::{Sample, Series};

/// Number of idle tunnels.
const TUNNELS: usize = 10_000;
/// Number of listeners that share the tunnels, so that each stays within the limits of one workspace.
const LISTENERS: usize = 100;
/// Number of bytes through the busy tunnel.
const BYTES: u64 = 1 << 30;

pub(crate) fn measure(stage: &mut Stage, _rounds: usize, report: &mut Report) {
    if report.wants("memory-idle") {
        let tunnels = possible();
        let few = if tunnels < TUNNELS { " The limit on descriptors does not allow 10,000." } else { "" };
        let samples = idle(stage, tunnels).map(|kib| vec![Sample { value: kib, p99: None }]);
        let series = Series { name: "ours", samples };
        report.add(Table {
            id: "memory-idle",
            title: "Idle tunnels: resident memory each",
            unit: "KiB",
            more_is_better: false,
            note: format!(
                "{tunnels} tunnels over 100 listeners, each of which has carried a byte there and back: growth of the proxy \
                 process.{few} Sockets' buffers are the kernel's and not in it. Measured once: memory hardly varies."
            ),
            series: vec![series],
            goals: vec![Goal::at_most(24.0)],
        });
    }
    if report.wants("memory-bulk") {
        let series = Series { name: "ours", samples: busy(stage).map(|kib| vec![Sample { value: kib, p99: None }]) };
        report.add(Table {
            id: "memory-bulk",
            title: "1 GiB through a tunnel: growth of resident memory at its peak",
            unit: "KiB",
            more_is_better: false,
            note: "Peak of the proxy process during the transfer, above what it held before.".into(),
            series: vec![series],
            goals: vec![Goal::at_most(1024.0)],
        });
    }
}

/// As many as the descriptors allow: each takes two of the proxy's, and a listener three.
fn possible() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    TUNNELS.min(limit.saturating_sub(3 * LISTENERS + 100) / 2)
}

fn idle(stage: &Stage, count: usize) -> Result<f64> {
    let (proxy, sockets) = stage.proxy("idle", LISTENERS)?;
    let echo = stage.doors.echo;
    let open = |n: usize| -> Result<Conn> {
        let mut conn = Conn::open(&Address::Unix(sockets[n % LISTENERS].clone()))?;
        conn.tunnel(echo)?;
        conn.write_all(b"x")?;
        conn.read_exact(&mut [0])?;
        Ok(conn)
    };
    // Memory that is allocated only once is not part of a tunnel's cost.
    drop((0..LISTENERS).map(open).collect::<Result<Vec<_>>>()?);
    let before = status(proxy.pid(), "VmRSS")?;
    let mut tunnels = Vec::new();
    for n in 0..count {
        match open(n) {
            Ok(tunnel) => tunnels.push(tunnel),
            Err(error) => bail!("{} of {count} idle tunnels could be opened: {error:#}", tunnels.len()),
        }
    }
    let after = status(proxy.pid(), "VmRSS")?;
    // All counted tunnels must still be open.
    for tunnel in &mut tunnels {
        tunnel.write_all(b"y")?;
        tunnel.read_exact(&mut [0]).context("an idle tunnel is gone")?;
    }
    #[allow(clippy::cast_precision_loss, reason = "kibibytes of one process")]
    let each = after.saturating_sub(before) as f64 / count as f64;
    ensure!(each > 0.0, "the process did not grow at all");
    Ok(each)
}

fn busy(stage: &Stage) -> Result<f64> {
    let (proxy, sockets) = stage.proxy("busy", 1)?;
    let bulk_origin = stage.doors.bulk;
    let carry = |bytes: u64| -> Result<()> {
        let mut conn = Conn::open(&Address::Unix(sockets[0].clone()))?;
        conn.tunnel(bulk_origin)?;
        bulk::down(conn, bytes, false)
    };
    carry(1 << 20)?;
    let before = status(proxy.pid(), "VmRSS")?;
    // Resets the peak to the current use (proc(5), clear_refs).
    std::fs::write(format!("/proc/{}/clear_refs", proxy.pid()), "5").context("clear_refs")?;
    carry(BYTES)?;
    let peak = status(proxy.pid(), "VmHWM")?;
    #[allow(clippy::cast_precision_loss, reason = "kibibytes of one process")]
    Ok(peak.saturating_sub(before) as f64)
}
