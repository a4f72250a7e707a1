//! Limits: each is answered with its own status and reason, and a request beyond one leaves nothing behind.

use std::time::Duration;

use nagaya_egress::{Decision, Limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::peer::Peer;
use crate::support::{DEADLINE, Proxy, any, descriptors, eventually, read_all, read_head, settings};

const GET: &str = "GET http://web.example/ HTTP/1.1\r\nhost: web.example\r\nconnection: close\r\n\r\n";

fn with(limits: Limits, peer: &Peer) -> Proxy {
    Proxy::start(nagaya_egress::Settings { limits, ..settings(&[("web.example:80", peer.addr())]) })
}

#[tokio::test]
async fn an_oversized_head_is_refused() {
    let peer = Peer::content().await;
    let proxy = with(Limits::default(), &peer);
    let lines = |count: usize| (0..count).map(|n| format!("x-{n}: y\r\n")).collect::<String>();
    let request = |lines: &str| {
        format!("GET http://web.example/ HTTP/1.1\r\nhost: web.example\r\nconnection: close\r\n{lines}\r\n")
    };
    assert!(proxy.talk(request(&lines(98))).await.starts_with("HTTP/1.1 200 "), "the control: a hundred are fine");
    for large in [request(&lines(99)), request(&format!("x: {}\r\n", "y".repeat(16 * 1024))), "G".repeat(20_000)] {
        let answer = proxy.talk(large).await;
        assert!(answer.starts_with("HTTP/1.1 431 ") && answer.contains(r#""reason":"head_too_large""#), "{answer}");
    }
}

/// Row 20: slow clients and slow targets, each with its own time limit.
#[tokio::test]
async fn slow_clients_and_targets_time_out() {
    let (silent, short) = (Peer::answering("").await, Duration::from_millis(150));
    let limits = Limits { head: short, idle: short, silent: short, ..Limits::default() };
    let begun = "GET http://web.example/ HTTP/1.1\r\nhost: web.exa";
    let body = "POST http://web.example/ HTTP/1.1\r\nhost: web.example\r\ncontent-length: 9\r\n\r\nhalf";
    for (sent, status, reason) in
        [(begun, "408", "head_timeout"), (body, "408", "body_timeout"), (GET, "504", "response_timeout")]
    {
        let proxy = with(limits, &silent);
        let mut stream = proxy.connect().await;
        stream.write_all(sent.as_bytes()).await.expect("writes");
        let answer = read_all(&mut stream).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(reason), "{sent}: {answer}");
    }
    // A client that sends nothing gets no response.
    let proxy = with(limits, &silent);
    assert_eq!(read_all(&mut proxy.connect().await).await, "");
    // A head that arrives byte by byte has the same time limit.
    let mut stream = proxy.connect().await;
    let (mut read, mut write) = stream.split();
    let dripping = async {
        for byte in begun.bytes() {
            if write.write_all(&[byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(short / 10).await;
        }
    };
    let answer = async {
        let mut answer = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut read, &mut answer).await.expect("reads");
        String::from_utf8_lossy(&answer).into_owned()
    };
    let ((), answer) = tokio::join!(dripping, answer);
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

/// A stream in which bytes arrive is not idle, however long it lasts.
#[tokio::test]
async fn an_active_stream_is_not_idle() {
    let listener = TcpListener::bind(any()).await.expect("binds");
    let mut settings = settings(&[("web.example:80", listener.local_addr().expect("an address"))]);
    settings.limits.idle = Duration::from_millis(400);
    let proxy = Proxy::start(settings);
    let mut client = proxy.connect().await;
    client.write_all(GET.as_bytes()).await.expect("writes");
    let (mut target, _) = listener.accept().await.expect("accepts");
    let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    target.write_all(head).await.expect("writes");
    let stream = async {
        for _ in 0..8 {
            // Each pause is shorter than the limit; together they are longer.
            tokio::time::sleep(Duration::from_millis(100)).await;
            target.write_all(b"3\r\nabc\r\n").await.expect("writes");
        }
        target.write_all(b"0\r\n\r\n").await.expect("writes");
    };
    let ((), answer) = tokio::join!(stream, read_all(&mut client));
    assert!(answer.matches("abc").count() == 8 && answer.ends_with("0\r\n\r\n"), "{answer}");
    assert_eq!(proxy.record().await.decision, Decision::Allowed);
}

/// A response that stalls is cut off in such a way that the client notices: its framing stays incomplete.
#[tokio::test]
async fn a_truncated_response_does_not_look_complete() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        let peer = Peer::answering(answer).await;
        let proxy = with(Limits { idle: Duration::from_millis(150), ..Limits::default() }, &peer);
        let told = proxy.talk(GET).await;
        assert!(told.contains("half") && !told.contains("0\r\n\r\n") && !told.contains("content-length: 4"), "{told}");
        let record = proxy.record().await;
        assert_eq!((record.status, record.decision), (200, Decision::Failed("response_timeout")));
    }
}

/// When a target cuts off its response, an HTTP/1.1 client notices that the end is missing. An HTTP/1.0 client notices only by a
/// Content-Length, which is passed on; without one the response ends with the connection, and a Unix socket cannot signal a reset.
#[tokio::test]
async fn a_response_cut_off_by_its_target_has_no_terminator() {
    let old = "GET http://web.example/ HTTP/1.0\r\n\r\n";
    for (request, answer, reset, told) in [
        (GET, "HTTP/1.1 200 OK\r\n\r\nhalf", true, "transfer-encoding: chunked"),
        (GET, "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", false, "content-length: 10"),
        (
            GET,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            false,
            "transfer-encoding: chunked",
        ),
        (old, "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", false, "content-length: 10"),
        (old, "HTTP/1.1 200 OK\r\n\r\nhalf", true, "connection: close"),
    ] {
        let listener = TcpListener::bind(any()).await.expect("binds");
        let proxy = Proxy::start(settings(&[("web.example:80", listener.local_addr().expect("an address"))]));
        let mut client = proxy.connect().await;
        client.write_all(request.as_bytes()).await.expect("writes");
        let (mut target, _) = listener.accept().await.expect("accepts");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(tokio::io::AsyncReadExt::read_u8(&mut target).await.expect("a request"));
        }
        target.write_all(answer.as_bytes()).await.expect("writes");
        let mut seen = read_head(&mut client).await;
        // The bytes sent so far arrive before the connection is reset.
        while !seen.contains("half") {
            seen.push(char::from(tokio::io::AsyncReadExt::read_u8(&mut client).await.expect("a body")));
        }
        if reset {
            target.set_zero_linger().expect("lingers not");
        }
        drop(target);
        seen += &read_all(&mut client).await;
        assert!(seen.contains(told) && !seen.contains("0\r\n\r\n"), "{request} {answer}: {seen}");
        assert_eq!(proxy.record().await.decision, Decision::Failed("reset"), "{request} {answer}");
    }
    // Control: a response that ends with an orderly close is complete.
    let listener = TcpListener::bind(any()).await.expect("binds");
    let proxy = Proxy::start(settings(&[("web.example:80", listener.local_addr().expect("an address"))]));
    let target = async {
        let (mut target, _) = listener.accept().await.expect("accepts");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(tokio::io::AsyncReadExt::read_u8(&mut target).await.expect("a request"));
        }
        target.write_all(b"HTTP/1.1 200 OK\r\n\r\nwhole").await.expect("writes");
    };
    let (told, ()) = tokio::join!(proxy.talk(GET), target);
    assert!(told.contains("whole") && told.ends_with("0\r\n\r\n"), "{told}");
}

