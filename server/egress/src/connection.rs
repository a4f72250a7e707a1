//! Serves one connection of a client: its requests, one after the other, each with one answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, StatusCode};
use tokio::net::UnixStream;
use tokio::sync::watch;

use crate::answer::{Body, Refusal, Then};
use crate::assignment::Assignment;
use crate::denials::Turn;
use crate::forward::{self, Admitted, Forwarded};
use crate::head::{Framing, Head, Scan};
use crate::listener::Shared;
use crate::policy::{Asked, decide};
use crate::proxy::{Egress, Gauge};
use crate::record::Entry;
use crate::revocation::Revocation;
use crate::socket;
use crate::target::{Form, Target};
use crate::trail::Decision;
use crate::tunnel::{self, Watched};
use crate::upstream::Destination;

/// The port of HTTPS, on which only TLS is allowed.
const HTTPS: u16 = 443;
/// Size of a read while a head is awaited, in bytes.
const READ: usize = 8 * 1024;
/// How long an idle connection keeps its buffer.
const BUFFERED: Duration = Duration::from_secs(1);

/// How a request that was not refused ended.
enum Served {
    Forwarded(Forwarded),
    Tunnelled(Decision),
}

/// A client's connection, with its listener and identity.
struct Connection<'a> {
    egress: &'a Arc<Egress>,
    shared: &'a Shared,
    client: &'a UnixStream,
}

/// Serves a connection until it ends.
pub(crate) async fn serve(egress: Arc<Egress>, shared: Arc<Shared>, client: UnixStream) {
    let connection = Connection { egress: &egress, shared: &shared, client: &client };
    let mut buffer = BytesMut::new();
    let mut patience = egress.limits.silent;
    loop {
        let then = match connection.next(&mut buffer, patience).await {
            Ok(None) => return,
            Ok(Some(head)) => connection.request(&mut buffer, head).await,
            Err(refusal) => connection.refuse(connection.entry(), &refusal, Then::Close, Body::Sent).await,
        };
        match then {
            Then::Next => patience = egress.limits.keep_alive,
            Then::Close => return socket::linger(&client).await,
            Then::Cut => return,
        }
    }
}

/// Answers a connection beyond the limit with 429.
pub(crate) async fn turn_away(egress: &Arc<Egress>, shared: &Shared, client: &UnixStream, refusal: &Refusal) {
    let connection = Connection { egress, shared, client };
    if connection.refuse(connection.entry(), refusal, Then::Close, Body::Sent).await == Then::Close {
        socket::linger(client).await;
    }
}

