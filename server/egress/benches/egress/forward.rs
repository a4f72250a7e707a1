//! Plain HTTP forwarding: small requests on kept connections, as fast as it goes, and at half of that.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::lean::Poller;
use crate::net::{Address, Conn, ORIGIN, answer};
use crate::origin::PAGE;
use crate::peers::Kind;
use crate::report::{Goal, Report, Table};
use crate::stage::Stage;
use crate::stats::{Sample, Series, median, quantile, rounds};

/// Connections at once.
const CONNECTIONS: usize = 32;
/// One measurement, after `WARM`.
const LONG: Duration = Duration::from_millis(700);
/// What is not counted.
const WARM: Duration = Duration::from_millis(150);

/// Measurements at half load in each round, of what is compared there.
const PAIRS: usize = 3;

/// Without an answer, or behind what is due.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is asked, and of whom.
#[derive(Debug, Clone)]
struct Ask {
    at: Address,
    request: String,
}

pub(crate) fn measure(stage: &mut Stage, count: usize, report: &mut Report) {
    let http = stage.doors.http;
    let ask = |at: Address, host: &str, target: &str| Ask {
        at,
        request: format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: bench/1\r\nAccept: */*\r\n\r\n"),
    };
    let address = http.to_string();
    let named = format!("{ORIGIN}:{}", http.port());
    let by_name = |at| ask(at, &named, &format!("http://{named}/v1/things?page=1"));
    let by_address = |at| ask(at, &address, &format!("http://{address}/v1/things?page=1"));
    let contenders = || {
        vec![
            ("direct", Ok(ask(Address::Tcp(http), &address, "/v1/things?page=1"))),
            ("ours", stage.ours().map(by_name)),
            ("squid", stage.peer(Kind::Squid).map(by_address)),
            ("tinyproxy", stage.peer(Kind::Tinyproxy).map(by_address)),
            // Its upstream has no port: hosts that have one are looked up.
            ("nginx", stage.peer(Kind::Nginx).map(|at| ask(at, ORIGIN, &format!("http://{ORIGIN}/v1/things?page=1")))),
        ]
    };
    let contenders = {
        let mut contenders = contenders;
        contenders()
    };
    let again: Vec<(&'static str, Ask)> =
        contenders.iter().filter_map(|(name, ask)| Some((*name, ask.as_ref().ok()?.clone()))).collect();
    let full = rounds(count, contenders, |_, ask| load(ask, None));
    if report.wants("forward-half-load") {
        half_load(&full, again, count, report);
    }
    report.add(Table {
        id: "forward",
        title: "Plain HTTP forwarding of small requests, as fast as it goes",
        unit: "requests/s",
        more_is_better: true,
        note:
            "GET of 256 bytes on 32 kept connections (tinyproxy keeps none: it gets a new one for each). Every body is \
               compared. p99 is of one exchange under this load."
                .into(),
        series: full,
        goals: vec![Goal::ratio("squid", 2.0), Goal::ratio("nginx", 1.0)],
    });
}

/// Each at half of what it can do, and direct at half of what ours can.
fn half_load(full: &[Series], contenders: Vec<(&'static str, Ask)>, count: usize, report: &mut Report) {
    let most = |name: &str| -> Result<f64> {
        let series = full.iter().find(|series| series.name == name).context("not measured")?;
        let samples = series.samples.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
        Ok(median(&samples.iter().map(|sample| sample.value).collect::<Vec<_>>()))
    };
    let at_half = |(name, ask): (&'static str, Ask)| {
        (name, most(if name == "direct" { "ours" } else { name }).map(|most| (ask, most / 2.0)))
    };
    // Ours is held against direct, and a 99th percentile of one moment says little of the next: more rounds for these two.
    let (judged, others): (Vec<_>, Vec<_>) =
        contenders.into_iter().map(at_half).partition(|(name, _)| ["direct", "ours"].contains(name));
    let p99 = |_: &'static str, (ask, rate): &(Ask, f64)| {
        let sample = load(ask, Some(*rate))?;
        Ok(Sample { value: sample.p99.context("no p99")?, p99: None })
    };
    let mut series = rounds(PAIRS * count, judged, p99);
    series.extend(rounds(count, others, p99));
    report.add(Table {
        id: "forward-half-load",
        title: "Plain HTTP forwarding at half load: 99th percentile of an exchange",
        unit: "ms",
        more_is_better: false,
        note: format!(
            "Each at half of what it did above, direct at half of what ours did; those two in {PAIRS} times as many rounds. \
             Requests are due at even times; every one of them counts, from then on, however late its turn or its answer came."
        ),
        series,
        goals: vec![Goal::added("direct", 0.5)],
    });
}

/// What a connection has to say.
enum Heard {
    /// Not all of an answer.
    Nothing,
    /// An answer; and whether the connection stays.
    Answer { keep: bool },
    /// It was closed after an answer, which did not say so.
    Closed,
}

/// One connection of the load.
struct Client {
    conn: Conn,
    input: Vec<u8>,
    filled: usize,
    /// Whether it has had an answer.
    used: bool,
    /// Since when what is asked now is due.
    due: Instant,
}

impl Client {
    fn open(ask: &Ask, poller: &Poller, token: usize) -> Result<Self> {
        let conn = Conn::open(&ask.at)?;
        conn.set_nonblocking()?;
        poller.add(&conn, token)?;
        Ok(Self { conn, input: vec![0; 4096], filled: 0, used: false, due: Instant::now() })
    }

    fn ask(&mut self, ask: &Ask, due: Instant) -> Result<()> {
        self.due = due;
        Ok(self.conn.write_all(ask.request.as_bytes())?)
    }

    fn hear(&mut self) -> Result<Heard> {
        match self.conn.read(&mut self.input[self.filled..]) {
            Ok(0) if self.filled == 0 && self.used => return Ok(Heard::Closed),
            Ok(0) => anyhow::bail!("closed in the middle of an answer"),
            Ok(read) => self.filled += read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Heard::Nothing),
            Err(error) => return Err(error.into()),
        }
        let Some(answer) = answer(&self.input[..self.filled])? else { return Ok(Heard::Nothing) };
        ensure!(answer.body == PAGE, "another body than was sent");
        let keep = answer.keep;
        (self.filled, self.used) = (0, true);
        Ok(Heard::Answer { keep })
    }
}

/// At a rate, in requests per second, all that are due in time; or each as soon as the one before is answered.
fn load(ask: &Ask, rate: Option<f64>) -> Result<Sample> {
    rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1))?;
    let mut poller = Poller::new()?;
    let mut clients = Vec::new();
    for token in 0..CONNECTIONS {
        clients.push(Client::open(ask, &poller, token)?);
    }
    let began = Instant::now();
    let (from, until) = (began + WARM, began + WARM + LONG);
    let mut idle: VecDeque<usize> = (0..CONNECTIONS).collect();
    let (mut took, mut ready) = (Vec::with_capacity(100_000), Vec::new());
    let (mut asked, mut waiting) = (0_u32, 0);
    loop {
        let now = Instant::now();
        let due = |asked: u32| rate.map_or(now, |rate| began + Duration::from_secs_f64(f64::from(asked) / rate));
        while let Some(token) = idle.front().copied().filter(|_| due(asked) < until && due(asked) <= now) {
            idle.pop_front();
            clients[token].ask(ask, due(asked))?;
            asked += 1;
            waiting += 1;
        }
        let over = due(asked) >= until;
        if over && waiting == 0 {
            break;
        }
        let patience = if idle.is_empty() || over { PATIENCE } else { due(asked).saturating_duration_since(now) };
        poller.wait(patience, &mut ready)?;
        ensure!(waiting == 0 || !ready.is_empty() || patience < PATIENCE, "no answer for {PATIENCE:?}");
        ensure!(now < until + PATIENCE, "it does not keep up: {asked} of {rate:?} requests/s were asked");
        let now = Instant::now();
        for token in &ready {
            let client = &mut clients[*token];
            let keep = match client.hear()? {
                Heard::Nothing => continue,
                Heard::Answer { keep } => keep,
                Heard::Closed => {
                    let due = client.due;
                    *client = Client::open(ask, &poller, *token)?;
                    if !idle.contains(token) {
                        client.ask(ask, due)?;
                    }
                    continue;
                }
            };
            waiting -= 1;
            if client.due >= from && (now < until || rate.is_some()) {
                took.push(now.duration_since(client.due).as_secs_f64() * 1e3);
            }
            if !keep {
                *client = Client::open(ask, &poller, *token)?;
            }
            idle.push_back(*token);
        }
    }
    ensure!(!took.is_empty(), "no answer in time");
    #[allow(clippy::cast_precision_loss, reason = "thousands")]
    let value = took.len() as f64 / LONG.as_secs_f64();
    Ok(Sample { value, p99: Some(quantile(&took, 0.99)) })
}
