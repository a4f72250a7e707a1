//! New tunnels: CONNECT, one byte in each direction, close.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::net::{Address, Conn};
use crate::peers::Kind;
use crate::report::{Goal, Report, Table};
use crate::stage::Stage;
use crate::stats::{Sample, quantile, rounds};

/// Number of concurrent clients.
const CLIENTS: usize = 8;
/// Duration of one measurement, after `WARM`.
const LONG: Duration = Duration::from_millis(800);
/// Warm-up time, which is not counted.
const WARM: Duration = Duration::from_millis(100);

pub(crate) fn measure(stage: &mut Stage, count: usize, report: &mut Report) {
    let echo = stage.doors.echo;
    let contenders =
        vec![("ours", stage.ours()), ("squid", stage.peer(Kind::Squid)), ("tinyproxy", stage.peer(Kind::Tinyproxy))];
    let series = rounds(count, contenders, |_, at| many(at, echo));
    report.add(Table {
        id: "tunnels",
        title: "New tunnels: CONNECT, one byte there and back, close",
        unit: "tunnels/s",
        more_is_better: true,
        note: "8 clients, one tunnel each at a time. p99 is of the whole exchange.".into(),
        series,
        goals: vec![Goal::ratio("squid", 1.5)],
    });
}

fn many(at: &Address, to: SocketAddr) -> Result<Sample> {
    let (from, until) = (Instant::now() + WARM, Instant::now() + WARM + LONG);
    let clients = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| one_after_another(at, to, from, until))).collect();
        let ended = clients.into_iter().map(|client| client.join().ok().context("a client panicked")?);
        ended.collect::<Result<Vec<_>>>()
    })?;
    let took: Vec<f64> = clients.into_iter().flatten().collect();
    ensure!(!took.is_empty(), "no tunnel in time");
    #[allow(clippy::cast_precision_loss, reason = "thousands")]
    let value = took.len() as f64 / LONG.as_secs_f64();
    Ok(Sample { value, p99: Some(quantile(&took, 0.99)) })
}

/// Duration of each tunnel, in milliseconds.
fn one_after_another(at: &Address, to: SocketAddr, from: Instant, until: Instant) -> Result<Vec<f64>> {
    let mut took = Vec::new();
    loop {
        let began = Instant::now();
        let mut conn = Conn::open(at)?;
        conn.tunnel(to)?;
        conn.write_all(b"x")?;
        let mut byte = [0; 2];
        let read = conn.read(&mut byte)?;
        ensure!(byte[..read] == *b"x", "the byte did not come back: {:?}", &byte[..read]);
        drop(conn);
        let now = Instant::now();
        if now >= until {
            return Ok(took);
        }
        if began >= from {
            took.push(now.duration_since(began).as_secs_f64() * 1e3);
        }
    }
}
