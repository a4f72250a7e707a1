//! Request framing: bytes that two parsers could split into different requests.

use crate::peer::Peer;
use crate::support::{Proxy, origin, read_all, read_head, settings};
use nagaya_egress::Decision;
use nagaya_fixtures::origin::Kind;
use tokio::io::AsyncWriteExt;

const SECOND: &str = "GET http://web.example/second HTTP/1.1\r\nhost: web.example\r\n\r\n";

/// Row 9. In each case a parser that ends the first request elsewhere would read a second one in the bytes that follow.
#[tokio::test]
async fn a_request_with_ambiguous_framing_closes_the_connection() {
    for lines in [
        // CL.TE, TE.CL, TE.TE and obfuscated forms of them.
        "content-length: 6\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n5c\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n",
        "transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "transfer-encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding\r\n : chunked\r\n\r\n0\r\n\r\n",
        "x: y\rtransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "x: y\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "content-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "content-length: 1, 1\r\n\r\na",
        "content-length: +1\r\n\r\na",
        "content-length: 0x1\r\n\r\na",
        "content-length: 1 \x0b\r\n\r\na",
        // Names that some servers read as those headers.
        "transfer_encoding: chunked\r\n\r\n0\r\n\r\n",
        "content-length: 4\r\nTransfer_Encoding: chunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\nContent.Length: 4\r\n\r\n0\r\n\r\n",
        "Content_Length: 4\r\n\r\nbody",
        "X_Api_Key: k\r\ncontent-length: 1\r\n\r\na",
        "X.Api.Key: k\r\ncontent-length: 1\r\n\r\na",
        "Proxy_Authorization: k\r\ncontent-length: 1\r\n\r\na",
        "content-length: 18446744073709551616\r\n\r\na",
        // Malformed chunk sizes and chunk ends.
        "transfer-encoding: chunked\r\n\r\n+1\r\na\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\n10000000000000001\r\na\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\n1;x\ny\r\na\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\n1\r\naX0\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\n0\r\nx: y\n\r\n",
    ] {
        let peer = Peer::content().await;
        let proxy = Proxy::start(settings(&[("web.example:80", peer.addr())]));
        let first = "POST http://web.example/first HTTP/1.1\r\nhost: web.example\r\n";
        let answer = proxy.talk(format!("{first}{lines}{SECOND}")).await;
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{lines:?}: {answer}");
        let told = answer.starts_with("HTTP/1.1 400 ") && answer.contains("connection: close");
        // A target may answer before it has the whole body. Its response may be passed on, but then closes the connection.
        assert!(told || answer.contains("connection: close"), "{lines:?}: {answer}");
        assert!(!peer.seen().contains("/second"), "{lines:?}: {}", peer.seen());
    }
}

/// Control for the above, and row 9's last part: chunk extensions and trailers are dropped, and the next request is read.
#[tokio::test]
async fn after_a_well_framed_request_comes_the_next() {
    let peer = Peer::content().await;
    let proxy = Proxy::start(settings(&[("web.example:80", peer.addr())]));
    let first = "POST http://web.example/first HTTP/1.1\r\nhost: web.example\r\ntransfer-encoding: chunked\r\n\r\n\
                 4;name=\"value\"\r\nbody\r\n0\r\ntrailer: secret\r\n\r\n";
    let mut stream = proxy.connect().await;
    stream.write_all(first.as_bytes()).await.expect("writes");
    assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 200 "));
    let seen = peer.has_seen("0\r\n\r\n").await;
    assert!(seen.contains("4\r\nbody\r\n0\r\n\r\n") && !seen.contains("secret") && !seen.contains("name="), "{seen}");
    drop(stream);
    let whole = "POST http://web.example/first HTTP/1.1\r\nhost: web.example\r\ncontent-length: 4\r\n\r\nbody";
    let answer = proxy.talk(format!("{whole}{SECOND}")).await;
    assert_eq!(answer.matches("HTTP/1.1 200 ").count(), 2, "{answer}");
}

