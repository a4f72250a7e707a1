//! Rotation: what began with a credential ends with it, and what begins afterwards gets the new one.

use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use nagaya_fixtures::listen::{Body, Listening};
use nagaya_fixtures::tls::Tls;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::support::{DEADLINE, Proxy, any, ask, eventually, read_head, settings};
use crate::vaults::{HOST, bearer, spec, with};

/// Authorizations as they arrived, and lengths of bodies once they were complete.
type Seen = Arc<Mutex<Vec<(String, Option<usize>)>>>;

/// A target that keeps what arrives, and answers `/stream` as it is fed.
struct Target {
    listening: Listening,
    ca_pem: String,
    seen: Seen,
    feed: mpsc::Sender<Bytes>,
}

impl Target {
    async fn start() -> Self {
        let tls = Tls::new(&[HOST.to_owned()]).expect("a certificate");
        let (ca_pem, seen) = (tls.ca_pem.clone(), Seen::default());
        let (feed, fed) = mpsc::channel::<Bytes>(4);
        let (keeps, fed) = (seen.clone(), Arc::new(tokio::sync::Mutex::new(fed)));
        let answer = move |request| answer(request, keeps.clone(), fed.clone());
        let listening = Listening::http(any(), Some(tls), answer).await.expect("listens");
        Self { listening, ca_pem, seen, feed }
    }

    fn proxy(&self) -> Proxy {
        let mut settings = settings(&[("api.example:443", self.listening.addr())]);
        settings.extra_ca_pem = Some(self.ca_pem.clone().into_bytes());
        Proxy::start(settings)
    }

    fn seen(&self) -> Vec<(String, Option<usize>)> {
        self.seen.lock().expect("a lock").clone()
    }
}

async fn answer(
    request: Request<Incoming>,
    seen: Seen,
    fed: Arc<tokio::sync::Mutex<mpsc::Receiver<Bytes>>>,
) -> Response<Body> {
    let header = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    let header = header.unwrap_or_default().to_owned();
    let number = {
        let mut seen = seen.lock().expect("a lock");
        seen.push((header, None));
        seen.len() - 1
    };
    if request.uri().path() == "/stream" {
        let frames = futures::stream::unfold(fed.lock_owned().await, |mut fed| async move {
            Some((Ok::<_, io::Error>(Frame::data(fed.recv().await.filter(|data| !data.is_empty())?)), fed))
        });
        return Response::new(StreamBody::new(frames).boxed_unsync());
    }
    let (mut body, mut length) = (request.into_body(), 0);
    while let Some(frame) = body.frame().await {
        length += frame.expect("a whole body").into_data().map_or(0, |data| data.len());
    }
    seen.lock().expect("a lock")[number].1 = Some(length);
    Response::new(Full::new(Bytes::from("ok")).map_err(|no| match no {}).boxed_unsync())
}

fn rotated(number: usize) -> Arc<nagaya_egress::Policy> {
    with(&[HOST], vec![spec("c", HOST, bearer(&format!("secret-{number}")))])
}

#[tokio::test]
async fn a_stream_keeps_the_credential_it_began_with() {
    let target = Target::start().await;
    let proxy = target.proxy();
    proxy.own().apply(rotated(0));
    let mut client = proxy.connect().await;
    let request = format!("GET http://{HOST}/stream HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    client.write_all(request.as_bytes()).await.expect("writes");
    read_head(&mut client).await;
    for number in 1..=3 {
        target.feed.send(Bytes::from(format!("part{number}"))).await.expect("a reader");
        let mut chunk = [0; 10];
        tokio::time::timeout(DEADLINE, client.read_exact(&mut chunk)).await.expect("in time").expect("reads");
        assert_eq!(&chunk, format!("5\r\npart{number}\r\n").as_bytes());
        // Also with the order to end what is no longer allowed: it is.
        proxy.own().apply(rotated(number));
        proxy.own().close_tunnels();
        let mut another = proxy.connect().await;
        assert_eq!(ask(&mut another, &format!("GET http://{HOST}/ HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).await.1, "ok");
        assert_eq!(target.seen().last().map(|(header, _)| header.clone()), Some(format!("Bearer secret-{number}")));
    }
    target.feed.send(Bytes::new()).await.expect("a reader");
    let mut end = [0; 5];
    tokio::time::timeout(DEADLINE, client.read_exact(&mut end)).await.expect("in time").expect("reads");
    assert_eq!((&end, target.seen()[0].0.as_str()), (b"0\r\n\r\n", "Bearer secret-0"));
    // The client's connection goes on, with the credential of now.
    assert_eq!(ask(&mut client, &format!("GET http://{HOST}/ HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).await.1, "ok");
    assert_eq!(target.seen().last().map(|(header, _)| header.as_str()), Some("Bearer secret-3"));
}

#[tokio::test]
async fn an_upload_keeps_the_credential_it_began_with() {
    const LENGTH: usize = 64 << 20;
    let target = Target::start().await;
    let proxy = target.proxy();
    proxy.own().apply(rotated(0));
    let mut client = proxy.connect().await;
    let head = format!("PUT http://{HOST}/ HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {LENGTH}\r\n\r\n");
    client.write_all(head.as_bytes()).await.expect("writes");
    let piece = vec![b'x'; 1 << 20];
    for number in 0..LENGTH >> 20 {
        client.write_all(&piece).await.expect("writes");
        if number % 16 == 8 {
            eventually("it has arrived", || target.seen().len() == 1).await;
            proxy.own().apply(rotated(1));
        }
    }
    assert!(read_head(&mut client).await.starts_with("HTTP/1.1 200 "));
    assert_eq!(target.seen(), [("Bearer secret-0".to_owned(), Some(LENGTH))]);
}

/// A request that is not idempotent is sent once, also if a kept connection turns out to be closed under it.
#[tokio::test]
async fn a_post_is_not_sent_again_on_a_stale_connection() {
    let tls = Tls::new(&[HOST.to_owned()]).expect("a certificate");
    let (ca_pem, bodies) = (tls.ca_pem.clone(), Arc::<Mutex<Vec<u8>>>::default());
    let keeps = bodies.clone();
    // Answers the first request of each connection, and closes it on the next one.
    let target = Listening::start(any(), move |stream| {
        let (tls, keeps) = (tls.clone(), keeps.clone());
        async move {
            let Ok(mut stream) = tls.acceptor.accept(stream).await else { return };
            for answer in [&b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"[..], b""] {
                let mut request = Vec::new();
                while !request.ends_with(b"body") {
                    let Ok(byte) = stream.read_u8().await else { return };
                    request.push(byte);
                }
                keeps.lock().expect("a lock").push(b'.');
                if stream.write_all(answer).await.is_err() || stream.flush().await.is_err() {
                    return;
                }
            }
            // Closed in good order: an exchange that ended so would be tried again if it could.
            let _ = stream.shutdown().await;
        }
    });
    let target = target.await.expect("listens");
    let mut settings = settings(&[("api.example:443", target.addr())]);
    settings.extra_ca_pem = Some(ca_pem.into_bytes());
    let proxy = Proxy::start(settings);
    proxy.own().apply(rotated(0));
    let mut client = proxy.connect().await;
    let post = format!("POST http://{HOST}/ HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 4\r\n\r\nbody");
    assert_eq!(ask(&mut client, &post).await.1, "ok");
    let (head, body) = ask(&mut client, &post).await;
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}{body}");
    assert_eq!(bodies.lock().expect("a lock").len(), 2, "each was sent once");
}
