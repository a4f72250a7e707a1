//! Connections to targets: made under a deadline, kept while they are good.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::answer::Refusal;
use crate::body::Upload;
use crate::host::Host;
use crate::settings::Limits;

/// After so long without an answer the next address is tried beside it (RFC 8305, 5).
const STAGGER: Duration = Duration::from_millis(250);
/// Addresses of one host that are tried.
const MOST_ADDRESSES: usize = 8;
/// Connections that are kept all together.
const MOST_KEPT: usize = 256;
/// What one connection may hold of a request or an answer, in bytes.
const BUFFER: usize = 64 * 1024;
/// How long a connection is kept without being used: shorter than targets themselves do, so that they rarely close one just
/// as it is taken.
const KEPT: Duration = Duration::from_secs(30);

/// Where a request goes: resolved and judged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Destination<'a> {
    pub(crate) tls: bool,
    pub(crate) host: &'a Host,
    pub(crate) addresses: &'a [SocketAddr],
}

/// What two requests must have in common to share a connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    tls: bool,
    host: Host,
    address: SocketAddr,
}

/// A connection: what is told to it, and the work that it takes, which whoever uses it does. A task of its own would have
/// to be woken twice for each request.
struct Connection {
    sender: SendRequest<Upload>,
    /// `None` once it has ended.
    work: Option<Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>>,
}

impl Connection {
    fn work(&mut self, cx: &mut Context<'_>) {
        if let Some(Poll::Ready(ended)) = self.work.as_mut().map(|work| work.as_mut().poll(cx)) {
            self.work = None;
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection to a target ended");
            }
        }
    }

    /// Whether it is still open, as far as the target has said.
    fn is_open(&mut self) -> bool {
        self.work(&mut Context::from_waker(Waker::noop()));
        self.work.is_some() && !self.sender.is_closed()
    }
}

/// A connection in use.
pub(crate) struct Lease {
    key: Key,
    connection: Connection,
    reused: bool,
}

impl Lease {
    /// Does something that needs the connection, and meanwhile the connection's own work.
    pub(crate) async fn during<T>(&mut self, something: impl Future<Output = T>) -> T {
        during(&mut self.connection, something).await
    }

    /// The same, as far as that goes without waiting.
    pub(crate) fn now<T>(&mut self, something: impl Future<Output = T>) -> Option<T> {
        let (mut something, cx) = (pin!(something), &mut Context::from_waker(Waker::noop()));
        if let Poll::Ready(done) = something.as_mut().poll(cx) {
            return Some(done);
        }
        self.connection.work(cx);
        match something.as_mut().poll(cx) {
            Poll::Ready(done) => Some(done),
            Poll::Pending => None,
        }
    }
}

async fn during<T>(connection: &mut Connection, something: impl Future<Output = T>) -> T {
    let mut something = pin!(something);
    poll_fn(|cx| {
        if let Poll::Ready(done) = something.as_mut().poll(cx) {
            return Poll::Ready(done);
        }
        connection.work(cx);
        something.as_mut().poll(cx)
    })
    .await
}

/// A connection that waits, and since when.
type Kept = (Connection, Instant);

/// Connections of the whole proxy.
pub(crate) struct Pool {
    limits: Limits,
    tls: TlsConnector,
    kept: Mutex<HashMap<Key, Vec<Kept>>>,
}

impl Pool {
    pub(crate) fn new(limits: Limits, tls: ClientConfig) -> Self {
        Self { limits, tls: TlsConnector::from(Arc::new(tls)), kept: Mutex::default() }
    }

    /// Connects to the first of `addresses` that answers.
    pub(crate) async fn dial(&self, addresses: &[SocketAddr]) -> Result<TcpStream, Refusal> {
        match tokio::time::timeout(self.limits.connect, connect(addresses)).await {
            Ok(connected) => connected.map_err(|error| not_connected(&error)),
            Err(_) => Err(Refusal::timeout("connect_timeout")),
        }
    }

    /// A connection: a kept one, else a new one.
    pub(crate) async fn acquire(&self, to: Destination<'_>) -> Result<Lease, Refusal> {
        for address in to.addresses {
            let key = Key { tls: to.tls, host: to.host.clone(), address: *address };
            if let Some(connection) = self.take(&key) {
                return Ok(Lease { key, connection, reused: true });
            }
        }
        self.connect(to).await
    }

    async fn connect(&self, to: Destination<'_>) -> Result<Lease, Refusal> {
        let stream = self.dial(to.addresses).await?;
        let address = stream.peer_addr().map_err(|error| not_connected(&error))?;
        let connection = if to.tls { self.secure(to.host, stream).await? } else { handshake(stream).await? };
        Ok(Lease { key: Key { tls: to.tls, host: to.host.clone(), address }, connection, reused: false })
    }

