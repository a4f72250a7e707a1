//! `nagaya health`: asks the server on this machine whether a run could start, so that an image's health check needs no other program.

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

/// How long the server may take to answer; it asks its database and its engine first.
const DEADLINE: Duration = Duration::from_secs(5);
/// Longest answer that is read, in bytes.
const LONGEST_ANSWER: usize = 16 * 1024;

/// Asks `/health/ready` and prints the answer: [`Exit::Ok`] for 200, [`Exit::Failed`] for any other, [`Exit::Unavailable`]
/// where nobody answers.
pub async fn run(config: Config) -> Exit {
    let address = reachable(config.service.bind);
    match tokio::time::timeout(DEADLINE, probe(address)).await {
        Ok(Ok((StatusCode::OK, text))) => {
            println!("{text}");
            Exit::Ok
        }
        Ok(Ok((status, text))) => {
            eprintln!("{address} answers {status}: {text}");
            Exit::Failed
        }
        Ok(Err(error)) => {
            eprintln!("no server answers at {address}: {error}");
            Exit::Unavailable
        }
        Err(_) => {
            eprintln!("{address} does not answer within {DEADLINE:?}");
            Exit::Unavailable
        }
    }
}

/// Where one connects to in order to reach who listens on `bind`: whoever listens on every address listens on loopback.
fn reachable(bind: SocketAddr) -> SocketAddr {
    let address = match bind.ip() {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        other => other,
    };
    SocketAddr::new(address, bind.port())
}

/// Why a server did not answer.
#[derive(Debug, thiserror::Error)]
enum ProbeError {
    #[error("cannot connect: {0}")]
    Connect(#[from] std::io::Error),
    #[error("the exchange broke off: {0}")]
    Exchange(#[from] hyper::Error),
    #[error("the request: {0}")]
    Request(#[from] http::Error),
    #[error("the answer: {0}")]
    Answer(Box<str>),
}

async fn probe(address: SocketAddr) -> Result<(StatusCode, String), ProbeError> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Its errors come out at the sender as well.
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let request = Request::get("/health/ready").header("host", address.to_string()).body(Empty::<Bytes>::new())?;
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = Limited::new(body, LONGEST_ANSWER).collect().await;
    let body = body.map_err(|error| ProbeError::Answer(error.to_string().into()))?.to_bytes();
    Ok((head.status, String::from_utf8_lossy(&body).into_owned()))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn a_server_that_listens_on_every_address_is_asked_on_loopback() {
        for (bind, asked) in [
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:2", "[::1]:2"),
            ("127.0.0.1:3", "127.0.0.1:3"),
            ("10.0.0.7:4", "10.0.0.7:4"),
        ] {
            assert_eq!(reachable(bind.parse().expect("an address")).to_string(), asked);
        }
    }

    #[tokio::test]
    async fn the_answer_is_passed_on_as_it_is() {
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
        let (status, text) = probe(address).await.expect("an answer");
        assert_eq!((status, text.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "not yet"));
        assert!(server.await.expect("served").starts_with("GET /health/ready HTTP/1.1\r\n"));
        assert!(probe(address).await.is_err(), "nobody listens any more");
    }
}
