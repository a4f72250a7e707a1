//! Tunnels deliver all bytes in both directions, and close each direction on its own.

use std::time::Duration;

use nagaya_egress::{Decision, Limits};
use nagaya_fixtures::origin::Kind;
use proptest::prelude::*;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use crate::support::{DEADLINE, Proxy, any, descriptors, eventually, origin, read_all, read_head, settings};

const REQUEST: &[u8] = b"CONNECT t.example:9 HTTP/1.1\r\nhost: t.example:9\r\n\r\n";

/// Opens a tunnel; returns both ends.
async fn tunnel(proxy: &Proxy, target: &TcpListener) -> (UnixStream, TcpStream) {
    let mut stream = proxy.connect().await;
    stream.write_all(REQUEST).await.expect("writes");
    let (target, _) = tokio::time::timeout(DEADLINE, target.accept()).await.expect("in time").expect("accepts");
    assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 200 "));
    (stream, target)
}

async fn between(limits: Limits) -> (Proxy, TcpListener) {
    let target = TcpListener::bind(any()).await.expect("binds");
    let mut settings = settings(&[("t.example:9", target.local_addr().expect("an address"))]);
    settings.limits = limits;
    (Proxy::start(settings), target)
}

/// Row 12, first half: closing one direction leaves the other open.
#[tokio::test]
async fn each_direction_closes_independently() {
    let (proxy, target) = between(Limits::default()).await;
    let large = vec![b'x'; 3 << 20];
    // The client closes first.
    let (mut near, mut far) = tunnel(&proxy, &target).await;
    near.write_all(b"question").await.expect("writes");
    near.shutdown().await.expect("closes");
    let mut question = String::new();
    far.read_to_string(&mut question).await.expect("reads to the end");
    assert_eq!(question, "question");
    let (sent, received) = tokio::join!(
        async {
            far.write_all(&large).await.expect("the other half is open");
            far.shutdown().await.expect("closes");
        },
        read_all(&mut near)
    );
    let () = sent;
    assert!(received.as_bytes() == large, "{} bytes of {}", received.len(), large.len());
    // The target closes first.
    let (mut near, mut far) = tunnel(&proxy, &target).await;
    far.write_all(b"greeting").await.expect("writes");
    far.shutdown().await.expect("closes");
    assert_eq!(read_all(&mut near).await, "greeting");
    let mut received = Vec::new();
    let (sent, read) = tokio::join!(
        async {
            near.write_all(&large).await.expect("the other half is open");
            near.shutdown().await.expect("closes");
        },
        far.read_to_end(&mut received)
    );
    let () = sent;
    read.expect("reads");
    assert!(received == large, "{} bytes of {}", received.len(), large.len());
    eventually("both are told as allowed", || {
        let records = proxy.records.all();
        records.len() == 2 && records.iter().all(|record| record.decision == Decision::Allowed)
    })
    .await;
}

/// Row 12, second half: a direction that is never closed does not keep the tunnel open for ever.
#[tokio::test]
async fn a_half_open_tunnel_is_closed_after_a_while() {
    let drain = Duration::from_millis(200);
    let (proxy, target) = between(Limits { drain, ..Limits::default() }).await;
    let before = descriptors();
    let (mut near, mut far) = tunnel(&proxy, &target).await;
    far.shutdown().await.expect("closes its half");
    assert_eq!(read_all(&mut near).await, "");
    assert_eq!(proxy.egress.open_tunnels(), 1, "the other half is still open");
    eventually("it is over", || proxy.egress.open_tunnels() == 0).await;
    drop((near, far));
    eventually("descriptors are back", || descriptors() <= before).await;
    assert_eq!(proxy.record().await.decision, Decision::Allowed);
}

#[tokio::test]
async fn an_idle_tunnel_is_closed() {
    let (proxy, target) = between(Limits { idle: Duration::from_millis(200), ..Limits::default() }).await;
    let (mut near, _far) = tunnel(&proxy, &target).await;
    assert_eq!(read_all(&mut near).await, "");
    assert_eq!(proxy.record().await.decision, Decision::Failed("idle_timeout"));
}