/// Row 10: bytes behind a CONNECT belong to the tunnel; if it is refused, they are discarded.
#[tokio::test]
async fn bytes_after_a_refused_connect_are_not_a_request() {
    let peer = Peer::content().await;
    let proxy = Proxy::start(settings(&[("web.example:80", peer.addr())]));
    for (target, status) in [("evil.example:443", "403"), ("web.example:8080", "403"), ("web.example", "400")] {
        let answer = proxy.talk(format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n{SECOND}")).await;
        assert_eq!((answer.matches("HTTP/1.1 ").count(), &answer[9..12]), (1, status), "{answer}");
    }
    assert_eq!(peer.connections(), 0);
    // In the tunnel the request is passed on unchanged: in absolute form, which the proxy itself never sends.
    let answer = proxy.talk(format!("CONNECT web.example:80 HTTP/1.1\r\nhost: web.example:80\r\n\r\n{SECOND}")).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && peer.seen().contains(SECOND), "{}", peer.seen());
}

/// Row 11: refusals do not repeat what the client sent, and headers meant for a proxy are not passed on.
#[tokio::test]
async fn proxy_headers_reach_no_target_and_refusals_echo_nothing() {
    let peer = Peer::content().await;
    let proxy = Proxy::start(settings(&[
        ("web.example:80", peer.addr()),
        ("gone.example:80", "127.0.0.1:1".parse().expect("an address")),
    ]));
    let secret = "proxy-authorization: Basic CANARY\r\nauthorization: Bearer CANARY\r\ncookie: CANARY\r\n";
    for target in
        ["http://evil.example/CANARY?CANARY", "http://gone.example/CANARY", "http://u:CANARY@web.example/", "/CANARY"]
    {
        let host = if target.contains("gone") { "gone.example" } else { "evil.example" };
        let answer = proxy.talk(format!("GET {target} HTTP/1.1\r\nhost: {host}\r\n{secret}\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.1 502"), "{answer}");
        assert!(!answer.contains("CANARY"), "{answer}");
    }
    let records = format!("{:?}", proxy.records.all());
    assert!(!records.contains("CANARY"), "{records}");
    let hidden = "GET http://web.example/ HTTP/1.1\r\nhost: web.example\r\nconnection: close, x-secret, \u{ff}\r\nx-secret: CANARY\r\n\r\n";
    proxy.talk(hidden).await;
    let request = "GET http://web.example/ HTTP/1.1\r\nhost: web.example\r\nproxy-authorization: CANARY\r\nproxy-x: CANARY\r\n\
                   connection: close, x-private\r\nx-private: CANARY\r\nkeep-alive: CANARY\r\nte: CANARY\r\n\
                   upgrade: CANARY\r\nx-public: yes\r\n\r\n";
    proxy.talk(request).await;
    let seen = peer.seen();
    assert!(seen.contains("x-public: yes") && !seen.contains("CANARY"), "{seen}");
}

