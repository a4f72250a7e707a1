//! Reads the body of a request from the client.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use crate::answer::Refusal;
use crate::body::{Arrival, Decoder, Piece};
use crate::head::Framing;
use crate::held::{Held, Holding};
use crate::meter::Meter;
use crate::model::Found;
use crate::settings::Limits;
use crate::socket;

/// Size of a read from a client, in bytes.
const READ: usize = 32 * 1024;

/// The body of a client's request while it is being read.
pub(crate) struct Incoming<'a> {
    client: &'a UnixStream,
    buffer: &'a mut BytesMut,
    framing: Framing,
    decoder: Decoder,
    meter: &'a Meter,
    limits: &'a Limits,
    pace: Pace,
}

impl<'a> Incoming<'a> {
    /// A body; its first bytes, if any have arrived, are in `buffer`.
    pub(crate) fn new(
        client: &'a UnixStream,
        buffer: &'a mut BytesMut,
        framing: Framing,
        meter: &'a Meter,
        limits: &'a Limits,
    ) -> Self {
        let pace = Pace::new(limits.upload_rate, limits.upload_window);
        Self { client, buffer, framing, decoder: Decoder::new(framing), meter, limits, pace }
    }

    /// Whether the whole body has been read.
    pub(crate) fn is_over(&self) -> bool {
        self.decoder.is_over()
    }

    /// The whole body, if it is short and arrived together with the head.
    pub(crate) fn at_hand(&mut self) -> Result<Option<Bytes>, Refusal> {
        match self.framing {
            Framing::None | Framing::Length(0) => Ok(Some(Bytes::new())),
            Framing::Length(length) if self.buffer.len() as u64 >= length => match self.decoder.next(self.buffer)? {
                Piece::Data(bytes) => {
                    self.meter.count_up(bytes.len());
                    Ok(Some(bytes))
                }
                Piece::More | Piece::End => Ok(None),
            },
            Framing::Length(_) | Framing::Chunked => Ok(None),
        }
    }

    /// Reads the whole body into `holding`.
    pub(crate) async fn hold(&mut self, mut holding: Holding) -> Result<(Held, Option<Found>), Refusal> {
        // One time limit for the whole body, because a held body takes space from others.
        let limit = self.limits.idle;
        let whole = async {
            loop {
                match self.decoder.next(self.buffer)? {
                    Piece::Data(data) => {
                        self.meter.count_up(data.len());
                        holding.add(&data)?;
                    }
                    Piece::More => match holding.room(self.decoder.plain()) {
                        // Read directly into the holding buffer.
                        Some(mut room) => {
                            let read = self.pace.keep(socket::read_into(self.client, &mut room)).await?;
                            self.decoder.pass(read);
                            self.meter.count_up(read);
                            holding.read(read)?;
                        }
                        None => self.more().await?,
                    },
                    Piece::End => return holding.finish(),
                }
            }
        };
        let held = tokio::time::timeout(limit, whole).await.unwrap_or(Err(Refusal::body_timeout()))?;
        self.meter.pace().await;
        Ok(held)
    }

    /// Reads the body and passes it on as it arrives. `received` is set once all of it has been read, because the target may answer
    /// before all of it has been passed on.
    pub(crate) async fn pass_on(
        &mut self,
        arrivals: mpsc::Sender<Arrival>,
        received: &AtomicBool,
    ) -> Result<(), Refusal> {
        let mut total = 0;
        loop {
            let arrival = match self.decoder.next(self.buffer)? {
                Piece::Data(data) => {
                    total += data.len() as u64;
                    if total > self.limits.body {
                        return Err(Refusal::body_too_large());
                    }
                    self.meter.count_up(data.len());
                    self.meter.pace().await;
                    Arrival::Data(data)
                }
                Piece::More => {
                    self.more().await?;
                    continue;
                }
                Piece::End => Arrival::End,
            };
            let over = matches!(arrival, Arrival::End);
            received.store(self.decoder.is_over(), Ordering::Relaxed);
            if arrivals.send(arrival).await.is_err() {
                // With Content-Length the receiver needs no end marker.
                if self.decoder.is_over() {
                    return Ok(());
                }
                // The target accepts no more of the body. The exchange reports its response.
                return std::future::pending().await;
            }
            if over {
                return Ok(());
            }
        }
    }

    async fn more(&mut self) -> Result<(), Refusal> {
        self.pace.keep(socket::read(self.client, self.buffer, READ)).await.map(|_read| ())
    }
}

/// Sends `100 Continue` to the client (RFC 9110, section 10.1.1). The proxy answers the expectation itself, when it is ready
/// to take the body.
pub(crate) async fn ask_for(client: &UnixStream, patience: Duration) -> Result<(), Refusal> {
    let asked = socket::write(client, &[b"HTTP/1.1 100 Continue\r\n\r\n"]);
    match tokio::time::timeout(patience, asked).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(Refusal::client_gone()),
    }
}

/// The minimum rate at which a client must send. Only time spent waiting for the client counts, because a slow target is not the
/// client's fault.
#[derive(Debug)]
struct Pace {
    /// How many bytes must arrive in each window.
    least: u64,
    window: Duration,
    waited: Duration,
    came: u64,
}

impl Pace {
    /// Requires at least `rate` bytes per second, measured over windows of waiting time.
    fn new(rate: u64, window: Duration) -> Self {
        Self { least: rate.saturating_mul(window.as_secs().max(1)), window, waited: Duration::ZERO, came: 0 }
    }

    /// Waits for a read of at least one byte; an error if the client has left or is too slow.
    async fn keep(&mut self, read: impl Future<Output = std::io::Result<usize>>) -> Result<usize, Refusal> {
        let began = Instant::now();
        let left = self.window.saturating_sub(self.waited);
        let read = match tokio::time::timeout(left, read).await {
            Ok(Ok(read @ 1..)) => read,
            Ok(Ok(0) | Err(_)) => return Err(Refusal::client_gone()),
            Err(_) => return Err(Refusal::upload_too_slow()),
        };
        self.waited += began.elapsed();
        self.came = self.came.saturating_add(read as u64);
        if self.came >= self.least {
            (self.waited, self.came) = (Duration::ZERO, 0);
        }
        Ok(read)
    }
}
