//! One connection of a client: its requests, one after the other, each with one answer.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use http::{Method, StatusCode};
use tokio::net::UnixStream;

use crate::allow::Verdict;
use crate::answer::Refusal;
use crate::forward::{self, Admitted, Forwarded};
use crate::head::{Framing, Head, Scan};
use crate::listener::Shared;
use crate::pool::Destination;
use crate::proxy::{Egress, Gauge};
use crate::record::Entry;
use crate::socket;
use crate::target::{Form, Target};
use crate::trail::Decision;
use crate::tunnel::{self, Watched};

/// TLS's own port: nothing else is spoken there.
const HTTPS: u16 = 443;
/// Read at once while a head is to come.
const READ: usize = 8 * 1024;
/// How long a connection without a request keeps its buffer: one that is busy keeps it, one that is idle has none.
const BUFFERED: Duration = Duration::from_secs(1);

/// What comes after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// The next one, maybe.
    Next,
    /// Nothing; the last answer has to arrive.
    Close,
    /// Nothing, at once: what was sent is not whole, and must not look so.
    Cut,
}

/// How a request that was not refused ended.
enum Served {
    Forwarded(Forwarded),
    Tunnelled(Decision),
}

/// Serves a connection until it ends.
pub(crate) async fn serve(egress: Arc<Egress>, shared: Arc<Shared>, client: UnixStream) {
    let mut buffer = BytesMut::new();
    loop {
        let then = match next(&egress, &client, &mut buffer).await {
            Ok(None) => return,
            Ok(Some(head)) => request(&egress, &shared, &client, &mut buffer, head).await,
            Err(refusal) => {
                let entry = Entry::new(&egress.trail, shared.identity(), None);
                match refuse(&egress, &client, entry, &refusal, true, true).await {
                    true => Then::Close,
                    false => Then::Cut,
                }
            }
        };
        match then {
            Then::Next => {}
            Then::Close => return socket::linger(&client).await,
            Then::Cut => return,
        }
    }
}

/// Tells a connection beyond the limit that it is one.
pub(crate) async fn turn_away(egress: &Egress, shared: &Shared, client: &UnixStream) {
    let entry = Entry::new(&egress.trail, shared.identity(), None);
    if refuse(egress, client, entry, &Refusal::too_many(), true, true).await {
        socket::linger(client).await;
    }
}

/// The next request's head; `None` where there is none.
async fn next(egress: &Egress, client: &UnixStream, buffer: &mut BytesMut) -> Result<Option<Head>, Refusal> {
    if buffer.is_empty() && !arrives(egress.limits.idle, client, buffer).await {
        return Ok(None);
    }
    let mut scan = Scan::default();
    let whole = async {
        loop {
            if let Some(head) = scan.next(buffer)? {
                return Ok(Some(head));
            }
            match socket::read(client, buffer, READ).await {
                Ok(0) if buffer.is_empty() => return Ok(None),
                Ok(0) => return Err(Refusal::malformed("the head broke off")),
                Ok(_) => {}
                Err(error) => {
                    tracing::trace!(%error, "a client left");
                    return Ok(None);
                }
            }
        }
    };
    tokio::time::timeout(egress.limits.head, whole).await.unwrap_or(Err(Refusal::head_timeout()))
}

/// Whether something arrives within `patience`; the empty buffer is given up before long.
async fn arrives(patience: Duration, client: &UnixStream, buffer: &mut BytesMut) -> bool {
    let soon = patience.min(BUFFERED);
    // What is read counts, not what is said to be readable: the head's own clock begins with its first byte.
    let mut read = tokio::time::timeout(soon, socket::read(client, buffer, READ)).await;
    if read.is_err() {
        *buffer = BytesMut::new();
        read = tokio::time::timeout(patience - soon, socket::read(client, buffer, READ)).await;
    }
    matches!(read, Ok(Ok(1..)))
}

async fn request(
    egress: &Arc<Egress>,
    shared: &Shared,
    client: &UnixStream,
    buffer: &mut BytesMut,
    head: Head,
) -> Then {
    let mut entry = Entry::new(&egress.trail, shared.identity(), Some(&head.method));
    let body = head.method != Method::HEAD;
    // What follows a refused request may be its body, or what was meant for a tunnel: it is never read as a request.
    let alone = head.framing == Framing::None && head.method != Method::CONNECT && head.keep_alive;
    match admit(egress, shared, client, buffer, head, &mut entry).await {
        Ok(Served::Forwarded(Forwarded::Whole { status, keep })) => {
            entry.answered(status);
            entry.ended(Decision::Allowed);
            if keep { Then::Next } else { Then::Close }
        }
        Ok(Served::Forwarded(Forwarded::Cut { status, why })) => {
            entry.answered(status);
            entry.ended(why.decision);
            Then::Cut
        }
        Ok(Served::Tunnelled(decision)) => {
            entry.ended(decision);
            Then::Cut
        }
        Err(refusal) => {
            let close = !alone || refusal.status == StatusCode::BAD_REQUEST;
            match refuse(egress, client, entry, &refusal, close, body).await {
                true if close => Then::Close,
                true => Then::Next,
                false => Then::Cut,
            }
        }
    }
}

