//! The answer's way back: its head, then its body as it arrives. Nothing that has arrived waits for what has not.

use std::fmt::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{BufMut, BytesMut};
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{Method, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::net::UnixStream;

use crate::answer::Refusal;
use crate::head::Head;
use crate::headers;
use crate::meter::Meter;
use crate::pool::{Lease, broken};
use crate::socket;

/// Pieces of a body are gathered up to this size while more is there already; larger ones are not copied.
const GATHERED: usize = 32 * 1024;

/// What the way back depends on.
pub(crate) struct Terms<'a> {
    pub(crate) head: &'a Head,
    /// Whether all of the request was received.
    pub(crate) received: &'a AtomicBool,
    /// Whether, as far as the request goes, its connection may serve another.
    pub(crate) poolable: bool,
}

/// How an answer ended, all of which was relayed.
pub(crate) struct Relayed {
    /// Whether another request may follow from the client.
    pub(crate) keep: bool,
    /// Whether the target's connection may serve another.
    pub(crate) reusable: bool,
}

/// How the relayed body is delimited.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Delimited {
    Nothing,
    ByLength,
    InChunks,
    ByClose,
}

/// Relays an answer. `look` gets to see its body before the client does, an empty piece first; `answered` is set as soon as any of it may have reached the client.
pub(crate) async fn relay(
    client: &UnixStream,
    response: Response<Incoming>,
    lease: &mut Lease,
    terms: &Terms<'_>,
    look: &mut (impl FnMut(&[u8]) + Send),
    answered: &OnceLock<StatusCode>,
    meter: &Meter,
) -> Result<Relayed, Refusal> {
    let (parts, mut body) = response.into_parts();
    if parts.status.is_informational() {
        return Err(Refusal::failed("protocol", "the target switched protocols without being asked to"));
    }
    if parts.headers.get_all(TRANSFER_ENCODING).iter().any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
    {
        // What is under the chunks would arrive without a word of how it is coded.
        return Err(Refusal::failed("protocol", "the target's transfer coding is not understood"));
    }
    let bodiless =
        terms.head.method == Method::HEAD || matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let length = body.size_hint().exact();
    let delimited = match length {
        _ if bodiless => Delimited::Nothing,
        Some(_) => Delimited::ByLength,
        None if terms.head.modern => Delimited::InChunks,
        None => Delimited::ByClose,
    };
    let received = || terms.received.load(Ordering::Relaxed);
    let keep = terms.head.keep_alive && delimited != Delimited::ByClose && received();

    let mut out = BytesMut::with_capacity(1024);
    let phrase = parts.status.canonical_reason().unwrap_or_default();
    append(&mut out, format_args!("HTTP/1.1 {} {phrase}\r\n", parts.status.as_u16()));
    for (name, value) in headers::returning(&parts.headers) {
        line(&mut out, name.as_str(), value.as_bytes());
    }
    match delimited {
        Delimited::Nothing => {
            // What a GET would have been answered with (RFC 9110, 8.6).
            if let Some(length) = parts.headers.get(CONTENT_LENGTH).filter(|_| parts.status != StatusCode::NO_CONTENT) {
                line(&mut out, CONTENT_LENGTH.as_str(), length.as_bytes());
            }
        }
        Delimited::ByLength => append(&mut out, format_args!("content-length: {}\r\n", length.unwrap_or_default())),
        Delimited::InChunks => out.put_slice(b"transfer-encoding: chunked\r\n"),
        Delimited::ByClose => {}
    }
    if !keep {
        out.put_slice(b"connection: close\r\n");
    }
    out.put_slice(b"\r\n");

    let _ = answered.set(parts.status);
    meter.moved();
    look(&[]);
    loop {
        let frame = match lease.now(body.frame()) {
            Some(frame) => frame,
            None => {
                flush(client, &mut out).await?;
                lease.during(body.frame()).await
            }
        };
        // Trailers are dropped: nobody was asked whether they are understood (RFC 9110, 6.5.1).
        let data = match frame.transpose().map_err(|error| broken(&error))?.map(http_body::Frame::into_data) {
            None => break,
            Some(Err(_trailers)) => continue,
            Some(Ok(data)) if data.is_empty() => continue,
            Some(Ok(data)) => data,
        };
        look(&data);
        let chunks = delimited == Delimited::InChunks;
        if chunks {
            append(&mut out, format_args!("{:x}\r\n", data.len()));
        }
        let end: &[u8] = if chunks { b"\r\n" } else { b"" };
        if out.len() + data.len() > GATHERED {
            socket::write(client, &[&out, &data, end]).await.map_err(|_| Refusal::client_gone())?;
            out.clear();
        } else {
            out.put_slice(&data);
            out.put_slice(end);
        }
        meter.count_down(data.len());
    }
    if delimited == Delimited::InChunks {
        out.put_slice(b"0\r\n\r\n");
    }
    flush(client, &mut out).await?;
    // A target that sends a body where there is none would answer the next request with it.
    let reusable =
        delimited != Delimited::Nothing && terms.poolable && received() && headers::leaves_no_doubt(&parts.headers);
    Ok(Relayed { keep, reusable })
}

async fn flush(client: &UnixStream, out: &mut BytesMut) -> Result<(), Refusal> {
    if !out.is_empty() {
        socket::write(client, &[out]).await.map_err(|_| Refusal::client_gone())?;
        out.clear();
    }
    Ok(())
}

fn line(out: &mut BytesMut, name: &str, value: &[u8]) {
    out.put_slice(name.as_bytes());
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

fn append(out: &mut BytesMut, text: std::fmt::Arguments<'_>) {
    // It grows as it has to; formatting numbers and text into it cannot fail.
    let _ = out.write_fmt(text);
}
