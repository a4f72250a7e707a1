//! Origins: the servers that all contenders fetch from or send to.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use nagaya_fixtures::listen::{Body, Listening};
use nagaya_fixtures::model::sigv4;
use nagaya_fixtures::tls::Tls;
use serde::{Deserialize, Serialize};

use crate::lean::Poller;
use crate::roles;

pub(crate) const KEY_ID: &str = "AKIDBENCH";
pub(crate) const SECRET: &str = "bench-secret";
pub(crate) const TOKEN: &str = "bench-token";
/// Host whose requests are signed, and host whose requests get a header.
pub(crate) const SIGNED: &str = "signed.test";
pub(crate) const KEYED: &str = "keyed.test";
/// Name of that header.
pub(crate) const KEY_HEADER: &str = "x-bench-key";

/// Where the origins listen.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Doors {
    /// Sends or receives as many bytes as the client orders (see `order`).
    pub(crate) bulk: SocketAddr,
    /// Echoes every byte.
    pub(crate) echo: SocketAddr,
    /// Answers every request with `PAGE`.
    pub(crate) http: SocketAddr,
    /// Receives request bodies over TLS and answers with their length.
    pub(crate) https: SocketAddr,
    pub(crate) ca_pem: String,
}

/// A small page, as an API would answer.
pub(crate) const PAGE: &[u8] = &[b'p'; 256];
/// Size of the block that streams repeat, in bytes.
pub(crate) const BLOCK: usize = 256 * 1024;

/// The block. Its bytes depend on their position, so that lost or repeated bytes are noticed.
pub(crate) fn block() -> Vec<u8> {
    (0..BLOCK / 4)
        .flat_map(|place| u32::try_from(place).unwrap_or_default().wrapping_mul(2_654_435_761).to_le_bytes())
        .collect()
}

/// Orders the bulk origin to send `down` bytes after it has received `up`.
pub(crate) fn order(down: u64, up: u64) -> [u8; 17] {
    let mut order = [b'B'; 17];
    order[1..9].copy_from_slice(&down.to_le_bytes());
    order[9..].copy_from_slice(&up.to_le_bytes());
    order
}

/// Runs all origins.
pub(crate) fn play() -> Result<()> {
    let any: SocketAddr = "127.0.0.1:0".parse()?;
    let listen = || TcpListener::bind(any);
    let (bulk, echo, http) = (listen()?, listen()?, listen()?);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let tls = Tls::new(&[SIGNED.to_owned(), KEYED.to_owned()])?;
    let ca_pem = tls.ca_pem.clone();
    let https = runtime.block_on(Listening::http(any, Some(tls), take))?;
    let doors = Doors {
        bulk: bulk.local_addr()?,
        echo: echo.local_addr()?,
        http: http.local_addr()?,
        https: https.addr(),
        ca_pem,
    };
    // These threads end with the process.
    std::thread::spawn(move || told("bulk", bulk_origin(&bulk)));
    std::thread::spawn(move || {
        told(
            "echo",
            serve(&echo, |input, output| {
                output.extend_from_slice(input);
                input.clear();
            }),
        );
    });
    let mut page = format!(
        "HTTP/1.1 200 OK\r\nServer: origin\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n",
        PAGE.len()
    );
    page.push_str(std::str::from_utf8(PAGE)?);
    std::thread::spawn(move || {
        told(
            "http",
            serve(&http, |input, output| {
                while let Some(end) = input.windows(4).position(|window| window == b"\r\n\r\n") {
                    input.drain(..end + 4);
                    output.extend_from_slice(page.as_bytes());
                }
            }),
        );
    });
    roles::ready(&doors)?;
    runtime.block_on(https.stop());
    Ok(())
}

fn told(who: &str, ended: Result<()>) {
    if let Err(error) = ended {
        eprintln!("origin {who}: {error:#}");
    }
}

fn bulk_origin(listener: &TcpListener) -> Result<()> {
    loop {
        let (stream, _) = listener.accept()?;
        // A contender that cuts off a transfer is noticed by the client's count.
        std::thread::spawn(move || drop(bulk(stream)));
    }
}

