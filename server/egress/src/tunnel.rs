//! Tunnels: bytes carried exactly, in both directions, each closed when its sender closes it.

use std::io;
use std::pin::pin;

use bytes::BytesMut;

use crate::buffers::Buffers;
use crate::hello::{self, Hello, Scan};
use crate::host::Host;
use crate::meter::Meter;
use crate::settings::Limits;
use crate::socket::{self, Socket};
use crate::trail::Decision;

/// Read at once until it is known what the client speaks.
const FIRST: usize = 4 * 1024;
/// A fatal TLS alert, `unrecognized_name` (RFC 6066, 3): the client learns why, instead of seeing its connection break.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// What a tunnel's client may say first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watched<'a> {
    /// Whom it may ask for, where it opens TLS.
    pub(crate) host: &'a Host,
    /// It must open TLS.
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
/// Where it is watched, a client that opens TLS must ask for the very host it was connected to; until it has, the target
/// receives nothing.
pub(crate) async fn carry(
    client: &impl Socket,
    early: BytesMut,
    target: &impl Socket,
    watched: Option<Watched<'_>>,
    meter: &Meter,
    buffers: &Buffers,
    limits: &Limits,
) -> Decision {
    let up = async {
        let first = match watched {
            Some(watched) => greet(client, early, watched, limits).await?,
            None => early,
        };
        meter.count_up(first.len());
        socket::write(target, &[&first]).await.map_err(Broken::Target)?;
        drop(first);
        loop {
            socket::readable(client).await.map_err(Broken::Client)?;
            let mut buffer = buffers.lend();
            match client.try_read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => {
                    socket::write(target, &[&buffer[..read]]).await.map_err(Broken::Target)?;
                    meter.count_up(read);
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
            let mut buffer = buffers.lend();
            match target.try_read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => {
                    socket::write(client, &[&buffer[..read]]).await.map_err(Broken::Client)?;
                    meter.count_down(read);
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
                // A side that has closed its half, and is then left alone with it, has been served.
                return if up_over || down_over { decision } else { Decision::Failed("idle_timeout") };
            }
        };
        // The other direction may still have something to carry, so it goes on; but not for ever.
        patience = limits.drain;
        match ended {
            Ok(()) => {}
            Err(Broken::Denied(reason)) => {
                if meter.down() == 0 && reason.starts_with("sni_") {
                    alert(client).await;
                }
                return Decision::Denied(reason);
            }
            // Who breaks while being read from has nothing more to say, and hears nothing either. Who breaks while being
            // written to may have said something before.
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

/// Reads what the client says first, and holds the name in it against the target's.
async fn greet(
    client: &impl Socket,
    early: BytesMut,
    Watched { host, tls_only }: Watched<'_>,
    limits: &Limits,
) -> Result<BytesMut, Broken> {
    let mut bytes = early;
    // A client may open a tunnel ahead of need, and on other ports the target may be the one to speak first.
    if bytes.is_empty() && socket::read(client, &mut bytes, FIRST).await.map_err(Broken::Client)? == 0 {
        return Ok(bytes);
    }
    let mut scan = Scan::default();
    let whole = async {
        loop {
            let hello = scan.next(&bytes);
            if hello != Hello::Incomplete || socket::read(client, &mut bytes, FIRST).await.map_err(Broken::Client)? == 0
            {
                return Ok(hello);
            }
        }
    };
    let hello = tokio::time::timeout(limits.head, whole).await.unwrap_or(Ok(Hello::Incomplete))?;
    match hello::objection(&hello, host) {
        // What begins as TLS must go on so on every port; what begins as nothing like it may be anything else.
        _ if hello == Hello::NotTls && !tls_only => Ok(bytes),
        Some(reason) => Err(Broken::Denied(reason)),
        None => Ok(bytes),
    }
}
