//! CONNECT on a proxy's Unix socket, byte by byte, to see what an HTTP client would hide.

use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::harness::pace::within;

/// How long one tunnel may take.
const LIMIT: Duration = Duration::from_secs(20);

/// The response to one CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnelled {
    /// The status of the proxy's response.
    pub status: u16,
    /// Every byte after the response head, up to the end of the connection.
    pub received: Vec<u8>,
}

/// Requests a tunnel to `authority`. Once it is open, sends `bytes`, closes the sending direction, and reads to the end.
///
/// # Errors
/// What went wrong, as a text: no connection, no answer, no end in time.
pub async fn connect(proxy: &Path, authority: &str, bytes: &[u8]) -> Result<Tunnelled, String> {
    let exchange = async {
        let mut stream = UnixStream::connect(proxy).await.map_err(|error| format!("connect: {error}"))?;
        let request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.map_err(|error| format!("asking: {error}"))?;
        let (status, mut received) = head(&mut stream).await?;
        if status == 200 {
            let (mut from, mut to) = stream.split();
            // Both directions at once: otherwise both ends could block on full buffers.
            let send = async {
                to.write_all(bytes).await?;
                to.shutdown().await
            };
            let (sent, read) = tokio::join!(send, from.read_to_end(&mut received));
            sent.map_err(|error| format!("sending: {error}"))?;
            read.map_err(|error| format!("reading: {error}"))?;
        } else {
            stream.read_to_end(&mut received).await.map_err(|error| format!("reading: {error}"))?;
        }
        Ok(Tunnelled { status, received })
    };
    within(LIMIT, exchange).await.unwrap_or_else(|_| Err(format!("no end after {LIMIT:?}")))
}

/// Reads a response head, and returns its status and the bytes after it.
async fn head(stream: &mut UnixStream) -> Result<(u16, Vec<u8>), String> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let status =
                text.strip_prefix("HTTP/1.1 ").and_then(|text| text.get(..3)).and_then(|code| code.parse().ok());
            return status.map(|status| (status, rest)).ok_or(format!("not an HTTP/1.1 answer: {text:?}"));
        }
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk).await {
            Ok(0) => return Err(format!("the end, after {:?}", String::from_utf8_lossy(&bytes))),
            Ok(size) => bytes.extend_from_slice(&chunk[..size]),
            Err(error) => return Err(format!("reading the answer: {error}")),
        }
    }
}

/// A ClientHello (RFC 8446, section 4.1.2) with this server name (RFC 6066, section 3): a proxy may insist on
/// one before it forwards bytes.
#[must_use]
pub fn client_hello(name: &str) -> Vec<u8> {
    let entry = [&[0_u8][..], &with_length(2, name.as_bytes())].concat();
    hello_with(&[&[0, 0][..], &with_length(2, &with_length(2, &entry))].concat())
}

/// A ClientHello without a server name.
#[must_use]
pub fn nameless_hello() -> Vec<u8> {
    hello_with(&[])
}

/// A HelloRetryRequest (RFC 8446, section 4.1.4), with which a server asks for a second ClientHello.
#[must_use]
pub fn hello_retry_request() -> Vec<u8> {
    // The SHA-256 of "HelloRetryRequest", in the place of a ServerHello's random bytes.
    const RANDOM: [u8; 32] = [
        0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2, 0xa2,
        0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
    ];
    let extensions = [&[0, 43][..], &with_length(2, &[3, 4]), &[0, 51], &with_length(2, &[0, 29])].concat();
    let hello = [&[3, 3][..], &RANDOM, &with_length(1, &[]), &[0x13, 0x01, 0], &with_length(2, &extensions)].concat();
    let handshake = [&[2][..], &with_length(3, &hello)].concat();
    [&[22, 3, 3][..], &with_length(2, &handshake)].concat()
}

/// The same handshake message in its record, with another type (RFC 8446, section 4).
#[must_use]
pub fn of_type(kind: u8, mut message: Vec<u8>) -> Vec<u8> {
    const RECORD_HEADER: usize = 5;
    if let Some(given) = message.get_mut(RECORD_HEADER) {
        *given = kind;
    }
    message
}

/// Bytes as records of application data (RFC 8446, section 5.1), which a client may send behind its ClientHello as early data. A
/// proxy that follows the handshake refuses anything else there.
#[must_use]
pub fn application_data(content: &[u8]) -> Vec<u8> {
    const LONGEST_RECORD: usize = 1 << 14;
    content.chunks(LONGEST_RECORD).flat_map(|part| [&[23, 3, 3][..], &with_length(2, part)].concat()).collect()
}

fn with_length(width: usize, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    [&length[length.len() - width..], content].concat()
}

fn hello_with(extension: &[u8]) -> Vec<u8> {
    let supported_versions = [0, 43, 0, 3, 2, 3, 4];
    let extensions = [extension, &supported_versions].concat();
    let hello = [
        &[3, 3][..],
        &[7; 32],
        &with_length(1, &[]),
        &with_length(2, &[0x13, 0x01]),
        &with_length(1, &[0]),
        &with_length(2, &extensions),
    ]
    .concat();
    let handshake = [&[1][..], &with_length(3, &hello)].concat();
    [&[22, 3, 1][..], &with_length(2, &handshake)].concat()
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    /// A proxy that sends `answer`, then echoes, then sends `last`.
    async fn tunnel(answer: &'static str, last: &'static str) -> Result<Tunnelled, String> {
        let dir = tempfile::tempdir().expect("a directory");
        let listener = UnixListener::bind(dir.path().join("s")).expect("bind");
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let _ = stream.read(&mut [0; 1024]).await;
            stream.write_all(answer.as_bytes()).await.expect("written");
            if answer.contains(" 200 ") {
                let (mut from, mut to) = stream.split();
                tokio::io::copy(&mut from, &mut to).await.expect("echoed");
            }
            stream.write_all(last.as_bytes()).await.expect("written");
        });
        let result = connect(&dir.path().join("s"), "a.test:443", b"payload").await;
        server.await.expect("joined");
        result
    }

    #[tokio::test]
    async fn all_received_bytes_are_returned() {
        let good = tunnel("HTTP/1.1 200 OK\r\n\r\n", "").await.expect("a tunnel");
        assert_eq!(good, Tunnelled { status: 200, received: b"payload".to_vec() });
        let more = tunnel("HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 502").await.expect("a tunnel");
        assert_eq!(more.received, b"payloadHTTP/1.1 502");
        let refused = tunnel("HTTP/1.1 403 No\r\n\r\nwhy", "").await.expect("an answer");
        assert_eq!(refused, Tunnelled { status: 403, received: b"why".to_vec() });
        assert!(tunnel("garbage\r\n\r\n", "").await.is_err());
        assert!(tunnel("HTTP/1.1 403 No\r\n", "").await.is_err(), "half a head");
    }

    #[test]
    fn a_hello_is_as_long_as_it_says() {
        let hello = client_hello("a.test");
        assert_eq!(usize::from(u16::from_be_bytes([hello[3], hello[4]])), hello.len() - 5);
        assert!(hello.windows(6).any(|window| window == b"a.test"));
    }
}
