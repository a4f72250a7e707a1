//! Budgets: however much one room uses, another tenant's room gets the resources it needs.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nagaya_egress::{Decision, Identity, Limits, Listener, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::peer::Peer;
use crate::signing::{HOST, Verifier};
use crate::support::{DEADLINE, Proxy, descriptors, eventually, read_all, settings};

const GET: &str = "GET http://web.example/ HTTP/1.1\r\nhost: web.example\r\nconnection: close\r\n\r\n";
const DENIED: &str = "GET http://evil.example/ HTTP/1.1\r\nhost: evil.example\r\n\r\n";

struct Room {
    _dir: tempfile::TempDir,
    _listener: Listener,
    path: PathBuf,
}

impl Room {
    fn open(proxy: &Proxy, name: &str, tenant: &str) -> Self {
        let identity = Identity { workspace: name.into(), conversation: None, tenant: Some(tenant.into()) };
        let (dir, listener, path) = proxy.another_as(identity);
        Self { _dir: dir, _listener: listener, path }
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.path).await.expect("connects")
    }

    async fn ask(&self, request: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect().await;
        let (mut read, mut write) = stream.split();
        let mut answer = Vec::new();
        let (_, all) = tokio::join!(write.write_all(request.as_ref()), read.read_to_end(&mut answer));
        all.expect("reads");
        String::from_utf8_lossy(&answer).into_owned()
    }
}

/// Four rooms fill their share of the budget for held bodies; another tenant's calls still succeed without delay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn held_bodies_of_four_rooms_leave_space_for_another_tenant() {
    let verifier = Verifier::start(None, 0).await;
    // A twentieth of the defaults, so that the test writes megabytes and not gigabytes.
    let defaults = Limits::default();
    let limits = Limits {
        held_in_memory: defaults.held_in_memory / 20,
        held_on_disk: defaults.held_on_disk / 20,
        reserved_in_memory: defaults.reserved_in_memory / 20,
        reserved_on_disk: defaults.reserved_on_disk / 20,
        signed_body: defaults.signed_body / 20,
        ..defaults
    };
    let proxy = verifier.proxy("execute-api", limits);
    let mine = Room::open(&proxy, "mine", "mine");
    let hostile: Vec<Room> = (0..4).map(|n| Room::open(&proxy, &format!("hostile-{n}"), "theirs")).collect();
    let length = limits.signed_body as usize;
    let head = format!("POST http://{HOST}/ HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n");
    let begun = [format!("{head}content-length: {length}\r\n\r\n").as_bytes(), &vec![b'x'; length - 1]].concat();
    let mut held = Vec::new();
    for room in &hostile {
        // Writes until the room is refused.
        let mut refused = false;
        for _ in 0..10 {
            let mut stream = room.connect().await;
            let (mut read, mut write) = stream.split();
            let mut answer = [0; 12];
            tokio::select! {
                written = write.write_all(&begun) => written.expect("writes"),
                told = read.read_exact(&mut answer) => { told.expect("reads"); refused = true; }
            }
            held.push(stream);
            if refused {
                break;
            }
        }
    }
    for round in 0..3 {
        let body = vec![b'y'; limits.reserved_on_disk as usize];
        let request = [format!("{head}content-length: {}\r\n\r\n", body.len()).as_bytes(), &body].concat();
        let began = Instant::now();
        let answer = mine.ask(&request).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{round}: {answer}");
        assert!(began.elapsed() < Duration::from_secs(5), "{round}: {:?}", began.elapsed());
    }
    let full = proxy.records.all().iter().filter(|record| record.decision == Decision::Denied("no_buffers")).count();
    assert!(full > 0, "the control: they were held up to their limit");
}

/// Silent connections use only the listener's own share of the descriptors, however many a room opens.
#[tokio::test]
async fn silent_connections_are_limited_per_room() {
    let peer = Peer::content().await;
    let limits = Limits { descriptors: 400, silent: 3 * DEADLINE, ..Limits::default() };
    let proxy = Proxy::start(Settings { limits, ..settings(&[("web.example:80", peer.addr())]) });
    let rooms: Vec<Room> = (0..2).map(|n| Room::open(&proxy, &format!("hostile-{n}"), "theirs")).collect();
    let mine = Room::open(&proxy, "mine", "mine");
    let before = descriptors();
    let mut silent = Vec::new();
    for room in &rooms {
        for _ in 0..512 {
            silent.push(room.connect().await);
        }
    }
    // Each room gets a quarter of 400 and a reserve of sixteen; four more are being refused.
    eventually("the rest is closed", || descriptors() <= before + 1024 + 2 * (100 + 16 + 4)).await;
    assert!(descriptors() >= before + 1024 + 2 * 100, "the control: those are kept");
    assert!(mine.ask(GET).await.starts_with("HTTP/1.1 200 "));
}