/// The proxy never asks a target to switch protocols, so a 101 response is an error.
#[tokio::test]
async fn a_target_cannot_switch_protocols() {
    let peer =
        Peer::answering("HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nraw")
            .await;
    let proxy = Proxy::start(settings(&[("web.example:80", peer.addr())]));
    let answer = proxy
        .talk("GET http://web.example/ HTTP/1.1\r\nhost: web.example\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
        .await;
    assert!(answer.starts_with("HTTP/1.1 502 ") && !answer.contains("raw"), "{answer}");
    assert!(!peer.seen().to_ascii_lowercase().contains("upgrade"), "{}", peer.seen());
}

/// Row 15: with `Expect: 100-continue`, client and target do not wait for each other.
#[tokio::test]
async fn expect_100_continue_is_answered_by_the_proxy() {
    let web = origin(Kind::Http).await;
    let proxy = Proxy::start(settings(&[("web.example:80", web.addr())]));
    let head = "POST http://web.example/echo HTTP/1.1\r\nhost: web.example\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n";
    let mut stream = proxy.connect().await;
    stream.write_all(head.as_bytes()).await.expect("writes");
    assert_eq!(read_head(&mut stream).await, "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"body").await.expect("writes");
    stream.shutdown().await.expect("closes");
    let answer = read_all(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains(r#""body_bytes":4"#), "{answer}");
    assert!(!answer.contains("expect"), "the proxy has answered for itself: {answer}");
    // A request that is refused gets its refusal and no 100.
    let answer = proxy.talk(head.replace("web.example", "evil.example")).await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    let answer = proxy.talk(head.replace("100-continue", "200-ok")).await;
    assert!(answer.starts_with("HTTP/1.1 417 "), "{answer}");
}

/// Responses with ambiguous framing are read by the rule (RFC 9112, 6.3), and the bytes behind them are discarded.
#[tokio::test]
async fn extra_bytes_of_a_target_answer_no_other_request() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 99\r\n\r\n2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
        "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
    ] {
        let peer = Peer::answering(answer).await;
        let proxy = Proxy::start(settings(&[("web.example:80", peer.addr())]));
        for _ in 0..2 {
            let told =
                proxy.talk("GET http://web.example/ HTTP/1.1\r\nhost: web.example\r\nconnection: close\r\n\r\n").await;
            assert!(told.starts_with("HTTP/1.1 20") && !told.contains("evil"), "{told}");
        }
        assert_eq!(peer.connections(), 2, "the first connection was not used again: {answer}");
    }
}

/// Row 19: the proxy neither compresses nor decompresses.
#[tokio::test]
async fn a_body_is_passed_on_byte_for_byte() {
    let peer = Peer::answering(
        "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-type: text/plain\r\ncontent-length: 6\r\n\r\n\x1f\x08\x00abc",
    )
    .await;
    let proxy = Proxy::start(settings(&[("web.example:80", peer.addr())]));
    let answer = proxy.talk("GET http://web.example/ HTTP/1.1\r\nhost: web.example\r\nconnection: close\r\n\r\n").await;
    assert!(answer.contains("content-encoding: gzip") && answer.ends_with("\r\n\r\n\x1f\x08\x00abc"), "{answer:?}");
    assert!(!peer.seen().contains("accept-encoding"), "none is asked for that the client did not ask for");
    let asks =
        "GET http://web.example/ HTTP/1.1\r\nhost: web.example\r\naccept-encoding: br;q=1\r\nconnection: close\r\n\r\n";
    proxy.talk(asks).await;
    assert!(peer.seen().contains("accept-encoding: br;q=1"), "{}", peer.seen());
}

/// Row 2: plain requests are checked like tunnels, and each leaves a record.
#[tokio::test]
async fn every_request_form_is_checked_and_recorded() {
    let peer = Peer::content().await;
    let proxy = Proxy::start(settings(&[("web.example:80", peer.addr())]));
    for request in [
        "GET http://evil.example/ HTTP/1.1\r\nhost: evil.example\r\n\r\n",
        "POST http://evil.example/ HTTP/1.1\r\nhost: evil.example\r\ncontent-length: 1\r\n\r\nx",
        "CONNECT evil.example:443 HTTP/1.1\r\nhost: evil.example:443\r\n\r\n",
        "GET http://evil.example/ HTTP/1.0\r\n\r\n",
    ] {
        let before = proxy.records.all().len();
        let answer = proxy.talk(request).await;
        assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains(r#""code":"EGRESS_DENIED""#), "{answer}");
        let record = proxy.records.all().swap_remove(before);
        assert_eq!(
            (record.decision, record.status, record.host.as_str()),
            (Decision::Denied("not_allowed"), 403, "evil.example")
        );
    }
    assert_eq!(peer.connections(), 0);
}