fn bulk(mut stream: TcpStream) -> Result<()> {
    let mut order = [0; 17];
    stream.read_exact(&mut order)?;
    ensure!(order[0] == b'B', "no order");
    let mut down = u64::from_le_bytes(order[1..9].try_into()?);
    let up = u64::from_le_bytes(order[9..].try_into()?);
    let block = block();
    let (mut buffer, mut taken) = (vec![0; BLOCK], 0);
    while taken < up {
        let read = stream.read(&mut buffer)? as u64;
        ensure!(read > 0, "broke off");
        taken += read;
    }
    while down > 0 {
        let piece = usize::try_from(down)?.min(BLOCK);
        stream.write_all(&block[..piece])?;
        down -= piece as u64;
    }
    stream.write_all(&taken.to_le_bytes())?;
    Ok(())
}

/// Serves all connections on one thread: `answer` removes complete requests from its input and appends to its output.
fn serve(listener: &TcpListener, mut answer: impl FnMut(&mut Vec<u8>, &mut Vec<u8>)) -> Result<()> {
    listener.set_nonblocking(true)?;
    // The standard library's accept queue holds at most 128 connections.
    rustix::net::listen(listener, 4096)?;
    let mut poller = Poller::new()?;
    poller.add(listener, usize::MAX)?;
    let mut streams: Vec<Option<(TcpStream, Vec<u8>)>> = Vec::new();
    let mut free = Vec::new();
    let (mut ready, mut buffer, mut output) = (Vec::new(), vec![0; 16 * 1024], Vec::new());
    loop {
        poller.wait(Duration::from_secs(60), &mut ready)?;
        for token in &ready {
            if *token == usize::MAX {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    let at = free.pop().unwrap_or(streams.len());
                    poller.add(&stream, at)?;
                    if at == streams.len() {
                        streams.push(None);
                    }
                    streams[at] = Some((stream, Vec::new()));
                }
                continue;
            }
            let Some(slot) = streams.get_mut(*token) else { continue };
            let Some((stream, input)) = slot else { continue };
            let open = match stream.read(&mut buffer) {
                Ok(0) => false,
                Ok(read) => {
                    input.extend_from_slice(&buffer[..read]);
                    answer(input, &mut output);
                    let written = stream.write_all(&output).is_ok();
                    output.clear();
                    written
                }
                Err(error) => error.kind() == ErrorKind::WouldBlock,
            };
            if !open {
                *slot = None;
                free.push(*token);
            }
        }
    }
}

/// Receives a body, and answers with its length if the request has the host's credential. `/verify` verifies the signature; other
/// paths only check that there is one, so that signatures and headers cost the origin the same.
async fn take(request: Request<Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let (status, text) = match taken(&parts, body).await {
        Ok(length) => (StatusCode::OK, length.to_string()),
        Err(error) => (StatusCode::FORBIDDEN, format!("{error:#}")),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response
}

async fn taken(parts: &http::request::Parts, mut body: Incoming) -> Result<usize> {
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if header("host") == KEYED {
        ensure!(header(KEY_HEADER) == SECRET, "the key is missing");
    } else {
        ensure!(header("authorization").starts_with("AWS4-HMAC-SHA256 "), "there is no signature");
    }
    if parts.uri.path() == "/model/verify/invoke" && header("host") == SIGNED {
        let whole = body.collect().await?.to_bytes();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
        let credentials = sigv4::Credentials {
            access_key_id: KEY_ID.into(),
            secret_access_key: SECRET.into(),
            session_token: Some(TOKEN.into()),
        };
        let verified = sigv4::verify(parts, &whole, &credentials, i64::try_from(now)?);
        verified.map_err(|why| anyhow::anyhow!("{}", why.message))?;
        return Ok(whole.len());
    }
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame.context("the body broke off")?.data_ref().map_or(0, Bytes::len);
    }
    Ok(length)
}
