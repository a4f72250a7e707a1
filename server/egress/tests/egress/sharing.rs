//! Upstream connections belong to one listener, and are reused only while their framing is unambiguous.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nagaya_egress::Settings;
use nagaya_fixtures::listen::Listening;
use nagaya_fixtures::naive;
use nagaya_fixtures::tls::Tls;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::Notify;

use crate::peer::Peer;
use crate::support::{Proxy, any, ask, eventually, origin, settings};

const HOST: &str = "web.example";
const EVIL: &str = "GET /evil HTTP/1.1\r\nHost: x\r\n\r\n";

/// An origin that ignores the body of every method but POST, answers each request with its path, and keeps what it got by POST.
struct Naive {
    listening: Listening,
    stored: Arc<parking_lot::Mutex<String>>,
    connections: Arc<AtomicUsize>,
    ca_pem: Option<String>,
}

impl Naive {
    async fn start(tls: Option<Tls>) -> Self {
        let (stored, connections) = (Arc::<parking_lot::Mutex<String>>::default(), Arc::<AtomicUsize>::default());
        let (keeps, counts, ca_pem) = (stored.clone(), connections.clone(), tls.as_ref().map(|tls| tls.ca_pem.clone()));
        let listening = Listening::start(any(), move |stream| {
            let (keeps, tls) = (keeps.clone(), tls.clone());
            counts.fetch_add(1, Ordering::Relaxed);
            async move {
                match tls {
                    None => naive::converse(stream, &keeps).await,
                    Some(tls) => naive::converse(tls.acceptor.accept(stream).await.expect("TLS"), &keeps).await,
                }
            }
        });
        Self { listening: listening.await.expect("listens"), stored, connections, ca_pem }
    }

    fn settings(&self) -> Settings {
        let port = if self.ca_pem.is_some() { 443 } else { 80 };
        let host = format!("{HOST}:{port}");
        let settings = settings(&[(host.as_str(), self.listening.addr())]);
        Settings { extra_ca_pem: self.ca_pem.clone().map(String::into_bytes), ..settings }
    }
}

fn get(path: &str) -> String {
    format!("GET http://{HOST}{path} HTTP/1.1\r\nhost: {HOST}\r\n\r\n")
}