/// Silent connections are closed after a while, without a response; then the room is served again.
#[tokio::test]
async fn silent_connections_are_closed() {
    let peer = Peer::content().await;
    let limits = Limits { connections: 3, silent: Duration::from_millis(300), ..Limits::default() };
    let proxy = Proxy::start(Settings { limits, ..settings(&[("web.example:80", peer.addr())]) });
    let mut silent = [proxy.connect().await, proxy.connect().await, proxy.connect().await];
    for stream in &mut silent {
        assert_eq!(read_all(stream).await, "");
    }
    assert!(proxy.talk(GET).await.starts_with("HTTP/1.1 200 "));
}

/// A room whose connections all wait for their targets does not take the descriptors of other rooms.
#[tokio::test]
async fn a_room_out_of_descriptors_gets_429_and_others_are_served() {
    let (silent, peer) = (Peer::answering("").await, Peer::content().await);
    let limits = Limits { descriptors: 40, reserved_descriptors: 4, ..Limits::default() };
    let hosts = settings(&[("web.example:80", peer.addr()), ("silent.example:80", silent.addr())]);
    let proxy = Proxy::start(Settings { limits, ..hosts });
    let (hostile, mine) = (Room::open(&proxy, "hostile", "theirs"), Room::open(&proxy, "mine", "mine"));
    let mut held = Vec::new();
    for _ in 0..7 {
        let mut stream = hostile.connect().await;
        stream.write_all(GET.replace("web", "silent").as_bytes()).await.expect("writes");
        held.push(stream);
    }
    eventually("all are at the target", || silent.connections() == 7).await;
    // Fourteen descriptors in all: seven clients and their targets.
    let told = hostile.ask(GET).await;
    assert!(told.starts_with("HTTP/1.1 429 ") && told.contains("too_many_connections"), "{told}");
    for _ in 0..10 {
        assert!(mine.ask(GET).await.starts_with("HTTP/1.1 200 "));
    }
    drop(held);
    let began = Instant::now();
    while !hostile.ask(GET).await.starts_with("HTTP/1.1 200 ") {
        assert!(began.elapsed() < DEADLINE, "they were not given back");
    }
}