#[tokio::test]
async fn a_reset_on_one_side_closes_both() {
    let (proxy, target) = between(Limits::default()).await;
    let (mut near, far) = tunnel(&proxy, &target).await;
    // With SO_LINGER set to zero, closing resets the connection.
    socket2::SockRef::from(&far).set_linger(Some(Duration::ZERO)).expect("an option");
    drop(far);
    let _ = near.read_to_end(&mut Vec::new()).await;
    drop(near);
    eventually("it is over", || proxy.egress.open_tunnels() == 0).await;
    assert_eq!(proxy.record().await.decision, Decision::Failed("reset"));

    let (near, mut far) = tunnel(&proxy, &target).await;
    drop(near);
    let mut rest = Vec::new();
    tokio::time::timeout(DEADLINE, far.read_to_end(&mut rest)).await.expect("in time").expect("an end");
    drop(far);
    eventually("it is over", || proxy.egress.open_tunnels() == 0).await;
}

/// Row 18 for tunnels: a client that does not read delays only itself, and costs a buffer or two.
#[tokio::test]
async fn a_slow_reader_delays_only_itself() {
    let echo = origin(Kind::RawEcho).await;
    let proxy = Proxy::start(settings(&[("t.example:9", echo.addr())]));
    let mut stuck = Vec::new();
    for _ in 0..20 {
        let mut stream = proxy.connect().await;
        stream.write_all(REQUEST).await.expect("writes");
        assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 200 "));
        // Writes until the buffers are full, without reading.
        let full = async { while stream.write_all(&[0; 65536]).await.is_ok() {} };
        assert!(tokio::time::timeout(Duration::from_millis(50), full).await.is_err(), "it is stuck");
        stuck.push(stream);
    }
    let mut stream = proxy.connect().await;
    stream.write_all(&[REQUEST, b"hello"].concat()).await.expect("writes");
    stream.shutdown().await.expect("closes");
    assert!(read_all(&mut stream).await.ends_with("\r\n\r\nhello"));
}

/// Sends in pieces of these sizes, with a pause where a size is zero; returns the hash of all.
async fn send(mut to: impl AsyncWriteExt + Unpin, sizes: &[usize], seed: u8) -> Vec<u8> {
    let mut hash = Sha256::new();
    for (n, size) in sizes.iter().enumerate() {
        if *size == 0 {
            tokio::task::yield_now().await;
            continue;
        }
        let piece: Vec<u8> = (0..*size).map(|at| seed ^ u8::try_from((at * 31 + n) % 251).expect("small")).collect();
        hash.update(&piece);
        to.write_all(&piece).await.expect("writes");
    }
    to.shutdown().await.expect("closes its half");
    hash.finalize().to_vec()
}

async fn receive(mut from: impl AsyncReadExt + Unpin, room: usize) -> Vec<u8> {
    let (mut hash, mut bytes) = (Sha256::new(), vec![0; room]);
    loop {
        match from.read(&mut bytes).await.expect("reads") {
            0 => return hash.finalize().to_vec(),
            read => hash.update(&bytes[..read]),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// A tunnel delivers exactly the bytes sent, however they are split, delayed and ended.
    #[test]
    fn a_tunnel_delivers_the_bytes_it_was_sent(
        up in proptest::collection::vec(prop_oneof![Just(0usize), 1usize..200, 1usize..300_000], 0..12),
        down in proptest::collection::vec(prop_oneof![Just(0usize), 1usize..200, 1usize..300_000], 0..12),
        rooms in (1usize..70_000, 1usize..70_000),
        early in 0usize..5000,
        budget in prop_oneof![Just(0usize), Just(64usize << 20)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let (proxy, target) = between(Limits { buffers: budget, ..Limits::default() }).await;
            let early = vec![b'e'; early];
            let mut near = proxy.connect().await;
            near.write_all(&[REQUEST, &early].concat()).await.expect("writes");
            let (mut far, _) = target.accept().await.expect("accepts");
            assert!(read_head(&mut near).await.starts_with("HTTP/1.1 200 "));
            let mut first = vec![0; early.len()];
            if early.is_empty() {
                // If the client sends nothing, the target may begin.
            } else {
                far.read_exact(&mut first).await.expect("reads");
            }
            assert_eq!(first, early);
            let (near_read, near_write) = near.split();
            let (far_read, far_write) = far.split();
            let all = async {
                tokio::join!(send(near_write, &up, 1), receive(far_read, rooms.0), send(far_write, &down, 2), receive(near_read, rooms.1))
            };
            let (sent_up, got_up, sent_down, got_down) = tokio::time::timeout(DEADLINE, all).await.expect("in time");
            assert_eq!(sent_up, got_up);
            assert_eq!(sent_down, got_down);
            let record = proxy.record().await;
            let total = |sizes: &[usize]| sizes.iter().sum::<usize>() as u64;
            assert_eq!((record.bytes_up, record.bytes_down), (total(&up) + early.len() as u64, total(&down)));
        });
    }
}
