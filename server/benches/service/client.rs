//! HTTP, with as little as possible of one's own: requests, and event streams of which each event is counted.

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

/// How long an answer, or the next event, may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks, and gives the answer once its head is there.
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
    Ok(tokio::time::timeout(PATIENCE, sender.send_request(request)).await.context("no answer")??)
}

/// A request to the server, and its answer's JSON.
pub(crate) async fn ask(at: SocketAddr, method: Method, path: &str, body: &Value) -> Result<Value> {
    let answer = send(TcpStream::connect(at).await?, method, path, body).await?;
    let status = answer.status();
    let body = tokio::time::timeout(PATIENCE, answer.into_body().collect()).await.context("no end")??.to_bytes();
    ensure!(status.is_success(), "{path}: {status} {}", String::from_utf8_lossy(&body));
    Ok(if body.is_empty() { Value::Null } else { serde_json::from_slice(&body)? })
}

/// A stream of events.
pub(crate) struct Events {
    body: Incoming,
    /// When it was asked for.
    pub(crate) asked: Instant,
    /// What came after the last whole event.
    rest: Vec<u8>,
}

impl Events {
    /// Of the server.
    pub(crate) async fn of_server(at: SocketAddr, method: Method, path: &str, body: &Value) -> Result<Self> {
        let stream = TcpStream::connect(at).await?;
        stream.set_nodelay(true)?;
        Self::of(stream, method, path, body).await
    }

    /// Of an agent.
    pub(crate) async fn of_agent(socket: &Path, body: &Value) -> Result<Self> {
        Self::of(UnixStream::connect(socket).await?, Method::POST, "/execute", body).await
    }

    async fn of(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Result<Self> {
        let asked = Instant::now();
        let answer = send(stream, method, path, body).await?;
        ensure!(answer.status().is_success(), "{path}: {}", answer.status());
        Ok(Self { body: answer.into_body(), asked, rest: Vec::new() })
    }

    /// Reads on until an event of this name has begun.
    pub(crate) async fn until(&mut self, name: &str) -> Result<()> {
        let wanted = format!("event: {name}\n");
        while !contains(&self.rest, wanted.as_bytes()) {
            let piece = self.piece().await?.with_context(|| format!("no {name}"))?;
            self.rest.extend_from_slice(&piece);
        }
        Ok(())
    }

    async fn piece(&mut self) -> Result<Option<Bytes>> {
        let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.context("nothing comes")?;
        Ok(frame.transpose()?.and_then(|frame| frame.into_data().ok()))
    }

    /// Reads to the end; how many events there were that `until` had not read past, and the last of them.
    pub(crate) async fn count(mut self) -> Result<(usize, String)> {
        let mut count = 0;
        loop {
            let piece = self.piece().await?;
            let over = piece.is_none();
            self.rest.extend_from_slice(&piece.unwrap_or_default());
            let mut from = 0;
            while let Some(at) = self.rest[from..].windows(2).position(|two| two == b"\n\n") {
                count += 1;
                let next = from + at + 2;
                if over && next == self.rest.len() {
                    return Ok((count, String::from_utf8_lossy(&self.rest[from..next]).into_owned()));
                }
                from = next;
            }
            ensure!(!over, "it broke off after {count} events: {:?}", String::from_utf8_lossy(&self.rest[from..]));
            // The last event is kept until it is known whether another comes.
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
