//! `nagaya health`: asks the server on this machine whether a run could start. It lets an image's health check do without an HTTP
//! client such as curl.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

use crate::cli::Exit;
use crate::config::Config;

/// Time limit for the response. It is longer than the server's own limit for its checks of database and engine.
const DEADLINE: Duration = Duration::from_secs(5);
/// Size limit of the response body, in bytes.
const MAX_RESPONSE_BYTES: usize = 16 * 1024;

/// Requests `/health/ready` and prints the response: [`Exit::Ok`] for status 200, [`Exit::Failed`] for any other status,
/// [`Exit::Unavailable`] if no server answers.
pub async fn run(config: Config) -> Exit {
    let address = reachable(config.service.bind);
    match tokio::time::timeout(DEADLINE, probe(address)).await {
        Ok(Ok((StatusCode::OK, text))) => {
            println!("{text}");
            Exit::Ok
        }
        Ok(Ok((status, text))) => {
            eprintln!("nagaya: the server at {address} answered {status}: {text}");
            Exit::Failed
        }
        Ok(Err(error)) => {
            eprintln!("nagaya: no server answers at {address}: {error}");
            Exit::Unavailable
        }
        Err(_) => {
            eprintln!("nagaya: the server at {address} did not answer within {DEADLINE:?}");
            Exit::Unavailable
        }
    }
}

/// The address at which a server that is bound to `bind` can be reached from this machine: the loopback address if it listens on
/// all addresses.
fn reachable(bind: SocketAddr) -> SocketAddr {
    let address = match bind.ip() {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        other => other,
    };
    SocketAddr::new(address, bind.port())
}

/// Why the server's response could not be read.
#[derive(Debug, thiserror::Error)]
enum ProbeError {
    #[error("cannot connect: {0}")]
    Connect(#[from] std::io::Error),
    #[error("the HTTP exchange failed: {0}")]
    Exchange(#[from] hyper::Error),
    #[error("invalid request: {0}")]
    Request(#[from] http::Error),
    #[error("cannot read the response: {0}")]
    Response(Box<str>),
}

async fn probe(address: SocketAddr) -> Result<(StatusCode, String), ProbeError> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // hyper also reports the connection's errors through the sender.
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let request = Request::get("/health/ready").header("host", address.to_string()).body(Empty::<Bytes>::new())?;
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = Limited::new(body, MAX_RESPONSE_BYTES).collect().await;
    let body = body.map_err(|error| ProbeError::Response(error.to_string().into()))?.to_bytes();
    Ok((head.status, String::from_utf8_lossy(&body).into_owned()))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn a_server_that_listens_on_all_addresses_is_reached_on_loopback() {
        for (bind, expected) in [
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:2", "[::1]:2"),
            ("127.0.0.1:3", "127.0.0.1:3"),
            ("10.0.0.7:4", "10.0.0.7:4"),
        ] {
            assert_eq!(reachable(bind.parse().expect("an address")).to_string(), expected);
        }
    }

    #[tokio::test]
    async fn status_and_body_of_the_response_are_returned() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("an address");
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("accepts");
            let mut request = [0; 512];
            let length = stream.read(&mut request).await.expect("reads");
            let answer = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 7\r\n\r\nnot yet";
            stream.write_all(answer.as_bytes()).await.expect("writes");
            String::from_utf8_lossy(request.get(..length).unwrap_or_default()).into_owned()
        });
        let (status, text) = probe(address).await.expect("a response");
        assert_eq!((status, text.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "not yet"));
        assert!(server.await.expect("served").starts_with("GET /health/ready HTTP/1.1\r\n"));
        assert!(probe(address).await.is_err(), "the listener is closed");
    }
}