fn with_body(method: &str, body: &str, chunked: bool) -> String {
    let head = format!("{method} http://{HOST}/a HTTP/1.1\r\nhost: {HOST}\r\n");
    if chunked {
        format!("{head}transfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
    } else {
        format!("{head}content-length: {}\r\n\r\n{body}", body.len())
    }
}

/// When an origin takes a body for a request, its answer reaches neither another room nor a later request of the same room.
#[tokio::test]
async fn an_ignored_body_answers_no_other_request() {
    for method in ["GET", "HEAD", "DELETE", "OPTIONS", "PROPFIND"] {
        for chunked in [false, true] {
            let target = Naive::start(None).await;
            let proxy = Proxy::start(target.settings());
            let (_dir, _listener, path) = proxy.another();
            for round in 0..20 {
                let what = format!("{method}, chunked: {chunked}, round {round}");
                let mut hostile = proxy.connect().await;
                let (head, _) = ask(&mut hostile, &with_body(method, EVIL, chunked)).await;
                assert!(head.contains("x-path: /a\r\n"), "{what}: {head}");
                let mut victim = UnixStream::connect(&path).await.expect("connects");
                assert_eq!(ask(&mut victim, &get("/private")).await.1, "/private", "{what}");
                assert_eq!(ask(&mut hostile, &get("/own")).await.1, "/own", "{what}");
            }
        }
    }
}

/// If the body is the head of a POST, the origin would store the connection's next request, including its injected credential.
#[tokio::test]
async fn an_ignored_body_does_not_swallow_the_next_request() {
    let store = "POST /store HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n";
    for tls in [false, true] {
        let tls = tls.then(|| Tls::new(&[HOST.to_owned()]).expect("a certificate"));
        let target = Naive::start(tls).await;
        let settings = target.settings();
        let credentials = match target.ca_pem {
            None => settings.credentials.clone(),
            Some(_) => settings.credentials.clone().with_header(HOST, "x-api-key", "hunter2"),
        };
        let proxy = Proxy::start(Settings { credentials, ..settings });
        let (_dir, _listener, path) = proxy.another();
        for method in ["GET", "DELETE", "OPTIONS"] {
            for _ in 0..10 {
                let mut hostile = proxy.connect().await;
                ask(&mut hostile, &with_body(method, store, false)).await;
                for stream in [&mut UnixStream::connect(&path).await.expect("connects"), &mut hostile] {
                    assert_eq!(ask(stream, &get("/victim")).await.1, "/victim", "{method}");
                }
            }
        }
        let stored = target.stored.lock().clone();
        assert!(stored.is_empty(), "{stored}");
    }
}

/// A connection is reused only by the listener it was opened for.
#[tokio::test]
async fn connections_belong_to_one_listener() {
    let target = Naive::start(None).await;
    let proxy = Proxy::start(target.settings());
    let (_dir, _listener, path) = proxy.another();
    for _ in 0..5 {
        for stream in [&mut proxy.connect().await, &mut UnixStream::connect(&path).await.expect("connects")] {
            assert_eq!(ask(stream, &get("/x")).await.1, "/x");
            assert_eq!(ask(stream, &get("/y")).await.1, "/y");
        }
    }
    assert_eq!(target.connections.load(Ordering::Relaxed), 2);
}

/// A GET with a body reaches an origin that reads bodies.
#[tokio::test]
async fn a_get_with_a_body_is_forwarded() {
    let origin = origin(nagaya_fixtures::origin::Kind::Http).await;
    let proxy = Proxy::start(settings(&[("web.example:80", origin.addr())]));
    for chunked in [false, true] {
        for _ in 0..3 {
            let request = with_body("GET", EVIL, chunked).replace("/a ", "/echo ");
            let mut stream = proxy.connect().await;
            stream.write_all(request.as_bytes()).await.expect("writes");
            stream.shutdown().await.expect("closes");
            let answer = crate::support::read_all(&mut stream).await;
            let length = format!(r#""body_bytes":{}"#, EVIL.len());
            assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains(&length), "{answer}");
        }
    }
}

/// An origin that sends extra bytes after its response: at once, or when the test notifies it.
struct Talkative {
    listening: Listening,
    connections: Arc<AtomicUsize>,
    speak: Arc<Notify>,
    spoken: Arc<AtomicUsize>,
}

impl Talkative {
    async fn start(extra: &'static str, at_once: bool) -> Self {
        let (connections, speak, spoken) =
            (Arc::<AtomicUsize>::default(), Arc::new(Notify::new()), Arc::<AtomicUsize>::default());
        let (counts, told, said) = (connections.clone(), speak.clone(), spoken.clone());
        let listening = Listening::start(any(), move |mut stream| {
            counts.fetch_add(1, Ordering::Relaxed);
            let (told, said) = (told.clone(), said.clone());
            async move {
                let (mut seen, mut chunk) = (Vec::new(), [0; 4096]);
                loop {
                    tokio::select! {
                        read = stream.read(&mut chunk) => match read {
                            Ok(read @ 1..) => seen.extend_from_slice(&chunk[..read]),
                            _ => return,
                        },
                        () = told.notified() => {
                            stream.write_all(extra.as_bytes()).await.expect("writes");
                            said.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    while let Some(end) = seen.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4) {
                        let head = String::from_utf8_lossy(&seen[..end]).into_owned();
                        seen.drain(..end);
                        let path = head.split(' ').nth(1).unwrap_or_default();
                        let extra = if at_once { extra } else { "" };
                        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{path}{extra}", path.len());
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                }
            }
        });
        Self { listening: listening.await.expect("listens"), connections, speak, spoken }
    }
}

const STRAY: [&str; 5] = [
    "HTTP/1.1 408 Request Timeout\r\ncontent-length: 4\r\nconnection: close\r\n\r\nlate",
    "HTTP/1.1 408 Request Timeout\r\ncontent-length: 4\r\n\r\nlate",
    "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecond",
    "\r\n",
    "x",
];

/// If an origin sends extra bytes after its responses, every request still gets its own response, on a new connection.
#[tokio::test]
async fn bytes_after_a_response_are_discarded() {
    for extra in STRAY {
        let target = Talkative::start(extra, true).await;
        let proxy = Proxy::start(settings(&[("web.example:80", target.listening.addr())]));
        let (_dir, _listener, path) = proxy.another();
        for round in 0..20 {
            for stream in [&mut proxy.connect().await, &mut UnixStream::connect(&path).await.expect("connects")] {
                for path in ["/one", "/two"] {
                    let (head, body) = ask(stream, &get(path)).await;
                    assert!(head.starts_with("HTTP/1.1 200 ") && body == path, "{extra:?} {round}: {head}{body}");
                }
            }
        }
        assert_eq!(target.connections.load(Ordering::Relaxed), 80, "{extra:?}: each was used once");
    }
}

/// The same when the extra bytes arrive on an idle connection, immediately before the next request.
#[tokio::test]
async fn bytes_on_an_idle_connection_are_discarded() {
    for extra in STRAY {
        for round in 0..20 {
            let target = Talkative::start(extra, false).await;
            let proxy = Proxy::start(settings(&[("web.example:80", target.listening.addr())]));
            let mut stream = proxy.connect().await;
            assert_eq!(ask(&mut stream, &get("/one")).await.1, "/one");
            target.speak.notify_one();
            eventually("it has spoken", || target.spoken.load(Ordering::Relaxed) == 1).await;
            let (head, body) = ask(&mut stream, &get("/two")).await;
            assert!(head.starts_with("HTTP/1.1 200 ") && body == "/two", "{extra:?} {round}: {head}{body}");
            assert_eq!(target.connections.load(Ordering::Relaxed), 2, "{extra:?}");
        }
    }
}

/// Bytes behind a response that has no body (RFC 9112, 6.3) are not taken for the response to a later request.
#[tokio::test]
async fn a_body_after_a_bodiless_response_is_discarded() {
    for answer in [
        // What follows may come late, when the next request is on its way.
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\ncontent-length: 4\r\n\r\n",
        "HTTP/1.1 204 No Content\r\ncontent-length: 4\r\n\r\nevil",
        "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
        "HTTP/1.1 304 Not Modified\r\ncontent-length: 44\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
        "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\nevil",
        "HTTP/1.1 100 Continue\r\ncontent-length: 4\r\n\r\nevilHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
        "HTTP/1.1 100 Continue\r\ncontent-length: 40\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
    ] {
        let peer = Peer::answering(answer).await;
        let proxy = Proxy::start(settings(&[("web.example:80", peer.addr())]));
        let (_dir, _listener, path) = proxy.another();
        for round in 1..=5 {
            for stream in [&mut proxy.connect().await, &mut UnixStream::connect(&path).await.expect("connects")] {
                let (head, body) = ask(stream, &get("/")).await;
                let own = ["HTTP/1.1 204", "HTTP/1.1 304", "HTTP/1.1 200", "HTTP/1.1 502"];
                assert!(
                    own.iter().any(|own| head.starts_with(own)) && !body.contains("evil"),
                    "{answer}: {head}{body}"
                );
            }
            assert_eq!(peer.connections(), 2 * round, "{answer}: each connection was used once");
        }
    }
}
