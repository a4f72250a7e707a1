//! A minimal HTTP client: JSON requests, and event streams whose events are counted.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// Time limit for a response, and for the next chunk of a stream.
const DEADLINE: Duration = Duration::from_secs(30);

/// Sends a request; returns the response once its head has arrived.
async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    method: Method,
    path: &str,
    body: &Value,
) -> Result<Response<Incoming>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let text = if body.is_null() { Bytes::new() } else { body.to_string().into() };
    let request = Request::builder().method(method).uri(path).header("host", "bench");
    let request = request.header("content-type", "application/json").body(Full::new(text))?;
    Ok(tokio::time::timeout(DEADLINE, sender.send_request(request)).await.context("no answer")??)
}

/// Sends a request to the server and returns the JSON of the response.
pub(crate) async fn ask(at: SocketAddr, method: Method, path: &str, body: &Value) -> Result<Value> {
    let answer = send(TcpStream::connect(at).await?, method, path, body).await?;
    let status = answer.status();
    let body =
        tokio::time::timeout(DEADLINE, answer.into_body().collect()).await.context("the body did not end")??.to_bytes();
    ensure!(status.is_success(), "{path}: {status} {}", String::from_utf8_lossy(&body));
    Ok(if body.is_empty() { Value::Null } else { serde_json::from_slice(&body)? })
}

/// A stream of server-sent events.
pub(crate) struct Events {
    body: Incoming,
    /// Time of the request.
    pub(crate) requested: Instant,
    /// Bytes received after the last complete event.
    rest: Vec<u8>,
}

impl Events {
    /// Opens an event stream of the server.
    pub(crate) async fn of_server(at: SocketAddr, method: Method, path: &str, body: &Value) -> Result<Self> {
        let stream = TcpStream::connect(at).await?;
        stream.set_nodelay(true)?;
        Self::of(stream, method, path, body).await
    }

    /// Opens an event stream of an agent.
    pub(crate) async fn of_agent(socket: &Path, body: &Value) -> Result<Self> {
        Self::of(UnixStream::connect(socket).await?, Method::POST, "/execute", body).await
    }

    async fn of(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Result<Self> {
        let requested = Instant::now();
        let answer = send(stream, method, path, body).await?;
        ensure!(answer.status().is_success(), "{path}: {}", answer.status());
        Ok(Self { body: answer.into_body(), requested, rest: Vec::new() })
    }

    /// Reads until an event of this name has begun.
    pub(crate) async fn until(&mut self, name: &str) -> Result<()> {
        let wanted = format!("event: {name}\n");
        while !contains(&self.rest, wanted.as_bytes()) {
            let chunk = self.chunk().await?.with_context(|| format!("no {name}"))?;
            self.rest.extend_from_slice(&chunk);
        }
        Ok(())
    }

    /// What has arrived so far.
    #[allow(dead_code, reason = "only one of the benchmarks needs it")]
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.rest).into_owned()
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>> {
        let frame = tokio::time::timeout(DEADLINE, self.body.frame()).await.context("no data")?;
        Ok(frame.transpose()?.and_then(|frame| frame.into_data().ok()))
    }

    /// Reads to the end; returns the number of events, without those that `until` has dropped, and the last event.
    pub(crate) async fn count(mut self) -> Result<(usize, String)> {
        let mut count = 0;
        loop {
            let chunk = self.chunk().await?;
            let over = chunk.is_none();
            self.rest.extend_from_slice(&chunk.unwrap_or_default());
            let mut from = 0;
            while let Some(at) = self.rest[from..].windows(2).position(|two| two == b"\n\n") {
                count += 1;
                let next = from + at + 2;
                if over && next == self.rest.len() {
                    return Ok((count, String::from_utf8_lossy(&self.rest[from..next]).into_owned()));
                }
                from = next;
            }
            ensure!(
                !over,
                "the stream ended within an event, after {count} events: {:?}",
                String::from_utf8_lossy(&self.rest[from..])
            );
            // The last event stays in the buffer until it is known whether another follows.
            let last = self.rest[..from].len();
            let keep =
                self.rest[..last.saturating_sub(2)].windows(2).rposition(|two| two == b"\n\n").map_or(0, |at| at + 2);
            if from > 0 {
                count -= 1;
                self.rest.drain(..keep);
            }
        }
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
