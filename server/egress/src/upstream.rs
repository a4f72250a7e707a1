//! Connections to targets. The task that uses a connection also drives it.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::answer::Refusal;
use crate::body::Upload;
use crate::credentials::RuleId;
use crate::host::Host;
use crate::quota::Share;

/// How much of a request or a response one connection may buffer, in bytes.
const BUFFER: usize = 64 * 1024;

/// Destination of a request, resolved and checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Destination<'a> {
    pub(crate) tls: bool,
    pub(crate) host: &'a Host,
    pub(crate) addresses: &'a [SocketAddr],
    /// The rule that provides the request's credential.
    pub(crate) credential: Option<RuleId>,
    /// Number of the listener's owner.
    pub(crate) owner: u64,
}

/// What two requests of a listener must have in common to share a connection. All connections of a proxy use the same TLS
/// settings, so `tls` and the host, which is the server name, represent them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    tls: bool,
    host: Host,
    address: SocketAddr,
    credential: Option<RuleId>,
    pub(crate) owner: u64,
}

impl Key {
    pub(crate) fn new(to: Destination<'_>, address: SocketAddr) -> Self {
        Self { tls: to.tls, host: to.host.clone(), address, credential: to.credential, owner: to.owner }
    }
}

/// The socket under a connection. hyper owns the connection; the pool keeps a handle to check for unrequested bytes. The two take
/// turns, so the lock is always free.
#[derive(Debug, Clone)]
pub(crate) struct Wire(Arc<Mutex<Dialled>>);

/// A socket to a target, and the share of its listener's descriptors that it takes.
#[derive(Debug)]
pub(crate) struct Dialled {
    pub(crate) stream: TcpStream,
    pub(crate) _descriptor: Share,
}

impl Wire {
    pub(crate) fn new(dialled: Dialled) -> Self {
        Self(Arc::new(Mutex::new(dialled)))
    }

    /// Whether there is nothing to read, neither bytes nor the end. The kernel is asked directly: tokio learns of new bytes only
    /// when its driver runs next, and they would be taken for the response to a request sent before that.
    fn is_silent(&self) -> bool {
        let wire = self.0.lock();
        let mut looked = [PollFd::new(&wire.stream, PollFlags::IN | PollFlags::RDHUP)];
        matches!(poll(&mut looked, Some(&Timespec::default())), Ok(0))
    }

    fn with<T>(&self, action: impl FnOnce(Pin<&mut TcpStream>) -> T) -> T {
        action(Pin::new(&mut self.0.lock().stream))
    }
}

/// tokio's own reads and writes, which save a system call: after a short read the socket is known to be empty.
impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_read(cx, into))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        self.with(|stream| stream.poll_write(cx, from))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.with(|stream| stream.poll_write_vectored(cx, from))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_shutdown(cx))
    }
}

/// A connection: hyper's sender, and the connection's future, which the user of the connection polls. A separate task would have to
/// be woken twice for each request.
pub(crate) struct Connection {
    pub(crate) sender: SendRequest<Upload>,
    /// The connection's future; `None` once it has completed.
    work: Option<Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>>,
    wire: Wire,
}

impl Connection {
    /// Begins HTTP/1.1 on `stream`, which is `wire` or TLS on it.
    pub(crate) async fn begin<S>(stream: S, wire: Wire) -> Result<Self, Refusal>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, work) = http1::Builder::new()
            .max_buf_size(BUFFER)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| broken(&error))?;
        Ok(Self { sender, work: Some(Box::pin(work)), wire })
    }

    fn work(&mut self, cx: &mut Context<'_>) {
        if let Some(Poll::Ready(ended)) = self.work.as_mut().map(|work| work.as_mut().poll(cx)) {
            self.work = None;
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection to a target ended");
            }
        }
    }

    /// Whether the connection is still open, as far as hyper has read.
    pub(crate) fn is_open(&mut self) -> bool {
        self.work(&mut Context::from_waker(Waker::noop()));
        self.work.is_some() && !self.sender.is_closed()
    }

    /// Whether another request may be sent: the last exchange is over and no byte has arrived since. hyper closes the connection if
    /// it has read bytes behind the last response; bytes that it has not read yet are seen in the socket.
    pub(crate) fn is_unused(&mut self) -> bool {
        self.is_open() && self.sender.is_ready() && self.wire.is_silent()
    }

    /// Runs `something` that needs the connection, and meanwhile the connection's own work.
    pub(crate) async fn during<T>(&mut self, something: impl Future<Output = T>) -> T {
        let mut something = pin!(something);
        poll_fn(|cx| {
            if let Poll::Ready(done) = something.as_mut().poll(cx) {
                return Poll::Ready(done);
            }
            self.work(cx);
            something.as_mut().poll(cx)
        })
        .await
    }
}

/// A connection in use.
pub(crate) struct Lease {
    pub(crate) key: Key,
    pub(crate) connection: Connection,
    /// Whether the connection has served a request before.
    pub(crate) reused: bool,
}

impl Lease {
    /// Runs `something` that needs the connection, and meanwhile the connection's own work.
    pub(crate) async fn during<T>(&mut self, something: impl Future<Output = T>) -> T {
        self.connection.during(something).await
    }

    /// As above, without waiting.
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

/// Why an exchange failed.
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

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::quota::{Resource, Shared};
    use crate::settings::Limits;

    /// Nothing is awaited between the target's byte and the check, so neither tokio nor hyper can have noticed the byte.
    #[tokio::test]
    async fn an_unread_byte_is_noticed() {
        let target = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        let stream = TcpStream::connect(target.local_addr().expect("an address")).await.expect("connects");
        let (mut peer, _) = target.accept().expect("accepts");
        let descriptor = Shared::new(&Limits::default()).listener(None).take(Resource::Descriptors, 1).expect("one");
        let wire = Wire::new(Dialled { stream, _descriptor: descriptor });
        let mut connection = Connection::begin(wire.clone(), wire).await.expect("begins");
        assert!(connection.is_unused());
        peer.write_all(b"H").expect("writes");
        assert!(!connection.is_unused());
    }
}