    /// Sends a request and returns the head of its answer. Where a kept connection turns out to be closed, it is sent
    /// anew: always if nothing of it had been sent, and otherwise if `again` can make it once more.
    pub(crate) async fn send(
        &self,
        to: Destination<'_>,
        mut lease: Lease,
        mut request: Request<Upload>,
        again: Option<&(dyn Fn() -> Result<Request<Upload>, Refusal> + Sync)>,
    ) -> Result<(Response<Incoming>, Lease), Refusal> {
        loop {
            let sent = lease.connection.sender.try_send_request(request);
            let mut failed = match during(&mut lease.connection, sent).await {
                Ok(response) => return Ok((response, lease)),
                Err(failed) => failed,
            };
            request = match (failed.take_message(), again) {
                (Some(unsent), _) if lease.reused => unsent,
                (None, Some(again)) if lease.reused && failed.error().is_incomplete_message() => again()?,
                _ => return Err(broken(failed.error())),
            };
            lease = self.connect(to).await?;
        }
    }

    fn take(&self, key: &Key) -> Option<Connection> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let connections = kept.get_mut(key)?;
        // The last one in is the least likely to be closed by its target just now.
        while let Some((mut connection, since)) = connections.pop() {
            if since.elapsed() >= KEPT {
                // So are all below it.
                connections.clear();
            } else if connection.is_open() && connection.sender.is_ready() {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection whose exchange is over, and was without doubt about where it ended.
    pub(crate) fn put_back(&self, lease: Lease) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // However many targets a client asks for.
        if kept.values().map(Vec::len).sum::<usize>() >= MOST_KEPT {
            return;
        }
        let connections = kept.entry(lease.key).or_default();
        if connections.len() < self.limits.idle_connections {
            connections.push((lease.connection, Instant::now()));
        }
    }

    /// Drops what was kept too long, or was closed by its target.
    pub(crate) fn sweep(&self) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|_, connections| {
            connections.retain_mut(|(connection, since)| since.elapsed() < KEPT && connection.is_open());
            !connections.is_empty()
        });
    }

    /// Drops all that is kept.
    pub(crate) fn clear(&self) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    async fn secure(&self, host: &Host, stream: TcpStream) -> Result<Connection, Refusal> {
        let name = match host {
            Host::Name(name) => {
                ServerName::try_from(name.clone()).map_err(|_| Refusal::malformed("no TLS server name"))?
            }
            Host::Address(address) => ServerName::from(*address),
        };
        match tokio::time::timeout(self.limits.connect, self.tls.connect(name, stream)).await {
            Ok(Ok(stream)) => handshake(stream).await,
            Ok(Err(error)) => {
                tracing::warn!(%host, %error, "TLS to a target");
                let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
                Err(match inner {
                    Some(rustls::Error::InvalidCertificate(_)) => {
                        Refusal::failed("tls_certificate", "the target's certificate is not to be trusted")
                    }
                    _ => Refusal::failed("tls", "the target's TLS failed"),
                })
            }
            Err(_) => Err(Refusal::timeout("tls_timeout")),
        }
    }
}

async fn handshake<S>(stream: S) -> Result<Connection, Refusal>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, work) = http1::Builder::new()
        .max_buf_size(BUFFER)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(&error))?;
    Ok(Connection { sender, work: Some(Box::pin(work)) })
}

async fn connect(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut rest = addresses.iter().take(MOST_ADDRESSES);
    let mut attempts = FuturesUnordered::new();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        match rest.next() {
            Some(address) => attempts.push(TcpStream::connect(address)),
            None if attempts.is_empty() => return Err(last),
            None => {}
        }
        tokio::select! {
            Some(attempt) = attempts.next() => match attempt {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    return Ok(stream);
                }
                Err(error) => last = error,
            },
            () = tokio::time::sleep(STAGGER), if rest.len() > 0 => {}
        }
    }
}

fn not_connected(error: &io::Error) -> Refusal {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Refusal::failed("refused", "the target refused the connection"),
        io::ErrorKind::ConnectionReset => Refusal::failed("reset", "the target reset the connection"),
        _ => Refusal::failed("unreachable", "the target cannot be reached"),
    }
}

/// Why an exchange broke off.
pub(crate) fn broken(error: &hyper::Error) -> Refusal {
    tracing::debug!(error = error as &dyn std::error::Error, "an exchange with a target");
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    let closed = std::error::Error::source(error)
        .and_then(|source| source.downcast_ref::<io::Error>())
        .is_some_and(|error| matches!(error.kind(), ConnectionReset | BrokenPipe | UnexpectedEof));
    if closed || error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        Refusal::failed("reset", "the target closed the connection")
    } else {
        Refusal::failed("protocol", "the target's answer is not HTTP/1.1")
    }
}
