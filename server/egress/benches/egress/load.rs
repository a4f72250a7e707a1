//! Load generator: requests on kept connections, at full speed or at an even rate.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::lean::Poller;
use crate::net::{Address, Conn, answer};
use crate::stats::{Sample, quantile};

/// Number of concurrent connections.
const CONNECTIONS: usize = 32;
/// Warm-up time, which is not counted.
const WARM: Duration = Duration::from_millis(150);
/// Time limit for an answer, and for the delay behind an even rate.
const PATIENCE: Duration = Duration::from_secs(5);

/// Requests to send, the address to send them to, and the expected answer.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) at: Address,
    pub(crate) request: String,
    pub(crate) is_right: fn(&[u8]) -> bool,
}

/// State of a connection after a read.
enum Heard {
    /// The answer is incomplete.
    Nothing,
    /// A complete answer; with whether the connection stays open.
    Answer { keep: bool },
    /// The connection was closed after an answer that did not announce it.
    Closed,
}

/// One connection of the load.
struct Client {
    conn: Conn,
    input: Vec<u8>,
    filled: usize,
    /// Whether an answer has been received on the connection.
    used: bool,
    /// When the current request was due.
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

    fn hear(&mut self, ask: &Ask) -> Result<Heard> {
        if self.filled == self.input.len() {
            self.input.resize(2 * self.filled, 0);
        }
        match self.conn.read(&mut self.input[self.filled..]) {
            Ok(0) if self.filled == 0 && self.used => return Ok(Heard::Closed),
            Ok(0) => anyhow::bail!("closed in the middle of an answer"),
            Ok(read) => self.filled += read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Heard::Nothing),
            Err(error) => return Err(error.into()),
        }
        let Some(answer) = answer(&self.input[..self.filled])? else { return Ok(Heard::Nothing) };
        ensure!((ask.is_right)(answer.body), "another body than was expected");
        let keep = answer.keep;
        (self.filled, self.used) = (0, true);
        Ok(Heard::Answer { keep })
    }
}

/// Sends requests for the given time after [`WARM`]: at a rate in requests per second, or each as soon as the previous one is answered.
pub(crate) fn load(ask: &Ask, rate: Option<f64>, long: Duration) -> Result<Sample> {
    rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1))?;
    let mut poller = Poller::new()?;
    let mut clients = Vec::new();
    for token in 0..CONNECTIONS {
        clients.push(Client::open(ask, &poller, token)?);
    }
    let began = Instant::now();
    let (from, until) = (began + WARM, began + WARM + long);
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
            let keep = match client.hear(ask)? {
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
    let value = took.len() as f64 / long.as_secs_f64();
    Ok(Sample { value, p99: Some(quantile(&took, 0.99)) })
}
