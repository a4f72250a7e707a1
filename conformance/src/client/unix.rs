//! HTTP over Unix sockets: requests to the agent of a workspace.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyperlocal::{UnixClientExt, UnixConnector};
use tokio::net::UnixStream;

use crate::harness::pace::within;

/// How long one request may take.
const LIMIT: Duration = Duration::from_secs(10);

/// Sends one request over a connection of its own and reads the whole response.
///
/// # Errors
/// A description of what went wrong: no connection, no response, or none in time.
pub async fn request(socket: &Path, method: Method, path: &str, body: Bytes) -> Result<(StatusCode, Bytes), String> {
    let request = Request::builder()
        .method(method)
        .uri(hyperlocal::Uri::new(socket, path))
        // Without it the client would send the socket's path, hex-encoded, as the host.
        .header(HOST, "workspace")
        .body(Full::new(body))
        .map_err(|error| error.to_string())?;
    let exchange = async {
        let client: Client<UnixConnector, Full<Bytes>> = Client::unix();
        let response = client.request(request).await.map_err(|error| describe(&error))?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|error| describe(&error))?.to_bytes();
        Ok((status, body))
    };
    match within(LIMIT, exchange).await {
        Ok(answer) => answer.map_err(|error: String| format!("{}: {error}", socket.display())),
        Err(_) => Err(format!("{}: no response within {LIMIT:?}", socket.display())),
    }
}

/// An error with its causes: the client's own message names none of them.
fn describe(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Whether something accepts connections on `socket`.
pub async fn accepts(socket: &Path) -> bool {
    matches!(within(LIMIT, UnixStream::connect(socket)).await, Ok(Ok(_)))
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
        assert!(
            request(&path, Method::GET, "/", Bytes::new()).await.expect_err("nobody listens").contains("No such file")
        );
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
