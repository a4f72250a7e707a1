//! Sends a hundred thousand valid and invalid requests and checks that nothing leaks. `NAGAYA_SOAK` sets another number.

use std::sync::atomic::{AtomicUsize, Ordering};

use nagaya_egress::{Decision, Limits, Settings};
use nagaya_fixtures::origin::Kind;
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::peer::Peer;
use crate::support::{DEADLINE, Proxy, descriptors, eventually, origin, settings};

/// Number of concurrent clients.
const CLIENTS: usize = 24;
/// By how much the resident memory may grow, in bytes. An allocator keeps some memory; a leak grows with the number of requests.
const SLACK: usize = 16 << 20;
/// Number of requests in one part of the test.
const PART: usize = 10_000;

const POST: &str = "POST http://web.example/echo HTTP/1.1\r\nhost: web.example\r\nconnection: close\r\n";

/// A random request: the bytes to send, and the statuses that may answer it; none if the client leaves before the answer.
fn request(random: &mut SmallRng) -> (Vec<u8>, &'static [&'static str]) {
    let text = |text: String, statuses: &'static [&'static str]| (text.into_bytes(), statuses);
    let size = random.random_range(0..20_000);
    match random.random_range(0..14) {
        0..3 => text("GET http://web.example/bytes/2000 HTTP/1.1\r\nhost: web.example\r\nconnection: close\r\n\r\n".into(), &["200"]),
        3 => text(format!("{POST}content-length: {size}\r\n\r\n{}", "x".repeat(size)), &["200"]),
        4 => text(format!("{POST}transfer-encoding: chunked\r\n\r\n{:x}\r\n{}\r\n0\r\n\r\n", size + 1, "x".repeat(size + 1)), &["200"]),
        5 => text(format!("CONNECT echo.example:7 HTTP/1.1\r\nhost: echo.example:7\r\n\r\n{}", "y".repeat(size)), &["200"]),
        6 => text("CONNECT evil.example:443 HTTP/1.1\r\nhost: evil.example\r\n\r\n".into(), &["403"]),
        7 => text("GET http://169.254.169.254/ HTTP/1.1\r\nhost: 169.254.169.254\r\n\r\n".into(), &["403"]),
        8 => text("GET http://gone.example/ HTTP/1.1\r\nhost: gone.example\r\n\r\n".into(), &["502"]),
        9 => text("GET http://junk.example/ HTTP/1.1\r\nhost: junk.example\r\n\r\n".into(), &["502"]),
        10 => text("POST http://web.example/ HTTP/1.1\r\nhost: web.example\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n".into(), &["400"]),
        11 => {
            let mut junk = vec![0; size / 10];
            random.fill_bytes(&mut junk);
            (junk, &["400", "431", ""])
        }
        // Clients that leave in the middle of a head, a body or a response.
        12 => text("GET http://web.example/bytes/1000000 HTTP/1.1\r\nhost: web.example\r\n\r\n".into(), &[]),
        _ => text(format!("POST http://web.example/echo HTTP/1.1\r\nhost: web.example\r\ncontent-length: 50000\r\n\r\n{}", "z".repeat(size)), &[]),
    }
}

async fn client(proxy: &Proxy, random: &mut SmallRng) {
    let (sent, statuses) = request(random);
    let mut stream = proxy.connect().await;
    let (mut read, mut write) = stream.split();
    if statuses.is_empty() {
        // Reads a part of the response, if there is any, and leaves.
        let _ = write.write_all(&sent).await;
        if random.random_bool(0.5) {
            let mut some = [0; 64];
            let _ = tokio::time::timeout(std::time::Duration::from_millis(1), read.read(&mut some)).await;
        }
        return;
    }
    let mut answer = Vec::new();
    let (_, all) = tokio::join!(
        async {
            // A proxy that refuses does not wait for the rest.
            let _ = write.write_all(&sent).await;
            let _ = write.shutdown().await;
        },
        tokio::time::timeout(DEADLINE, read.read_to_end(&mut answer))
    );
    all.expect("in time").expect("reads");
    let status = answer.get(9..12).map(|status| String::from_utf8_lossy(status).into_owned()).unwrap_or_default();
    let told = String::from_utf8_lossy(&answer[..answer.len().min(300)]).into_owned();
    assert!(statuses.contains(&status.as_str()), "{:?}: {told}", String::from_utf8_lossy(&sent[..sent.len().min(200)]));
}

async fn run(proxy: &Proxy, count: usize, seed: u64) {
    let left = AtomicUsize::new(count);
    let clients = (0..CLIENTS).map(|n| {
        let left = &left;
        async move {
            let mut random = SmallRng::seed_from_u64(seed.wrapping_mul(31).wrapping_add(n as u64));
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                client(proxy, &mut random).await;
            }
        }
    });
    futures::future::join_all(clients).await;
}

/// Resident memory of this process, in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("reads");
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("pages") * 4096
}

#[tokio::test(flavor = "multi_thread")]
async fn good_and_bad_requests_leave_nothing_behind() {
    let count: usize =
        std::env::var("NAGAYA_SOAK").ok().map_or(100_000, |count| count.parse().expect("NAGAYA_SOAK is a number"));
    let seed = rand::random();
    eprintln!("{count} requests, seed {seed}");
    let (web, echo, junk) =
        (origin(Kind::Http).await, origin(Kind::RawEcho).await, Peer::answering("no HTTP at all").await);
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("binds").local_addr().expect("an address");
    let settings = settings(&[
        ("web.example:80", web.addr()),
        ("echo.example:7", echo.addr()),
        ("gone.example:80", nobody),
        ("junk.example:80", junk.addr()),
    ]);
    let mut proxy = Proxy::start(Settings {
        limits: Limits { denials: u32::MAX, denials_burst: u32::MAX, ..Limits::default() },
        ..settings
    });
    // Afterwards, everything that is allocated only once has been allocated.
    run(&proxy, 2 * PART, seed).await;
    let calm = async || {
        eventually("no tunnel is open", || proxy.egress.open_tunnels() == 0).await;
        eventually("every request has its record", || {
            proxy.records.all().iter().all(|record| record.decision != Decision::Failed("stopped"))
        })
        .await;
    };
    calm().await;
    proxy.records.clear();
    let (tasks, memory) = (tokio::runtime::Handle::current().metrics().num_alive_tasks(), resident());
    let open = descriptors();
    // In parts, since this test itself remembers every request of a part.
    for part in 1..=count.div_ceil(PART) as u64 {
        run(&proxy, PART, seed.wrapping_add(part)).await;
        calm().await;
        proxy.records.clear();
    }
    // Kept connections to targets vary in number; there are no more of them than clients.
    eventually("descriptors are as they were", || descriptors() <= open + 2 * CLIENTS).await;
    eventually("tasks are as they were", || {
        tokio::runtime::Handle::current().metrics().num_alive_tasks() <= tasks + 2 * CLIENTS
    })
    .await;
    let grown = resident().saturating_sub(memory);
    eprintln!("memory grew by {grown} bytes");
    assert!(grown < SLACK, "memory grew by {grown} bytes");
    // The proxy still serves requests.
    assert!(
        proxy
            .talk("GET http://web.example/ HTTP/1.1\r\nhost: web.example\r\nconnection: close\r\n\r\n")
            .await
            .starts_with("HTTP/1.1 200 ")
    );
    let before = descriptors();
    proxy.listener.take().expect("open").stop(DEADLINE).await;
    eventually("what was kept is closed", || descriptors() < before).await;
}
