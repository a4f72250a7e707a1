//! Tunnels: copy bytes unchanged in both directions, and close each direction when its sender closes it.

use std::io;
use std::pin::pin;
use std::sync::Arc;

use bytes::BytesMut;
use parking_lot::Mutex;

use crate::buffers::Buffers;
use crate::handshake::Watch;
use crate::hello::{self, Hello, Scan};
use crate::host::Host;
use crate::meter::Meter;
use crate::quota::Quota;
use crate::settings::Limits;
use crate::socket::{self, Socket};
use crate::trail::Decision;

/// Size of a read until the client's protocol is known, in bytes.
const FIRST: usize = 4 * 1024;
/// A fatal TLS alert, `unrecognized_name` (RFC 6066, 3): the client learns why, instead of seeing its connection break.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// What a tunnel's client may send first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watched<'a> {
    /// The only server name allowed in TLS.
    pub(crate) host: &'a Host,
    /// Whether the client must open TLS.
    pub(crate) tls_only: bool,
}

/// Which side of a tunnel broke.
enum Broken {
    Client(io::Error),
    Target(io::Error),
    Denied(&'static str),
}

/// Carries bytes until both sides have closed. `early` is what the client sent behind its request.
///
/// If the tunnel is inspected, each ClientHello must name the host that the tunnel was opened to. Until the first one has been
/// checked, the target receives nothing.
pub(crate) async fn carry(
    client: &impl Socket,
    early: BytesMut,
    target: &impl Socket,
    watched: Option<Watched<'_>>,
    meter: &Meter,
    (buffers, quota): (&Buffers, &Arc<Quota>),
    limits: &Limits,
) -> Decision {
    // `None` if the handshake is not inspected, or is complete.
    let watch = Mutex::new(None);
    let up = async {
        let mut first = early;
        if let Some(watched) = watched
            && greet(client, &mut first, watched, limits, &watch).await? == Greeting::Tls
        {
            follow(client, target, first, watched.host, &watch, meter, limits).await?;
        } else {
            meter.count_up(first.len());
            socket::write(target, &[&first]).await.map_err(Broken::Target)?;
            drop(first);
        }
        loop {
            socket::readable(client).await.map_err(Broken::Client)?;
            let mut buffer = buffers.lend(quota);
            match client.try_read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => {
                    socket::write(target, &[&buffer[..read]]).await.map_err(Broken::Target)?;
                    drop(buffer);
                    meter.count_up(read);
                    meter.pace().await;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(Broken::Client(error)),
            }
        }
        socket::close_half(target).map_err(Broken::Target)
    };
    let down = async {
        loop {
            socket::readable(target).await.map_err(Broken::Target)?;
            let mut buffer = buffers.lend(quota);
            match target.try_read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => {
                    if let Some(watch) = &mut *watch.lock() {
                        watch.server_says(&buffer[..read]);
                    }
                    socket::write(client, &[&buffer[..read]]).await.map_err(Broken::Client)?;
                    drop(buffer);
                    meter.count_down(read);
                    meter.pace().await;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(Broken::Target(error)),
            }
        }
        socket::close_half(client).map_err(Broken::Client)
    };
    let (mut up, mut down) = (pin!(up), pin!(down));
    let (mut up_over, mut down_over) = (false, false);
    let mut decision = Decision::Allowed;
    let mut patience = limits.idle;
    while !(up_over && down_over) {
        let ended = tokio::select! {
            ended = &mut up, if !up_over => { up_over = true; ended }
            ended = &mut down, if !down_over => { down_over = true; ended }
            () = meter.idle(patience) => {
                // The other half was open for too long; the side that closed its half has been served.
                return if up_over || down_over { decision } else { Decision::Failed("idle_timeout") };
            }
        };
        // The other direction may still carry data, so it continues, with a time limit.
        patience = limits.drain;
        match ended {
            Ok(()) => {}
            Err(Broken::Denied(reason)) => {
                if meter.down() == 0 && reason.starts_with("sni_") {
                    alert(client).await;
                }
                return Decision::Denied(reason);
            }
            // A side that fails on a read sends nothing more and receives nothing. A side that fails on a write may have sent
            // bytes before that are yet to be delivered.
            Err(Broken::Client(error)) => {
                tracing::debug!(%error, "a tunnel's client");
                decision = Decision::Failed("client_gone");
                if up_over {
                    return decision;
                }
            }
            Err(Broken::Target(error)) => {
                tracing::debug!(%error, "a tunnel's target");
                decision = Decision::Failed("reset");
                if down_over {
                    return decision;
                }
            }
        }
    }
    decision
}

async fn alert(client: &impl Socket) {
    if let Err(error) = socket::write(client, &[&UNRECOGNIZED_NAME]).await {
        tracing::trace!(%error, "the client left");
    }
    socket::linger(client).await;
}

/// The beginning of a client's data.
#[derive(Debug, PartialEq, Eq)]
enum Greeting {
    /// A ClientHello that names the tunnel's host; the rest of the handshake is inspected.
    Tls,
    /// Other data that is allowed to pass unchanged.
    Other,
}

/// Reads the client's first bytes into `bytes` and compares the server name in them with the target's.
async fn greet(
    client: &impl Socket,
    bytes: &mut BytesMut,
    Watched { host, tls_only }: Watched<'_>,
    limits: &Limits,
    watch: &Mutex<Option<Watch>>,
) -> Result<Greeting, Broken> {
    // A client may open a tunnel ahead of need, and on other ports the target may be the one to speak first.
    if bytes.is_empty() && socket::read(client, bytes, FIRST).await.map_err(Broken::Client)? == 0 {
        return Ok(Greeting::Other);
    }
    let mut scan = Scan::default();
    let whole = async {
        loop {
            let hello = scan.next(bytes);
            if hello != Hello::Incomplete || socket::read(client, bytes, FIRST).await.map_err(Broken::Client)? == 0 {
                return Ok(hello);
            }
        }
    };
    let hello = tokio::time::timeout(limits.head, whole).await.unwrap_or(Ok(Hello::Incomplete))?;
    match hello::objection(&hello, host) {
        // Data that begins as TLS must continue as TLS on every port; other data may be any protocol.
        _ if hello == Hello::NotTls && !tls_only => Ok(Greeting::Other),
        Some(reason) => Err(Broken::Denied(reason)),
        None => {
            *watch.lock() = Some(Watch::new(scan.seen()));
            Ok(Greeting::Tls)
        }
    }
}

/// Passes the client's bytes on until the handshake can no longer name another host. `bytes` begin with its ClientHello.
async fn follow(
    client: &impl Socket,
    target: &impl Socket,
    mut bytes: BytesMut,
    host: &Host,
    watch: &Mutex<Option<Watch>>,
    meter: &Meter,
    limits: &Limits,
) -> Result<(), Broken> {
    loop {
        let (passed, over) = {
            let mut watch = watch.lock();
            let Some(watching) = &mut *watch else { return Ok(()) };
            let passed = watching.client_says(&bytes, host).map_err(Broken::Denied)?;
            let over = watching.is_over();
            if over {
                *watch = None;
            }
            (passed, over)
        };
        let ready = bytes.split_to(passed);
        meter.count_up(ready.len());
        socket::write(target, &[&ready]).await.map_err(Broken::Target)?;
        drop(ready);
        if over {
            return Ok(());
        }
        let idle = bytes.is_empty();
        let more = socket::read(client, &mut bytes, FIRST);
        let read = if idle {
            more.await
        } else {
            // The same limit as for the first ClientHello.
            tokio::time::timeout(limits.head, more).await.map_err(|_| Broken::Denied("tls_malformed"))?
        };
        match read.map_err(Broken::Client)? {
            // The client has closed its half. An incomplete ClientHello is not passed on.
            0 if idle => return Ok(()),
            0 => return Err(Broken::Denied("tls_malformed")),
            _ => {}
        }
    }
}