/// Answers with a refusal; false where nobody reads it. The record is told first: who sees the answer may already look for it.
async fn refuse(
    egress: &Egress,
    client: &UnixStream,
    mut entry: Entry,
    refusal: &Refusal,
    close: bool,
    body: bool,
) -> bool {
    entry.refused(refusal);
    let answer = refusal.answer(entry.host(), close, body);
    drop(entry);
    // One that asks and does not read is not waited for longer than one that says nothing.
    match tokio::time::timeout(egress.limits.idle, socket::write(client, &[&answer])).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::trace!(%error, "a client left before its answer");
            false
        }
        Err(_) => {
            tracing::trace!("a client does not read its answers");
            false
        }
    }
}

/// Decides on a request, and does what it asks for. An error means that nothing was answered yet.
async fn admit(
    egress: &Arc<Egress>,
    shared: &Shared,
    client: &UnixStream,
    buffer: &mut BytesMut,
    head: Head,
    entry: &mut Entry,
) -> Result<Served, Refusal> {
    let (target, path) = Target::read(&head, egress.gateway.as_ref())?;
    entry.aimed_at(&target);
    let credential = egress.credentials.get(&target.host);
    // A credential is only ever sent over TLS; plain HTTP's port then means TLS's.
    let tls = credential.is_some() && target.form != Form::Connect;
    let port = if tls && target.port == 80 { 443 } else { target.port };
    match egress.allowed.verdict(&target.host, port) {
        Verdict::Allowed(rule) => entry.ruled_by(rule),
        Verdict::DeniedBy(rule) => {
            entry.ruled_by(rule);
            return Err(Refusal::denied("denied_by_rule"));
        }
        Verdict::Unlisted => return Err(Refusal::denied("not_allowed")),
    }
    if credential.is_some() && target.form == Form::Connect {
        // Nobody could see what is in the tunnel, such as an account of the client's own.
        return Err(Refusal::denied("credential_host"));
    }
    let _request = shared.requests.try_acquire().map_err(|_| Refusal::too_many())?;
    let addresses = egress.resolver.resolve(&target.host, port).await?;
    if target.form == Form::Connect {
        let early = std::mem::take(buffer);
        // An idle tunnel holds no more than it needs: not its request, nor the room for forwarding one.
        drop(head);
        let tunnel = Box::pin(open_tunnel(egress, client, early, &target, &addresses, entry));
        return tunnel.await.map(Served::Tunnelled);
    }
    let to = Destination { tls, host: &target.host, addresses: &addresses };
    let port = Some(port).filter(|port| *port != if tls { 443 } else { 80 });
    let admitted = Admitted { head, path, to, port, credential, budget: &shared.budget };
    let forwarded = Box::pin(forward::forward(egress, client, buffer, admitted, &entry.meter));
    forwarded.await.map(Served::Forwarded)
}

/// Connects to the target, and only then says so.
async fn open_tunnel(
    egress: &Arc<Egress>,
    client: &UnixStream,
    early: BytesMut,
    target: &Target,
    addresses: &[std::net::SocketAddr],
    entry: &mut Entry,
) -> Result<Decision, Refusal> {
    let upstream = egress.pool.dial(addresses).await?;
    let _gauge = Gauge::raise(egress, |egress| &egress.tunnels);
    entry.answered(StatusCode::OK);
    if socket::write(client, &[b"HTTP/1.1 200 Connection established\r\n\r\n"]).await.is_err() {
        return Ok(Decision::Failed("client_gone"));
    }
    let to = Watched { host: &target.host, tls_only: target.port == HTTPS };
    // An operator may know what else is spoken there.
    let opaque = matches!(egress.opaque.verdict(&target.host, target.port), Verdict::Allowed(_));
    let watched = (!opaque).then_some(to);
    Ok(tunnel::carry(client, early, &upstream, watched, &entry.meter, &egress.buffers, &egress.limits).await)
}
