//! A policy that changes while requests are made: what holds from when on, and what ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nagaya_egress::{Decision, Policy};
use nagaya_fixtures::origin::Kind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use crate::peer::Peer;
use crate::support::{DEADLINE, Proxy, any, ask, eventually, origin, policy, read_all, read_head, settings, tenant};

const HOST: &str = "web.example";
/// Within what time a change holds everywhere.
const SOON: Duration = Duration::from_millis(50);

fn get(path: &str) -> String {
    format!("GET http://{HOST}{path} HTTP/1.1\r\nhost: {HOST}\r\n\r\n")
}

#[tokio::test]
async fn a_new_policy_holds_for_the_next_request_on_open_connections() {
    let peer = Peer::content().await;
    let proxy = Proxy::start(settings(&[("web.example:80", peer.addr())]));
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(proxy.connect().await);
    }
    let policies = [
        (policy("one", &["web.example"]), None),
        (policy("two", &["web.example /only"]), Some("path_not_allowed")),
        (Arc::new(Policy::closed()), Some("closed")),
        (policy("three", &["web.example GET"]), None),
    ];
    for (policy, reason) in policies {
        proxy.own().apply(policy);
        for stream in &mut streams {
            let (head, body) = ask(stream, &get("/x")).await;
            match reason {
                None => assert!(head.starts_with("HTTP/1.1 200 "), "{head}"),
                Some(reason) => assert!(body.contains(reason), "{reason}: {head}{body}"),
            }
        }
    }
}

/// Identity and policy change together: no request is recorded for one tenant and judged by another's policy, and every connection
/// has the new one at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_swapped_under_load_is_never_mixed_up() {
    let peer = Peer::content().await;
    let mut settings = settings(&[("web.example:80", peer.addr())]);
    // Refusals are answered at once.
    (settings.limits.denials, settings.limits.denials_burst) = (1_000_000, 1_000_000);
    let proxy = Proxy::start(settings);
    let both = [policy("a", &["web.example /a"]), policy("b", &["web.example /b"])];
    proxy.own().assign(tenant("a"), both[0].clone());
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (socket, stop) = (proxy.socket(), stop.clone());
            tokio::spawn(async move {
                let mut stream = UnixStream::connect(&socket).await.expect("connects");
                while !stop.load(Ordering::Relaxed) {
                    for path in ["/a", "/b"] {
                        let (mut answer, mut chunk) = (Vec::new(), [0; 4096]);
                        stream.write_all(get(path).as_bytes()).await.expect("writes");
                        // A request in progress ends with its owner, and its connection with it.
                        while !answer.ends_with(b"ok") && !answer.ends_with(b"}") {
                            let read = tokio::time::timeout(DEADLINE, stream.read(&mut chunk)).await.expect("in time");
                            match read {
                                Ok(read @ 1..) => answer.extend_from_slice(&chunk[..read]),
                                Ok(0) | Err(_) => {
                                    stream = UnixStream::connect(&socket).await.expect("connects");
                                    break;
                                }
                            }
                        }
                    }
                }
            })
        })
        .collect();
    let (mut probe, mut took) = (proxy.connect().await, Vec::new());
    for round in 0..60 {
        let (index, other) = (round % 2, (round + 1) % 2);
        let paths = ["/a", "/b"];
        proxy.own().assign(tenant(["a", "b"][index]), both[index].clone());
        let assigned = Instant::now();
        let (head, _) = ask(&mut probe, &get(paths[index])).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{round}: {head}");
        assert!(ask(&mut probe, &get(paths[other])).await.1.contains("path_not_allowed"), "{round}");
        took.push(assigned.elapsed());
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("no client failed");
    }
    took.sort_unstable();
    assert!(took[took.len() / 2] < SOON, "two requests by the new policy, under load: {took:?}");
    let records = proxy.records.all();
    assert!(records.len() > 200, "the load: {}", records.len());
    for record in &records {
        assert_eq!(record.identity.tenant.as_deref(), record.policy.as_deref(), "{record:?}");
    }
}

/// All open listeners see an update at once.
#[tokio::test]
async fn every_open_listener_sees_an_update_at_once() {
    let proxy = Proxy::start(settings(&[]));
    let listeners: Vec<_> = (0..200).map(|_| proxy.another_as(tenant("a"))).collect();
    let update = policy("update", &["web.example"]);
    let began = Instant::now();
    for (_, listener, _) in &listeners {
        listener.apply(update.clone());
    }
    let took = began.elapsed();
    assert!(listeners.iter().all(|(_, listener, _)| Arc::ptr_eq(&listener.policy(), &update)));
    assert!(took < SOON, "{took:?}");
    for (_dir, listener, _) in listeners {
        listener.stop(DEADLINE).await;
    }
}

async fn tunnel(proxy: &Proxy, target: &str) -> UnixStream {
    let mut stream = proxy.connect().await;
    let head = format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("writes");
    assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 200 "));
    stream
}

