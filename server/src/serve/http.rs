//! Accepts clients' connections, within limits: of their number, and of the time until a request's head is complete.
//!
//! axum's own accept loop has neither, so connections that send half a head, or nothing, would stay for ever and use up the
//! process's descriptors.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::{Service, ServiceExt};

/// Pause after a connection could not be accepted, most likely for lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Limits of a listener.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// How long a connection may take from being accepted, or from its last response, to the end of a request's head. So this is
    /// also how long an idle connection is kept.
    pub(super) head: Duration,
    /// Connections at the same time. Further ones get 503 and are closed.
    pub(super) connections: usize,
}

/// Serves `router` on `listener` until `closing` is cancelled, then waits for the responses in progress.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    closing: CancellationToken,
) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(limits.connections));
    let connections = TaskTracker::new();
    let mut full = false;
    // Made once: cloning the service it makes is cheap, building the router again for each connection is not.
    let mut make = router.into_make_service();
    while let Some(accepted) = closing.run_until_cancelled(listener.accept()).await {
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::error!(%error, "a connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            if !std::mem::replace(&mut full, true) {
                tracing::warn!(
                    connections = limits.connections,
                    "the limit of connections is reached; further ones get 503"
                );
            }
            refuse(&stream);
            continue;
        };
        full = false;
        let service = make.call(&stream).await.unwrap_or_else(|never| match never {});
        let closing = closing.clone();
        connections.spawn(async move {
            connection(stream, service, limits.head, closing).await;
            drop(place);
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
    Ok(())
}

/// Answers 503 without reading the request: the buffer of a new connection takes the answer at once, or not at all.
fn refuse(stream: &TcpStream) {
    let body = serde_json::json!({"error": {
        "code": "SERVICE_UNAVAILABLE",
        "message": "too many connections; try again",
        "details": [],
        "request_id": uuid::Uuid::new_v4().to_string(),
        "timestamp": jiff::Timestamp::now(),
    }})
    .to_string();
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {}\r\nretry-after: 1\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    );
    if let Err(error) = stream.try_write(answer.as_bytes()) {
        tracing::debug!(%error, "a connection beyond the limit was closed without an answer");
    }
}

async fn connection(stream: TcpStream, service: Router, head: Duration, closing: CancellationToken) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection's small segments are delayed");
    }
    let service =
        TowerToHyperService::new(service.map_request(|request: Request<Incoming>| request.map(axum::body::Body::new)));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a client's connection ended early");
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::JoinHandle;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    async fn start(limits: Limits) -> (SocketAddr, CancellationToken, JoinHandle<io::Result<()>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let (address, closing) = (listener.local_addr().expect("an address"), CancellationToken::new());
        let router = Router::new().route("/", get(async || "here"));
        let served = tokio::spawn(serve(listener, router, limits, closing.clone()));
        (address, closing, served)
    }

    async fn connect(address: SocketAddr, bytes: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.expect("connected");
        stream.write_all(bytes).await.expect("sent");
        stream
    }

    async fn answer(mut stream: TcpStream) -> String {
        let mut answer = String::new();
        let read = tokio::time::timeout(DEADLINE, stream.read_to_string(&mut answer)).await;
        // A connection that is closed with unread bytes is reset; what came before that is the answer.
        let _ = read.expect("the server closes the connection");
        answer
    }

    #[tokio::test]
    async fn half_sent_heads_and_silent_connections_are_closed() {
        let (address, closing, served) = start(Limits { head: Duration::from_millis(200), connections: 100 }).await;
        let mut open = Vec::new();
        for bytes in [&b""[..], b"GET / HTTP/1.1\r\nHost: x\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"] {
            for _ in 0..10 {
                open.push((bytes, connect(address, bytes).await));
            }
        }
        for (bytes, stream) in open {
            let answer = answer(stream).await;
            assert_eq!(answer.contains("here"), bytes.ends_with(b"\r\n\r\n"), "{answer}");
        }
        closing.cancel();
        served.await.expect("joined").expect("ended");
    }

    #[tokio::test]
    async fn connections_beyond_the_limit_get_503_and_the_limit_is_free_again_afterwards() {
        let (address, closing, served) = start(Limits { head: Duration::from_secs(60), connections: 2 }).await;
        let request = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let silent = [connect(address, b"").await, connect(address, b"").await];
        let refused = answer(TcpStream::connect(address).await.expect("connected")).await;
        assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("retry-after: 1"), "{refused}");
        let (head, body) = refused.split_once("\r\n\r\n").expect("a body");
        assert!(head.contains(&format!("content-length: {}", body.len())), "{head}: {}", body.len());
        drop(silent);
        let freed = async {
            loop {
                if answer(connect(address, request).await).await.contains("here") {
                    break;
                }
            }
        };
        tokio::time::timeout(DEADLINE, freed).await.expect("the limit is free again");
        closing.cancel();
        served.await.expect("joined").expect("ended");
    }

    #[tokio::test]
    async fn closing_ends_idle_connections() {
        let (address, closing, served) = start(Limits { head: Duration::from_secs(60), connections: 2 }).await;
        let idle = connect(address, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        closing.cancel();
        answer(idle).await;
        tokio::time::timeout(DEADLINE, served).await.expect("in time").expect("joined").expect("ended");
    }
}
