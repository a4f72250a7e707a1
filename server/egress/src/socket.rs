//! Sockets, used through shared references: one task reads and writes at the same time without splitting them.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::Shutdown;
use tokio::net::{TcpStream, UnixStream};

/// How long, and how much, is read from a client that still sends after its last answer. Closing at once would make the kernel reset
/// the connection, and the client would lose the answer.
const LINGER: (Duration, usize) = (Duration::from_secs(2), 1024 * 1024);

/// A connected stream socket.
pub(crate) trait Socket: AsFd + Send + Sync {
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    fn try_read(&self, into: &mut [u8]) -> io::Result<usize>;
    fn try_read_buf(&self, into: &mut impl BufMut) -> io::Result<usize>;
    fn try_write_vectored(&self, from: &[IoSlice<'_>]) -> io::Result<usize>;
}

macro_rules! socket {
    ($type:ty) => {
        impl Socket for $type {
            fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.poll_read_ready(cx)
            }

            fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.poll_write_ready(cx)
            }

            fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
                self.try_read(into)
            }

            fn try_read_buf(&self, into: &mut impl BufMut) -> io::Result<usize> {
                self.try_read_buf(into)
            }

            fn try_write_vectored(&self, from: &[IoSlice<'_>]) -> io::Result<usize> {
                self.try_write_vectored(from)
            }
        }
    };
}

socket!(UnixStream);
socket!(TcpStream);

/// Waits until there are bytes to read, or the end. No buffer is held meanwhile.
pub(crate) async fn readable(socket: &impl Socket) -> io::Result<()> {
    poll_fn(|cx| socket.poll_read_ready(cx)).await
}

/// Reads the available bytes into the spare capacity of `into`, which is at least `room`; returns 0 at the end.
pub(crate) async fn read(socket: &impl Socket, into: &mut BytesMut, room: usize) -> io::Result<usize> {
    loop {
        readable(socket).await?;
        into.reserve(room);
        match socket.try_read_buf(into) {
            // Readiness may be spurious. The buffer is not kept while no bytes arrive.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if into.is_empty() {
                    *into = BytesMut::new();
                }
            }
            done => return done,
        }
    }
}

/// Reads the available bytes, at most the space left in `into`; returns 0 at the end.
pub(crate) async fn read_into(socket: &impl Socket, into: &mut impl BufMut) -> io::Result<usize> {
    loop {
        readable(socket).await?;
        match socket.try_read_buf(into) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return done,
        }
    }
}

/// Writes all parts, with as few system calls as possible.
pub(crate) async fn write(socket: &impl Socket, parts: &[&[u8]]) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
    let mut rest = slices.as_mut_slice();
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        match socket.try_write_vectored(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut rest, written),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                poll_fn(|cx| socket.poll_write_ready(cx)).await?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Shuts down this side's half. It is not an error if the other side has closed the connection already.
pub(crate) fn close_half(socket: &impl Socket) -> io::Result<()> {
    match rustix::net::shutdown(socket.as_fd(), Shutdown::Write) {
        Ok(()) | Err(rustix::io::Errno::NOTCONN) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Shuts down this side's half and continues to read for a while, so that the last bytes written arrive.
pub(crate) async fn linger(socket: &impl Socket) {
    let (patience, most) = LINGER;
    let drained = async {
        close_half(socket)?;
        let (mut scrap, mut total) = (BytesMut::new(), 0);
        while total < most {
            scrap.clear();
            match read(socket, &mut scrap, 8 * 1024).await? {
                0 => break,
                read => total += read,
            }
        }
        Ok::<_, io::Error>(())
    };
    match tokio::time::timeout(patience, drained).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::trace!(%error, "a client left"),
        Err(_) => tracing::trace!("a client goes on sending after its last answer"),
    }
}

/// Whether the other side has closed both halves, so that nothing written now can be read. Only poll(2) distinguishes this from a
/// side that has closed one half and still reads.
pub(crate) fn is_gone(socket: &impl Socket) -> bool {
    let fd = socket.as_fd();
    let mut asked = [PollFd::new(&fd, PollFlags::empty())];
    match rustix::event::poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
        Ok(_) => asked[0].revents().intersects(PollFlags::HUP | PollFlags::ERR),
        // Interrupted: the caller asks again soon.
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_half_closed_client_counts_as_connected() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        assert!(!is_gone(&ours));
        close_half(&theirs).expect("closes");
        readable(&ours).await.expect("the end is readable");
        assert!(!is_gone(&ours), "it can still read");
        drop(theirs);
        assert!(is_gone(&ours));
    }

    #[tokio::test]
    async fn parts_are_written_whole_and_in_order() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let large = vec![7_u8; 1 << 20];
        let sent = async {
            write(&ours, &[b"head", b"", &large, b"\r\n"]).await.expect("writes");
            close_half(&ours).expect("closes");
        };
        let received = async {
            let mut all = BytesMut::new();
            while read(&theirs, &mut all, 4096).await.expect("reads") > 0 {}
            all
        };
        let ((), all) = tokio::join!(sent, received);
        assert_eq!(all, [b"head", large.as_slice(), b"\r\n"].concat());
    }
}
