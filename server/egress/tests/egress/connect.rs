//! CONNECT at the level of bytes (BUG-04).

use nagaya_egress::Decision;
use nagaya_fixtures::origin::Kind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::{DEADLINE, Proxy, any, descriptors, eventually, origin, read_all, read_head, settings};

const OK: &str = "HTTP/1.1 200 ";

#[tokio::test]
async fn one_response_then_exactly_the_targets_bytes() {
    let echo = origin(Kind::RawEcho).await;
    let proxy = Proxy::start(settings(&[("echo.example:7", echo.addr())]));
    let mut stream = proxy.connect().await;
    // Bytes sent with the request, before the response, belong to the tunnel.
    stream.write_all(b"CONNECT echo.example:7 HTTP/1.1\r\nhost: echo.example:7\r\n\r\nearly ").await.expect("writes");
    let head = read_head(&mut stream).await;
    assert!(head.starts_with(OK), "{head}");
    assert!(!head.to_ascii_lowercase().contains("transfer-encoding"), "{head}");
    stream.write_all(b"late\0\xff HTTP/1.1 200 OK\r\n\r\n").await.expect("writes");
    stream.shutdown().await.expect("closes its half");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.expect("reads");
    assert_eq!(rest, b"early late\0\xff HTTP/1.1 200 OK\r\n\r\n");
    let record = proxy.record().await;
    assert_eq!((record.method.as_str(), record.host.as_str(), record.port), ("CONNECT", "echo.example", 7));
    assert_eq!((record.status, record.decision, record.bytes_up, record.bytes_down), (200, Decision::Allowed, 32, 32));
}

#[tokio::test]
async fn a_half_close_by_the_target_leaves_the_other_half_open() {
    let listener = TcpListener::bind(any()).await.expect("binds");
    let proxy = Proxy::start(settings(&[("t.example:9", listener.local_addr().expect("an address"))]));
    let mut stream = proxy.connect().await;
    stream.write_all(b"CONNECT t.example:9 HTTP/1.1\r\nhost: t.example:9\r\n\r\n").await.expect("writes");
    let (mut target, _) = listener.accept().await.expect("accepts");
    assert!(read_head(&mut stream).await.starts_with(OK));
    target.write_all(b"goodbye").await.expect("writes");
    target.shutdown().await.expect("closes its half");
    assert_eq!(read_all(&mut stream).await, "goodbye");
    stream.write_all(b"and yet").await.expect("the other half is open");
    stream.shutdown().await.expect("closes");
    let mut received = String::new();
    tokio::time::timeout(DEADLINE, target.read_to_string(&mut received)).await.expect("in time").expect("reads");
    assert_eq!(received, "and yet");
}

#[tokio::test]
async fn a_refused_connection_is_reported_once() {
    let gone = origin(Kind::RawEcho).await;
    let addr = gone.addr();
    gone.stop().await;
    let proxy = Proxy::start(settings(&[("gone.example:9", addr)]));
    let answer = proxy.talk("CONNECT gone.example:9 HTTP/1.1\r\nhost: gone.example:9\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    assert!(answer.contains(r#""reason":"refused""#), "{answer}");
}

#[tokio::test]
async fn a_hundred_concurrent_tunnels_leave_nothing_behind() {
    let echo = origin(Kind::RawEcho).await;
    let proxy = Proxy::start(settings(&[("echo.example:7", echo.addr())]));
    let before = descriptors();
    let tunnels = (0..100).map(|n| {
        let proxy = &proxy;
        async move {
            let sent = format!("tunnel {n}").repeat(1000);
            let mut stream = proxy.connect().await;
            stream.write_all(b"CONNECT echo.example:7 HTTP/1.1\r\nhost: echo.example:7\r\n\r\n").await.expect("writes");
            assert!(read_head(&mut stream).await.starts_with(OK));
            let (mut read, mut write) = stream.split();
            let writing = async {
                write.write_all(sent.as_bytes()).await.expect("writes");
                write.shutdown().await.expect("closes");
            };
            let mut received = String::new();
            let reading = async { read.read_to_string(&mut received).await.expect("reads") };
            tokio::join!(writing, reading);
            assert_eq!(received, sent);
        }
    });
    futures::future::join_all(tunnels).await;
    eventually("no tunnel is open", || proxy.egress.open_tunnels() == 0).await;
    assert!(proxy.records.all().iter().all(|record| record.decision == Decision::Allowed));
    eventually("no descriptor is left", || descriptors() <= before).await;
}

#[tokio::test]
async fn on_port_443_only_tls_for_the_requested_host_passes() {
    let echo = origin(Kind::RawEcho).await;
    for (sent, reason) in [(&b"GET / HTTP/1.1\r\n\r\n"[..], "not_tls"), (&[22, 3, 1, 0, 2, 1, 0], "tls_malformed")] {
        let proxy = Proxy::start(settings(&[("a.example:443", echo.addr())]));
        let mut stream = proxy.connect().await;
        stream.write_all(b"CONNECT a.example:443 HTTP/1.1\r\nhost: a.example:443\r\n\r\n").await.expect("writes");
        assert!(read_head(&mut stream).await.starts_with(OK));
        stream.write_all(sent).await.expect("writes");
        stream.shutdown().await.expect("closes");
        let answer = read_all(&mut stream).await;
        assert_eq!(answer, "", "nothing reached the target");
        let record = proxy.record().await;
        assert_eq!((record.decision, record.bytes_up), (Decision::Denied(reason), 0));
    }
}

#[tokio::test]
async fn hosts_outside_the_allow_list_are_never_dialled() {
    let echo = origin(Kind::RawEcho).await;
    for (target, status, reason) in [
        ("evil.example:443", 403, "not_allowed"),
        ("a.example:22", 403, "not_allowed"),
        ("127.0.0.1:443", 403, "not_allowed"),
        ("127.1:443", 400, "malformed"),
        ("a.example", 400, "malformed"),
        ("u:p@a.example:443", 400, "malformed"),
    ] {
        let proxy = Proxy::start(settings(&[("a.example:443", echo.addr())]));
        let answer = proxy.talk(format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{target}: {answer}");
        // Refusals by the HTTP library itself have no body.
        if answer.contains("x-nagaya-egress") {
            assert!(answer.contains("x-nagaya-egress: denied") && answer.contains(reason), "{target}: {answer}");
        }
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    }
}
