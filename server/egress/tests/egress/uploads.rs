//! Request bodies: where they end, and what a response before that end means for the connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nagaya_egress::Decision;
use nagaya_fixtures::listen::Listening;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};

use crate::peer::Peer;
use crate::support::{DEADLINE, Proxy, any, read_all, read_head, settings};

const BODY: &[u8] = b"half and half";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A target that answers a request once it ends in `end`, and the number of connections it has accepted.
async fn answering_at(end: &'static [u8]) -> (Listening, Arc<AtomicUsize>) {
    let connections = Arc::<AtomicUsize>::default();
    let counts = connections.clone();
    let listening = Listening::start(any(), move |mut stream| {
        counts.fetch_add(1, Ordering::Relaxed);
        async move {
            let (mut seen, mut chunk) = (Vec::new(), [0; 4096]);
            while let Ok(read @ 1..) = stream.read(&mut chunk).await {
                seen.extend_from_slice(&chunk[..read]);
                if seen.ends_with(end) {
                    seen.clear();
                    if stream.write_all(OK).await.is_err() {
                        return;
                    }
                }
            }
        }
    });
    (listening.await.expect("listens"), connections)
}

fn proxy(addr: SocketAddr) -> Proxy {
    Proxy::start(settings(&[("web.example:80", addr)]))
}

fn head(framing: &str) -> String {
    format!("POST http://web.example/ HTTP/1.1\r\nhost: web.example\r\nexpect: 100-continue\r\n{framing}\r\n\r\n")
}

async fn send(stream: &mut UnixStream, bytes: impl AsRef<[u8]>) {
    stream.write_all(bytes.as_ref()).await.expect("writes");
}

/// Reads a response with a body of two bytes and returns its head.
async fn answer(stream: &mut UnixStream) -> String {
    let head = read_head(stream).await;
    let mut body = [0; 2];
    tokio::time::timeout(DEADLINE, stream.read_exact(&mut body)).await.expect("in time").expect("a body");
    assert_eq!(&body, b"ok", "{head}");
    head
}

/// A target may answer as soon as it has the last byte, before the proxy has read from the client again. The upload is complete
/// nevertheless, and both connections stay open.
#[tokio::test]
async fn a_complete_upload_keeps_both_connections() {
    let chunked = [format!("{:x}\r\n", BODY.len()).as_bytes(), BODY, b"\r\n0\r\n\r\n"].concat();
    for (framing, sent, end) in [
        (format!("content-length: {}", BODY.len()), BODY, BODY),
        ("transfer-encoding: chunked".to_owned(), &chunked, b"0\r\n\r\n"),
    ] {
        let (target, connections) = answering_at(end).await;
        let proxy = proxy(target.addr());
        let mut stream = proxy.connect().await;
        for round in 0..50 {
            send(&mut stream, head(&framing)).await;
            assert!(
                read_head(&mut stream).await.starts_with("HTTP/1.1 100 "),
                "the stimulus: the body comes by itself"
            );
            send(&mut stream, sent).await;
            let told = answer(&mut stream).await;
            assert!(told.starts_with("HTTP/1.1 200 ") && !told.contains("connection: close"), "{round}: {told}");
        }
        assert_eq!(connections.load(Ordering::Relaxed), 1, "the target's connection was used again: {framing}");
    }
}

/// A target may answer without waiting for the rest of the upload. Its response is passed on. The rest is then discarded: it is
/// neither read as a request nor sent to the target ahead of another one.
#[tokio::test]
async fn a_response_before_the_end_of_an_upload_closes_both_connections() {
    let hidden = "GET http://web.example/hidden HTTP/1.1\r\nhost: web.example\r\n\r\n";
    for framing in [format!("content-length: {}", 4 + hidden.len()), "transfer-encoding: chunked".to_owned()] {
        let target = Peer::content().await;
        let proxy = proxy(target.addr());
        let mut stream = proxy.connect().await;
        send(&mut stream, head(&framing)).await;
        assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 100 "));
        let told = answer(&mut stream).await;
        assert!(told.starts_with("HTTP/1.1 200 ") && told.contains("connection: close"), "{framing}: {told}");
        // The proxy may have closed this connection already.
        let _ = stream.write_all(format!("rest{hidden}").as_bytes()).await;
        let _ = stream.shutdown().await;
        assert_eq!(read_all(&mut stream).await, "", "{framing}");
        let next = "GET http://web.example/next HTTP/1.1\r\nhost: web.example\r\nconnection: close\r\n\r\n";
        assert!(proxy.talk(next).await.starts_with("HTTP/1.1 200 "));
        assert_eq!(target.connections(), 2, "{framing}");
        assert!(!target.seen().contains("/hidden") && target.seen().contains("/next"), "{framing}: {}", target.seen());
    }
}

/// The most the proxy may hold of an upload, in bytes: one read, the read waiting behind it, and what its connection to the
/// target buffers.
const HELD: u64 = 192 * 1024;

/// An upload that the target does not read costs a fixed amount of memory, however much is sent. The proxy held as much as it
/// has read, less what the target finds in its socket in the end.
#[tokio::test]
async fn an_upload_the_target_does_not_read_is_not_buffered() {
    const UPLOADS: u64 = 16;
    let listener = TcpListener::bind(any()).await.expect("binds");
    let mut settings = settings(&[("web.example:80", listener.local_addr().expect("an address"))]);
    settings.limits.idle = Duration::from_millis(300);
    let proxy = Proxy::start(settings);
    let endless = vec![b'x'; 1 << 20];
    let uploads = (0..UPLOADS).map(|_| async {
        let mut stream = proxy.connect().await;
        let head = "POST http://web.example/ HTTP/1.1\r\nhost: web.example\r\ncontent-length: 1000000000\r\n\r\n";
        send(&mut stream, head).await;
        // Writes until the proxy's time limit for the target has passed.
        while stream.write_all(&endless).await.is_ok() {}
    });
    let targets = async {
        let mut targets = Vec::new();
        for _ in 0..UPLOADS {
            targets.push(listener.accept().await.expect("accepts").0);
        }
        targets
    };
    let both = async { tokio::join!(futures::future::join_all(uploads), targets) };
    let (_, targets) = tokio::time::timeout(DEADLINE, both).await.expect("in time");
    let mut found = 0;
    for mut target in targets {
        let mut all = Vec::new();
        tokio::time::timeout(DEADLINE, target.read_to_end(&mut all)).await.expect("in time").expect("reads");
        let head = all.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
        found += (all.len() - head) as u64;
    }
    let records = proxy.records.all();
    assert!(records.iter().all(|record| record.decision == Decision::Denied("body_timeout")), "{records:?}");
    let read: u64 = records.iter().map(|record| record.bytes_up).sum();
    assert_eq!(records.len() as u64, UPLOADS);
    assert!(found > 0 && read > found, "the control: {found} of {read} got through");
    assert!(read - found <= UPLOADS * HELD, "{} bytes were held", read - found);
}