#[tokio::test]
async fn an_oversized_body_is_refused() {
    let peer = Peer::content().await;
    let proxy = with(Limits { body: 10, ..Limits::default() }, &peer);
    let head = "POST http://web.example/ HTTP/1.1\r\nhost: web.example\r\nconnection: close\r\n";
    assert!(proxy.talk(format!("{head}content-length: 10\r\n\r\n0123456789")).await.starts_with("HTTP/1.1 200 "));
    let answer = proxy.talk(format!("{head}content-length: 11\r\n\r\n0123456789x")).await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("body_too_large"), "{answer}");
}

#[tokio::test]
async fn requests_beyond_the_limit_get_retry_after() {
    let silent = Peer::answering("").await;
    let proxy = with(Limits { concurrent: 2, connections: 4, ..Limits::default() }, &silent);
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = proxy.connect().await;
        stream.write_all(GET.as_bytes()).await.expect("writes");
        held.push(stream);
    }
    eventually("both are at the target", || silent.connections() == 2).await;
    let answer = proxy.talk(GET).await;
    assert!(answer.starts_with("HTTP/1.1 429 ") && answer.contains("retry-after: 1"), "{answer}");
    assert!(answer.contains(r#""reason":"too_many_requests""#), "{answer}");
    // Idle connections count as connections, not as requests.
    let idle = [proxy.connect().await, proxy.connect().await];
    let answer = read_all(&mut proxy.connect().await).await;
    assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
    drop((idle, held));
    // A client that disconnects frees its slot.
    let peer = Peer::content().await;
    let proxy = with(Limits { concurrent: 1, ..Limits::default() }, &peer);
    for _ in 0..3 {
        assert!(proxy.talk(GET).await.starts_with("HTTP/1.1 200 "));
    }
}

/// A client that disconnects before the response cancels its request; the proxy does not continue it.
#[tokio::test]
async fn a_client_disconnect_cancels_its_request() {
    let silent = Peer::answering("").await;
    let proxy = with(Limits::default(), &silent);
    let mut stream = proxy.connect().await;
    stream.write_all(GET.as_bytes()).await.expect("writes");
    silent.has_seen("\r\n\r\n").await;
    drop(stream);
    assert_eq!(proxy.record().await.decision, Decision::Failed("client_gone"));
}

/// Each kind of failure on the way to a target has its own reason.
#[tokio::test]
async fn failures_of_a_target_have_distinct_reasons() {
    for (answer, reason) in
        [("no HTTP at all\r\n\r\n", "protocol"), ("HTTP/1.1 200 OK\r\nbad header\r\n\r\n", "protocol")]
    {
        let peer = Peer::answering(answer).await;
        let told = with(Limits::default(), &peer).talk(GET).await;
        assert!(told.starts_with("HTTP/1.1 502 ") && told.contains(reason), "{answer}: {told}");
    }
    let listener = TcpListener::bind(any()).await.expect("binds");
    let proxy = Proxy::start(settings(&[("web.example:80", listener.local_addr().expect("an address"))]));
    let (told, ()) = tokio::join!(proxy.talk(GET), async {
        let (mut target, _) = listener.accept().await.expect("accepts");
        let mut byte = [0];
        tokio::io::AsyncReadExt::read_exact(&mut target, &mut byte).await.expect("a request");
    });
    assert!(told.starts_with("HTTP/1.1 502 ") && told.contains(r#""reason":"reset""#), "{told}");
    // Connecting times out: the target's accept queue is full and is never emptied.
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    full.bind(&any().into()).expect("binds");
    full.listen(0).expect("listens");
    let addr = full.local_addr().expect("an address").as_socket().expect("of the internet");
    let mut waiting = Vec::new();
    while let Ok(stream) = tokio::time::timeout(Duration::from_millis(100), tokio::net::TcpStream::connect(addr)).await
    {
        waiting.push(stream.expect("connects"));
    }
    let mut nowhere = settings(&[("web.example:80", addr)]);
    nowhere.limits.connect = Duration::from_millis(100);
    let told = Proxy::start(nowhere).talk(GET).await;
    assert!(told.starts_with("HTTP/1.1 504 ") && told.contains("connect_timeout"), "{told}");
}

/// Row 20, last part: many idle connections and tunnels are all served, and all are gone afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn idle_clients_do_not_keep_others_out() {
    let peer = Peer::content().await;
    let limits = Limits { concurrent: 400, connections: 400, descriptors: 4000, ..Limits::default() };
    let proxy = with(limits, &peer);
    let mut idle = Vec::new();
    for n in 0..300 {
        let mut stream = proxy.connect().await;
        if n % 2 == 0 {
            stream.write_all(b"CONNECT web.example:80 HTTP/1.1\r\nhost: web.example\r\n\r\n").await.expect("writes");
            assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 200 "));
        }
        idle.push(stream);
    }
    assert_eq!(proxy.egress.open_tunnels(), 150);
    assert!(proxy.talk(GET).await.starts_with("HTTP/1.1 200 "));
    drop(idle);
    eventually("no tunnel is open", || proxy.egress.open_tunnels() == 0).await;
}

/// Connections beyond the limit use few descriptors, however many there are.
#[tokio::test]
async fn a_flood_of_connections_is_dropped() {
    let peer = Peer::content().await;
    let proxy = with(Limits { connections: 4, ..Limits::default() }, &peer);
    let before = descriptors();
    let mut flood = Vec::new();
    for _ in 0..300 {
        flood.push(proxy.connect().await);
    }
    // Connections are accepted in their order: once the last one is refused or dropped, all have been.
    let mut last = flood.pop().expect("a connection");
    let _refused_or_reset = tokio::time::timeout(DEADLINE, last.read_to_end(&mut Vec::new())).await.expect("in time");
    flood.push(last);
    // The clients' ends, and of the proxy's ends the four that are served and the four that are being refused.
    eventually("the rest is dropped", || descriptors() <= before + 300 + 4 + 4).await;
    // Four connections at a time get a refusal and are drained for a while; all others are closed at once.
    let told: u64 = proxy.records.all().iter().map(|record| record.count).sum();
    assert!((4..150).contains(&told), "{told} were refused");
    drop(flood);
    eventually("all are gone", || descriptors() <= before).await;
    proxy.serves_again(GET).await;
}

/// A client that sends requests and does not read the refusal is disconnected as soon as one that sends nothing.
#[tokio::test]
async fn a_client_that_does_not_read_its_refusal_is_disconnected() {
    let peer = Peer::content().await;
    let limits = Limits { connections: 1, idle: Duration::from_millis(200), ..Limits::default() };
    let proxy = with(limits, &peer);
    let mut greedy = proxy.connect().await;
    let denied = b"GET http://evil.example/ HTTP/1.1\r\nhost: evil.example\r\n\r\n".repeat(200);
    let flood = async { while greedy.write_all(&denied).await.is_ok() {} };
    tokio::time::timeout(DEADLINE, flood).await.expect("it is let go");
    drop(greedy);
    eventually("its place is free", || proxy.records.all().len() > 1).await;
    proxy.serves_again(GET).await;
}

/// A transfer coding applies to one hop (RFC 9112, 7). A body in a coding that the proxy cannot decode is not passed on as if
/// it had none.
#[tokio::test]
async fn an_unknown_transfer_coding_is_a_protocol_error() {
    let peer = Peer::answering("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n2\r\nxx\r\n0\r\n\r\n").await;
    let told = with(Limits::default(), &peer).talk(GET).await;
    assert!(told.starts_with("HTTP/1.1 502 ") && told.contains(r#""reason":"protocol""#), "{told}");
}

/// However many targets there are, only a limited number of idle connections is kept.
#[tokio::test]
async fn kept_connections_are_limited_in_number() {
    let peer = Peer::content().await;
    let names: Vec<String> = (0..300).map(|n| format!("n{n}.example:80")).collect();
    let hosts: Vec<(&str, std::net::SocketAddr)> = names.iter().map(|name| (name.as_str(), peer.addr())).collect();
    let proxy = Proxy::start(settings(&hosts));
    let before = descriptors();
    for n in 0..300 {
        let request = format!("GET http://n{n}.example/ HTTP/1.1\r\nhost: n{n}.example\r\nconnection: close\r\n\r\n");
        assert!(proxy.talk(request).await.starts_with("HTTP/1.1 200 "));
    }
    // Both ends of each connection are in this process.
    eventually("at most 64 are kept", || descriptors() <= before + 2 * 64).await;
    assert!(descriptors() >= before + 100, "the control: some are");
}
