//! Connections of the load generators: blocking sockets, and a minimal HTTP client.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

/// Time limit of each step of an exchange, for a contender that hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// Address of a listener.
#[derive(Debug, Clone)]
pub(crate) enum Address {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

/// A connection to a listener.
#[derive(Debug)]
pub(crate) enum Conn {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Conn {
    pub(crate) fn open(to: &Address) -> io::Result<Self> {
        match to {
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Ok(Self::Unix(stream))
            }
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Ok(Self::Tcp(stream))
            }
        }
    }

    pub(crate) fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.set_nonblocking(true),
            Self::Tcp(stream) => stream.set_nonblocking(true),
        }
    }

    /// Requests a tunnel and waits until it is open.
    pub(crate) fn tunnel(&mut self, to: SocketAddr) -> Result<()> {
        // All contenders use the same host; proxies that would look it up get its address.
        let request = match self {
            Self::Unix(_) => format!("CONNECT {ORIGIN}:{0} HTTP/1.1\r\nHost: {ORIGIN}:{0}\r\n\r\n", to.port()),
            Self::Tcp(_) => format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n"),
        };
        self.write_all(request.as_bytes())?;
        let (mut head, mut filled) = ([0; 2048], 0);
        while !head[..filled].ends_with(b"\r\n\r\n") {
            let read = self.read(&mut head[filled..])?;
            ensure!(read > 0, "no answer to CONNECT: {:?}", String::from_utf8_lossy(&head[..filled]));
            filled += read;
        }
        let established = head.starts_with(b"HTTP/1.1 200 ") || head.starts_with(b"HTTP/1.0 200 ");
        ensure!(established, "CONNECT was refused: {:?}", String::from_utf8_lossy(&head[..filled]));
        Ok(())
    }
}

/// Name of the origin for our proxy. It is pinned to the loopback address.
pub(crate) const ORIGIN: &str = "origin.test";

impl Read for Conn {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(into),
            Self::Tcp(stream) => stream.read(into),
        }
    }
}

impl Write for Conn {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(from),
            Self::Tcp(stream) => stream.write(from),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Conn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(stream) => stream.as_fd(),
            Self::Tcp(stream) => stream.as_fd(),
        }
    }
}

/// A complete response at the beginning of a buffer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answer<'a> {
    pub(crate) body: &'a [u8],
    /// Whether the connection may be used again.
    pub(crate) keep: bool,
}

/// Reads a response; `None` while it is not whole. Anything but a 200 with a length is an error.
pub(crate) fn answer(bytes: &[u8]) -> Result<Option<Answer<'_>>> {
    let mut lines = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut lines);
    let httparse::Status::Complete(head) = response.parse(bytes)? else { return Ok(None) };
    let (mut length, mut keep) = (None, response.version == Some(1));
    for line in response.headers.iter() {
        if line.name.eq_ignore_ascii_case("content-length") {
            length = std::str::from_utf8(line.value)?.parse::<usize>().ok();
        } else if line.name.eq_ignore_ascii_case("connection") && line.value.eq_ignore_ascii_case(b"close") {
            keep = false;
        }
    }
    if response.code != Some(200) {
        bail!("not a 200: {:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(300)]));
    }
    let Some(length) = length else { bail!("an answer without a length") };
    Ok(bytes.get(head..head + length).map(|body| Answer { body, keep }))
}