/// A client that sends its body too slowly is cut off with a reason; one that waits for a slow target is not.
#[tokio::test]
async fn a_body_slower_than_the_minimum_rate_is_cut_off() {
    let peer = Peer::content().await;
    let verifier = Verifier::start(None, 0).await;
    let limits = Limits { upload_rate: 100, upload_window: Duration::from_secs(1), ..Limits::default() };
    let plain = Proxy::start(Settings { limits, ..settings(&[("web.example:80", peer.addr())]) });
    let signed = verifier.proxy("execute-api", limits);
    for (proxy, host) in [(&plain, "web.example"), (&signed, HOST)] {
        for framing in ["content-length: 1000", "transfer-encoding: chunked"] {
            let mut stream = proxy.connect().await;
            let head = format!(
                "POST http://{host}/drip HTTP/1.1\r\nhost: {host}\r\nexpect: 100-continue\r\n{framing}\r\n\r\n"
            );
            let (mut read, mut write) = stream.split();
            write.write_all(head.as_bytes()).await.expect("writes");
            let drip = async {
                let byte: &[u8] = if framing.contains("chunked") { b"1\r\nx\r\n" } else { b"x" };
                let mut ticks = tokio::time::interval(Duration::from_millis(100));
                loop {
                    ticks.tick().await;
                    if write.write_all(byte).await.is_err() {
                        return;
                    }
                }
            };
            let answer = async {
                let mut answer = Vec::new();
                let _ = read.read_to_end(&mut answer).await;
                String::from_utf8_lossy(&answer).into_owned()
            };
            let answer = tokio::select! {
                answer = answer => answer,
                () = drip => panic!("nothing was read: {framing}"),
                () = tokio::time::sleep(DEADLINE) => panic!("it drips for ever: {framing}"),
            };
            // If the target has answered already, its answer is passed on; the upload is cut off all the same.
            if host == HOST {
                assert!(answer.contains("HTTP/1.1 408 ") && answer.contains("upload_too_slow"), "{framing}: {answer}");
            }
        }
        let slow = Decision::Denied("upload_too_slow");
        if host == HOST {
            assert!(proxy.records.all().iter().all(|record| record.decision == slow), "{:?}", proxy.records.all());
        }
    }
    // The client sends as fast as it can, and the target reads slowly.
    let taking = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let addr = taking.local_addr().expect("an address");
    let limits = Limits { upload_rate: 1 << 20, upload_window: Duration::from_secs(1), ..Limits::default() };
    let proxy = Proxy::start(Settings { limits, ..settings(&[("web.example:80", addr)]) });
    let size = 8 << 20;
    let target = async {
        let (mut stream, _) = taking.accept().await.expect("accepts");
        // Longer than the window; the client cannot send meanwhile.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let (mut all, mut chunk) = (0, vec![0; 1 << 16]);
        while all < size {
            all += stream.read(&mut chunk).await.expect("reads");
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.expect("writes");
    };
    let head = format!(
        "POST http://web.example/ HTTP/1.1\r\nhost: web.example\r\ncontent-length: {size}\r\nconnection: close\r\n\r\n"
    );
    let request = [head.as_bytes(), &vec![b'x'; size]].concat();
    let (answer, ()) = tokio::join!(proxy.talk(request), target);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

/// A flood of refused requests is delayed and leaves few records, which count every refusal.
#[tokio::test]
async fn a_flood_of_denials_is_delayed_and_recorded_in_summary() {
    let peer = Peer::content().await;
    let limits = Limits { denials: 10, denials_burst: 20, ..Limits::default() };
    let proxy = Proxy::start(Settings { limits, ..settings(&[("web.example:80", peer.addr())]) });
    let (hostile, mine) = (Room::open(&proxy, "hostile", "theirs"), Room::open(&proxy, "mine", "mine"));
    let began = Instant::now();
    let flood = async {
        let clients = (0..40).map(|_| async {
            let mut asked = 0_u64;
            while began.elapsed() < Duration::from_secs(3) {
                let mut stream = hostile.connect().await;
                while began.elapsed() < Duration::from_secs(3) {
                    if stream.write_all(DENIED.as_bytes()).await.is_err() {
                        break;
                    }
                    let mut answer = [0; 4096];
                    match stream.read(&mut answer).await {
                        Ok(read @ 1..) => {
                            let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
                            assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
                            asked += 1;
                        }
                        _ => break,
                    }
                }
            }
            asked
        });
        futures::future::join_all(clients).await.iter().sum::<u64>()
    };
    let neighbour = async {
        while began.elapsed() < Duration::from_secs(3) {
            let asked = Instant::now();
            assert!(mine.ask(GET).await.starts_with("HTTP/1.1 200 "));
            assert!(asked.elapsed() < Duration::from_millis(500), "{:?}", asked.elapsed());
        }
    };
    let (asked, ()) = tokio::join!(flood, neighbour);
    // Beyond the burst and the rate, each of the forty clients gets one answer a second.
    assert!(asked < 40 * 6 + 60, "{asked} were answered");
    let of_hostile = || -> Vec<_> {
        let mut records = proxy.records.all();
        records.retain(|record| record.identity.workspace == "hostile");
        records
    };
    let counted = || of_hostile().iter().map(|record| record.count).sum::<u64>();
    eventually("every refusal is counted", || counted() >= asked).await;
    let records = of_hostile();
    assert!(records.len() < 20 + 35 + 10, "{} records", records.len());
    assert!(records.iter().any(|record| record.count > 10), "some are recorded together");
    assert!(records.iter().all(|record| record.host == "evil.example" && record.status == 403), "{records:?}");
    assert_eq!(records[0].count, 1, "the first ones are recorded one by one");
}

/// Denials of hosts that a client makes up are summarised, so that they do not fill the audit trail.
#[tokio::test]
async fn denials_of_many_hosts_share_a_few_records() {
    let limits = Limits { denials: 100, denials_burst: 1, ..Limits::default() };
    let proxy = Proxy::start(Settings { limits, ..settings(&[]) });
    let mut stream = proxy.connect().await;
    let (mut read, mut write) = stream.split();
    let requests: String = (0..200).map(|n| DENIED.replace("evil", &format!("evil{n}"))).collect();
    let mut answers = Vec::new();
    let (_, _) = tokio::join!(
        async {
            write.write_all(requests.as_bytes()).await.expect("writes");
            write.shutdown().await.expect("closes");
        },
        read.read_to_end(&mut answers)
    );
    let counted = || proxy.records.all().iter().map(|record| record.count).sum::<u64>();
    eventually("every refusal is counted", || counted() >= 200).await;
    assert_eq!(counted(), 200);
    let records = proxy.records.all();
    assert!(records.len() < 150, "{} records", records.len());
    assert!(records.iter().any(|record| record.host.is_empty() && record.count > 20), "{records:?}");
}
