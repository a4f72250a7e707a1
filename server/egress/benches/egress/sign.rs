//! Signing: a body of 90 KB to a TLS origin, with a signature, compared with an added header.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::net::{Address, Conn, answer};
use crate::origin::{KEYED, SIGNED};
use crate::report::{Goal, Report, Table};
use crate::stage::Stage;
use crate::stats::{Sample, quantile, rounds};

/// Size of a body in bytes: that of a model call with a coding agent's tools.
const BODY: usize = 90_000;
/// Number of concurrent clients.
const CLIENTS: usize = 8;
/// Duration of one measurement, after `WARM`.
const LONG: Duration = Duration::from_millis(1000);
/// Warm-up time, which is not counted.
const WARM: Duration = Duration::from_millis(150);

pub(crate) fn measure(stage: &mut Stage, count: usize, report: &mut Report) {
    let verified = stage.ours().and_then(|at| {
        // The origin verifies the signature of this request; for the measured ones it only checks that there is one.
        exchange(&mut Conn::open(&at)?, &request(SIGNED, "/model/verify/invoke")).context("the signature")?;
        Ok(at)
    });
    let keyed = stage.ours();
    let contenders = vec![
        ("header", keyed.map(|at| (at, request(KEYED, "/model/m/invoke")))),
        ("signed", verified.map(|at| (at, request(SIGNED, "/model/m/invoke")))),
    ];
    let series = rounds(count, contenders, |_, (at, request)| many(at, request));
    report.add(Table {
        id: "sign",
        title: "Signing (SigV4): POST of 90 KB, forwarded over TLS",
        unit: "requests/s",
        more_is_better: true,
        note: "Ours both times, 8 kept connections: a rule that adds a header, and one that signs.".into(),
        series,
        goals: vec![Goal::ratio("header", 0.85).of("signed")],
    });
}

fn request(host: &str, path: &str) -> Vec<u8> {
    let mut request = format!(
        "POST http://{host}{path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {BODY}\r\n\r\n"
    )
    .into_bytes();
    request.resize(request.len() + BODY, b'j');
    request
}

fn many(at: &Address, request: &[u8]) -> Result<Sample> {
    let (from, until) = (Instant::now() + WARM, Instant::now() + WARM + LONG);
    let one = || -> Result<Vec<f64>> {
        let (mut conn, mut took) = (Conn::open(at)?, Vec::new());
        loop {
            let began = Instant::now();
            if !exchange(&mut conn, request)? {
                conn = Conn::open(at)?;
            }
            let now = Instant::now();
            if now >= until {
                return Ok(took);
            }
            if began >= from {
                took.push(now.duration_since(began).as_secs_f64() * 1e3);
            }
        }
    };
    let clients = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(one)).collect();
        let ended = clients.into_iter().map(|client| client.join().ok().context("a client panicked")?);
        ended.collect::<Result<Vec<_>>>()
    })?;
    let took: Vec<f64> = clients.into_iter().flatten().collect();
    ensure!(!took.is_empty(), "no answer in time");
    #[allow(clippy::cast_precision_loss, reason = "thousands")]
    let value = took.len() as f64 / LONG.as_secs_f64();
    Ok(Sample { value, p99: Some(quantile(&took, 0.99)) })
}

/// Whether the connection may be used again.
fn exchange(conn: &mut Conn, request: &[u8]) -> Result<bool> {
    conn.write_all(request)?;
    let (mut input, mut filled) = ([0; 4096], 0);
    loop {
        let read = conn.read(&mut input[filled..])?;
        ensure!(read > 0, "closed before the answer");
        filled += read;
        if let Some(answer) = answer(&input[..filled])? {
            let told = String::from_utf8_lossy(answer.body);
            ensure!(told == BODY.to_string(), "the origin got {told} bytes");
            return Ok(answer.keep);
        }
    }
}