impl Connection<'_> {
    /// The record of what is no request.
    fn entry(&self) -> Entry {
        Entry::new(&self.egress.trail, self.shared.now().identity.clone(), None)
    }

    /// The next request's head; `None` if there is none. Waits for its first byte no longer than `patience`.
    async fn next(&self, buffer: &mut BytesMut, patience: Duration) -> Result<Option<Head>, Refusal> {
        let client = self.client;
        if buffer.is_empty() && !arrives(patience, client, buffer).await {
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
        tokio::time::timeout(self.egress.limits.head, whole).await.unwrap_or(Err(Refusal::head_timeout()))
    }

    async fn request(&self, buffer: &mut BytesMut, head: Head) -> Then {
        // Identity and policy are read together, once. The signal comes first, so that no change is missed in between.
        let signal = self.shared.current.signal();
        let assigned = self.shared.now();
        let mut entry = Entry::new(&self.egress.trail, assigned.identity.clone(), Some(&head.method));
        entry.meter.limited_by(assigned.used.clone());
        let body = if head.method == Method::HEAD { Body::Omitted } else { Body::Sent };
        // Bytes behind a refused request may be its body, or meant for a tunnel, so they are never read as a request.
        let alone = head.framing == Framing::None && head.method != Method::CONNECT && head.keep_alive;
        match self.admit(buffer, head, (&assigned, signal), &mut entry).await {
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
                // A tunnel that ends because the policy has changed is no refusal of something that the client did.
                if matches!(decision, Decision::Denied(reason) if reason != "policy_changed") {
                    self.take_turn(entry).await;
                }
                Then::Cut
            }
            Err(refusal) => {
                let then = if alone && refusal.status != StatusCode::BAD_REQUEST { Then::Next } else { Then::Close };
                self.refuse(entry, &refusal, then, body).await
            }
        }
    }

    /// Records a refusal, then waits until it may be answered. A client that has the answer can rely on the record.
    async fn take_turn(&self, mut entry: Entry) -> Turn {
        let turn = self.shared.denials.turn(Instant::now());
        if turn != Turn::Now {
            entry.recorded_together(&self.shared.denials);
        }
        drop(entry);
        if let Turn::After(wait) | Turn::Last(wait) = turn {
            tokio::time::sleep(wait).await;
        }
        turn
    }

    /// Answers with a refusal, after which the connection continues or ends as given, or ends earlier.
    async fn refuse(&self, mut entry: Entry, refusal: &Refusal, then: Then, body: Body) -> Then {
        entry.refused(refusal);
        let host = entry.host().to_owned();
        let then = match self.take_turn(entry).await {
            Turn::Last(_) => Then::Close,
            Turn::Now | Turn::After(_) => then,
        };
        let answer = refusal.answer(&host, then, body);
        // A client that does not read its answer gets no more time than one that sends nothing.
        match tokio::time::timeout(self.egress.limits.idle, socket::write(self.client, &[&answer])).await {
            Ok(Ok(())) => then,
            Ok(Err(error)) => {
                tracing::trace!(%error, "a client left before its answer");
                Then::Cut
            }
            Err(_) => {
                tracing::trace!("a client does not read its answers");
                Then::Cut
            }
        }
    }

    /// Checks a request against the policy and serves it. An error means that nothing has been answered yet.
    async fn admit(
        &self,
        buffer: &mut BytesMut,
        head: Head,
        (assigned, signal): (&Assignment, watch::Receiver<()>),
        entry: &mut Entry,
    ) -> Result<Served, Refusal> {
        let (egress, shared) = (self.egress, self.shared);
        let (target, path) = Target::read(&head, egress.gateway.as_ref())?;
        entry.aimed_at(&target);
        let asked = Asked::new(&target, head.method.as_str(), &path, Some(&head.headers));
        let decided = decide(egress.ground(), &assigned.policy, assigned.running, &asked);
        entry.ruled_by(&decided, assigned.policy.name());
        let ruling = decided.ruling?;
        if assigned.used.as_ref().is_some_and(|used| !used.request()) {
            return Err(Refusal::request_rate());
        }
        let _request = shared.requests.try_acquire().map_err(|_| Refusal::too_many())?;
        let addresses = egress.resolver.resolve(&target.host, ruling.port).await?;
        let revocation = Revocation { egress, shared, target: &target, owner: assigned.owner, signal };
        if target.form == Form::Connect {
            let early = std::mem::take(buffer);
            // The request and the forwarding state are dropped, so that an idle tunnel holds no more than it needs.
            drop(head);
            let tunnel = Box::pin(self.open_tunnel(early, revocation, &addresses, entry));
            return tunnel.await.map(Served::Tunnelled);
        }
        let (tls, credential) = (ruling.tls, ruling.credential.map(|credential| &**credential));
        let to = Destination {
            tls,
            host: &target.host,
            addresses: &addresses,
            credential: credential.map(|credential| credential.id),
            owner: assigned.owner,
        };
        let port = Some(ruling.port).filter(|port| *port != if tls { HTTPS } else { 80 });
        let (pool, quota, inspect) = (&shared.pool, &shared.quota, ruling.inspect);
        let admitted = Admitted { head, path, to, port, credential, inspect, revocation, pool, quota };
        let forwarded = Box::pin(forward::forward(egress, self.client, buffer, admitted, &entry.meter));
        forwarded.await.map(Served::Forwarded)
    }

    /// Connects to the target, then answers 200 and carries the tunnel.
    async fn open_tunnel(
        &self,
        early: BytesMut,
        mut revocation: Revocation<'_>,
        addresses: &[SocketAddr],
        entry: &mut Entry,
    ) -> Result<Decision, Refusal> {
        let (egress, shared, client, target) = (self.egress, self.shared, self.client, revocation.target);
        let upstream = shared.pool.dial(addresses).await?;
        let _gauge = Gauge::raise(egress, |egress| &egress.tunnels);
        entry.answered(StatusCode::OK);
        if socket::write(client, &[b"HTTP/1.1 200 Connection established\r\n\r\n"]).await.is_err() {
            return Ok(Decision::Failed("client_gone"));
        }
        let to = Watched { host: &target.host, tls_only: target.port == HTTPS };
        // An operator can exempt targets from the inspection.
        let opaque = egress.opaque.allows(&target.host, target.port);
        let watched = (!opaque).then_some(to);
        let buffers = (&egress.buffers, &shared.quota);
        let carried = tunnel::carry(client, early, &upstream.stream, watched, &entry.meter, buffers, &egress.limits);
        let (path, headers) = (PathAndQuery::from_static("/"), HeaderMap::new());
        let ended = revocation.within((&Method::CONNECT, &path, &headers), carried).await;
        Ok(ended.unwrap_or_else(|revoked| revoked.decision))
    }
}

/// Whether bytes arrive within `patience`. An empty buffer is returned after a while.
async fn arrives(patience: Duration, client: &UnixStream, buffer: &mut BytesMut) -> bool {
    let soon = patience.min(BUFFERED);
    // Readiness without data does not count: the time limit of the head begins with its first byte.
    let mut read = tokio::time::timeout(soon, socket::read(client, buffer, READ)).await;
    if read.is_err() {
        *buffer = BytesMut::new();
        read = tokio::time::timeout(patience - soon, socket::read(client, buffer, READ)).await;
    }
    matches!(read, Ok(Ok(1..)))
}
