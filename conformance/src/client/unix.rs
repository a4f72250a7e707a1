//! HTTP over a Unix socket: the agent of a room, or the proxy in front of one.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

/// How long one request may take.
const LIMIT: Duration = Duration::from_secs(10);

/// Sends one request over its own connection and reads the whole answer.
///
/// # Errors
/// What went wrong, as a text: no connection, no answer, or none in time.
pub async fn request(socket: &Path, method: Method, uri: &str, body: Bytes) -> Result<(StatusCode, Bytes), String> {
    let exchange = async {
        let stream = UnixStream::connect(socket).await.map_err(|error| format!("connect: {error}"))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header("Host", "room")
            .body(Full::new(body))
            .map_err(|error| error.to_string())?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
            let status = response.status();
            let body = response.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
            drop(sender);
            Ok::<_, String>((status, body))
        };
        // The connection ends by itself once the sender is gone, so both can be awaited together.
        let (answer, _) = tokio::join!(answer, connection);
        answer
    };
    match tokio::time::timeout(LIMIT, exchange).await {
        Ok(answer) => answer.map_err(|error| format!("{}: {error}", socket.display())),
        Err(_) => Err(format!("{}: no answer in {LIMIT:?}", socket.display())),
    }
}

/// Whether something accepts connections on `socket`.
pub async fn accepts(socket: &Path) -> bool {
    matches!(tokio::time::timeout(LIMIT, UnixStream::connect(socket)).await, Ok(Ok(_)))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn one_exchange() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s");
        assert!(!accepts(&path).await);
        assert!(request(&path, Method::GET, "/", Bytes::new()).await.expect_err("nobody").contains("connect"));
        let listener = UnixListener::bind(&path).expect("bind");
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let mut head = vec![0; 1024];
            let size = stream.read(&mut head).await.expect("a head");
            stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno").await.expect("write");
            String::from_utf8_lossy(&head[..size]).into_owned()
        });
        let (status, body) = request(&path, Method::GET, "/health", Bytes::new()).await.expect("an answer");
        assert_eq!((status.as_u16(), body.as_ref()), (404, b"no".as_slice()));
        assert!(server.await.expect("joined").starts_with("GET /health HTTP/1.1\r\n"));
    }
}
