//! How much a room's agent may send beyond the responses that were asked for.
//!
//! HTTP/2 has frames that carry no content, such as pings and settings, and the server must read and answer them. An agent needs
//! few of them. Whoever sends more than the requests under way account for is cut off.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::AgentError;

/// How many bytes of one response may be unread (the flow control window of a stream, RFC 9113 section 5.2).
pub(super) const WINDOW: u32 = 128 * 1024;
/// Bytes beyond those that responses account for.
const SLACK: u64 = 1024 * 1024;

/// Counts the bytes of one room.
pub(super) struct Meter {
    read: AtomicU64,
    written: AtomicU64,
    delivered: AtomicU64,
    requests: AtomicU64,
    exceeded: AtomicBool,
    /// Called once the room has sent too much.
    hostile: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl std::fmt::Debug for Meter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meter").field("read", &self.read).field("exceeded", &self.exceeded).finish_non_exhaustive()
    }
}

impl Meter {
    pub(super) fn new(hostile: impl FnOnce() + Send + 'static) -> Self {
        Self {
            read: AtomicU64::new(0),
            written: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            exceeded: AtomicBool::new(false),
            hostile: Mutex::new(Some(Box::new(hostile))),
        }
    }

    /// A request is sent.
    pub(super) fn expect_response(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// This many bytes of a response were taken by whoever asked for it.
    pub(super) fn delivered(&self, bytes: usize) {
        self.delivered.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// What an error means: once the room has sent too much, its connection is cut off, and everything that fails then fails for
    /// that.
    pub(super) fn judge(&self, error: AgentError) -> AgentError {
        match self.exceeded.load(Ordering::Relaxed) {
            true => AgentError::Hostile("frames that nobody asked for".into()),
            false => error,
        }
    }

    /// Notes bytes that have arrived; whether they are too many.
    fn read(&self, bytes: usize) -> bool {
        let read = self.read.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        let (delivered, written) = (self.delivered.load(Ordering::Relaxed), self.written.load(Ordering::Relaxed));
        // A response may be left unread; its frames are as long as its content where that comes in single bytes; and what the agent
        // receives it acknowledges.
        let responses = self.requests.load(Ordering::Relaxed).saturating_mul(u64::from(WINDOW));
        let allowed =
            SLACK.saturating_add(responses).saturating_add(delivered.saturating_mul(2)).saturating_add(written / 4);
        if read > allowed && !self.exceeded.swap(true, Ordering::Relaxed) {
            let hostile = self.hostile.lock().take();
            hostile.into_iter().for_each(|hostile| hostile());
        }
        read > allowed
    }
}

/// A stream whose bytes are counted.
#[derive(Debug)]
pub(super) struct Metered<S> {
    stream: S,
    meter: Arc<Meter>,
}

impl<S> Metered<S> {
    pub(super) fn new(stream: S, meter: Arc<Meter>) -> Self {
        Self { stream, meter }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        let arrived = buffer.filled().len() - before;
        if arrived > 0 && self.meter.read(arrived) {
            return Poll::Ready(Err(io::Error::other("the workspace sends more than its protocol needs")));
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        if let Poll::Ready(Ok(written)) = &polled {
            self.meter.written.fetch_add(*written as u64, Ordering::Relaxed);
        }
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        if let Poll::Ready(Ok(written)) = &polled {
            self.meter.written.fetch_add(*written as u64, Ordering::Relaxed);
        }
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_free_and_anything_else_is_little() {
        let told = Arc::new(AtomicBool::new(false));
        let meter = {
            let told = told.clone();
            Meter::new(move || told.store(true, Ordering::Relaxed))
        };
        meter.expect_response();
        for _ in 0..10_000 {
            assert!(!meter.read(64 * 1024), "a response of 640 MB");
            meter.delivered(64 * 1024 - 9);
        }
        let meter = Meter::new({
            let told = told.clone();
            move || told.store(true, Ordering::Relaxed)
        });
        assert!(!meter.read(1024 * 1024) && !told.load(Ordering::Relaxed));
        assert!(
            meter.read(1) && meter.judge(AgentError::Gone).is_hostile() && told.load(Ordering::Relaxed),
            "a megabyte that nobody asked for"
        );
    }
}