async fn echoes(stream: &mut UnixStream) {
    stream.write_all(b"ping").await.expect("writes");
    let mut back = [0; 4];
    tokio::time::timeout(DEADLINE, stream.read_exact(&mut back)).await.expect("in time").expect("reads");
    assert_eq!(&back, b"ping");
}

#[tokio::test]
async fn tunnels_that_are_no_longer_allowed_end_when_asked() {
    let echo = origin(Kind::RawEcho).await;
    let proxy = Proxy::start(settings(&[("kept.example:7", echo.addr()), ("ended.example:7", echo.addr())]));
    proxy.own().apply(policy("one", &["*.example:7"]));
    let (mut kept, mut ended) = (tunnel(&proxy, "kept.example:7").await, tunnel(&proxy, "ended.example:7").await);
    echoes(&mut kept).await;
    proxy.own().apply(policy("two", &["kept.example:7"]));
    echoes(&mut ended).await;
    proxy.own().close_tunnels();
    assert_eq!(read_all(&mut ended).await, "");
    echoes(&mut kept).await;
    let record = proxy.record().await;
    assert_eq!((record.host.as_str(), record.decision), ("ended.example", Decision::Denied("policy_changed")));
}

/// A request, and its answer as far as its head.
async fn streaming(proxy: &Proxy, target: &TcpListener, host: &str) -> (UnixStream, TcpStream) {
    let mut client = proxy.connect().await;
    let request = format!("GET http://{host}/ HTTP/1.1\r\nhost: {host}\r\n\r\n");
    client.write_all(request.as_bytes()).await.expect("writes");
    let (mut stream, _) = tokio::time::timeout(DEADLINE, target.accept()).await.expect("in time").expect("accepts");
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf").await.expect("writes");
    read_head(&mut client).await;
    let mut half = [0; 4];
    tokio::time::timeout(DEADLINE, client.read_exact(&mut half)).await.expect("in time").expect("reads");
    (client, stream)
}

#[tokio::test]
async fn streams_that_are_no_longer_allowed_end_when_asked() {
    let target = TcpListener::bind(any()).await.expect("binds");
    let address = target.local_addr().expect("an address");
    let proxy = Proxy::start(settings(&[("kept.example:80", address), ("ended.example:80", address)]));
    let (mut kept, mut kept_far) = streaming(&proxy, &target, "kept.example").await;
    let (mut ended, _ended_far) = streaming(&proxy, &target, "ended.example").await;
    proxy.own().apply(policy("two", &["kept.example"]));
    proxy.own().close_tunnels();
    assert_eq!(read_all(&mut ended).await, "", "it is cut");
    kept_far.write_all(b"done").await.expect("writes");
    let mut rest = [0; 4];
    tokio::time::timeout(DEADLINE, kept.read_exact(&mut rest)).await.expect("in time").expect("reads");
    assert_eq!(&rest, b"done");
    eventually("both records", || proxy.records.all().len() == 2).await;
    let ended = proxy.records.all().into_iter().find(|record| record.host == "ended.example").expect("a record");
    assert_eq!((ended.decision, ended.status), (Decision::Denied("policy_changed"), 200));
}

/// Another owner gets nothing of the previous one: no connection to a target, no tunnel, no answer.
#[tokio::test]
async fn another_owner_inherits_nothing() {
    let (peer, echo) = (Peer::content().await, origin(Kind::RawEcho).await);
    let proxy = Proxy::start(settings(&[("web.example:80", peer.addr()), ("echo.example:7", echo.addr())]));
    let all = policy("all", &["*.example", "*.example:7"]);
    proxy.own().assign(tenant("a"), all.clone());
    let mut stream = proxy.connect().await;
    for _ in 0..2 {
        ask(&mut stream, &get("/")).await;
    }
    assert_eq!(peer.connections(), 1, "the control: it is kept");
    let mut open = tunnel(&proxy, "echo.example:7").await;
    echoes(&mut open).await;
    // The same owner with the same policy keeps both.
    proxy.own().assign(tenant("a"), all.clone());
    echoes(&mut open).await;
    ask(&mut stream, &get("/")).await;
    assert_eq!(peer.connections(), 1);
    proxy.own().assign(tenant("b"), all);
    assert_eq!(read_all(&mut open).await, "");
    ask(&mut stream, &get("/")).await;
    assert_eq!(peer.connections(), 2, "the kept one is not used");
}

/// Outside runs, with the same policy, only what is for runs is refused.
#[tokio::test]
async fn a_listener_may_begin_closed() {
    let peer = Peer::content().await;
    let proxy = Proxy::start(settings(&[("web.example:80", peer.addr())]));
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("proxy.sock");
    let socket = tokio::net::UnixListener::bind(&path).expect("binds");
    let warm = proxy.egress.open_with(socket, tenant("nobody"), Arc::new(Policy::closed()));
    let mut stream = UnixStream::connect(&path).await.expect("connects");
    assert!(ask(&mut stream, &get("/")).await.1.contains("closed"));
    warm.assign(tenant("a"), policy("a", &["web.example"]));
    assert_eq!(ask(&mut stream, &get("/")).await.1, "ok");
    warm.stop(DEADLINE).await;
}
