//! Relays a response to the client: its head, then its body as it arrives. Bytes that have arrived are not held back.

use std::fmt::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{BufMut, BytesMut};
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, Method, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::net::UnixStream;

use crate::answer::Refusal;
use crate::head::{Framing, Head};
use crate::headers;
use crate::meter::Meter;
use crate::redact::Redactor;
use crate::socket;
use crate::upstream::{Lease, broken};

/// Small pieces of a body that have already arrived are gathered up to this size, in bytes; larger pieces are not copied.
const GATHERED: usize = 32 * 1024;

/// The properties of a request that its response depends on.
pub(crate) struct Terms<'a> {
    pub(crate) head: &'a Head,
    /// Whether the whole request has been received.
    pub(crate) received: &'a AtomicBool,
    /// Whether the request permits its connection to serve another one.
    pub(crate) reuse: Reuse,
    /// In which responses the request's credential is hidden.
    pub(crate) redacts: Redacts,
}

/// In which responses a credential is hidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Redacts {
    /// In all; those that cannot be read are refused.
    Everything,
    /// In those that can be read.
    WhatCanBeRead,
}

/// Who sees a response before the client does.
pub(crate) struct Seen<'a, L> {
    /// Sees each piece of the body as it was sent, an empty piece first.
    pub(crate) look: &'a mut L,
    /// Hides the credential of the request, if it has one.
    pub(crate) redactor: Option<&'a mut Redactor>,
}

/// Whether a target's connection may serve another request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reuse {
    Yes,
    No,
}

/// Whether a request's connection may serve another one. Only POST, PUT and PATCH give a body a meaning; servers ignore the
/// body of other methods, leave it on the connection, and read it as the next request (RFC 9110, section 9.3.1).
pub(crate) fn reuse_after(head: &Head, sent: &HeaderMap) -> Reuse {
    let no_body = matches!(head.framing, Framing::None | Framing::Length(0));
    let framed = no_body || [Method::POST, Method::PUT, Method::PATCH].contains(&head.method);
    if framed && !headers::authenticates_request_connection(sent) { Reuse::Yes } else { Reuse::No }
}

/// How a completely relayed response ended.
pub(crate) struct Relayed {
    /// Whether another request may follow from the client.
    pub(crate) keep: bool,
    /// Whether the target's connection may serve another.
    pub(crate) upstream: Reuse,
}

/// How the relayed body is delimited.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Delimited {
    Nothing,
    ByLength,
    InChunks,
    ByClose,
}

/// Relays a response. `answered` is set once a part may have reached the client. If the response is cut off, the bytes that arrived are
/// passed on before the error is returned.
pub(crate) async fn relay<L: FnMut(&[u8]) + Send>(
    client: &UnixStream,
    response: Response<Incoming>,
    lease: &mut Lease,
    terms: &Terms<'_>,
    mut seen: Seen<'_, L>,
    answered: &OnceLock<StatusCode>,
    meter: &Meter,
) -> Result<Relayed, Refusal> {
    let (parts, body) = response.into_parts();
    refuse_untranslatable(&parts)?;
    let bodiless =
        terms.head.method == Method::HEAD || matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if !bodiless && seen.redactor.is_some() && terms.redacts == Redacts::Everything {
        Redactor::check(&parts.headers)?;
    }
    let length = body.size_hint().exact();
    let delimited = match length {
        _ if bodiless => Delimited::Nothing,
        Some(_) => Delimited::ByLength,
        None if terms.head.modern => Delimited::InChunks,
        None => Delimited::ByClose,
    };
    // A target that answers before the end of a body may take the rest of it for a request.
    let received = terms.received.load(Ordering::Relaxed);
    let keep = terms.head.keep_alive && delimited != Delimited::ByClose && received;

    let mut out = head(&parts, delimited, length, keep, seen.redactor.as_deref());
    let _ = answered.set(parts.status);
    meter.moved();
    (seen.look)(&[]);
    let passed = pass_on(client, body, lease, delimited, &mut out, &mut seen, meter).await;
    flush(client, &mut out).await?;
    passed?;
    // If a target sends a body behind a response that has none, that body would answer the next request.
    let clean = delimited != Delimited::Nothing && received && headers::leaves_no_doubt(&parts.headers);
    Ok(Relayed { keep, upstream: if clean { terms.reuse } else { Reuse::No } })
}

/// Refuses a response that the client would not understand, or would misread.
fn refuse_untranslatable(parts: &http::response::Parts) -> Result<(), Refusal> {
    if parts.status.is_informational() {
        return Err(Refusal::failed("protocol", "the target switched protocols without being asked to"));
    }
    if parts.headers.get_all(TRANSFER_ENCODING).iter().any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
    {
        // Without the chunks, the content would arrive in a coding that no header names.
        return Err(Refusal::failed("protocol", "the target's transfer coding is not supported"));
    }
    Ok(())
}

/// The head of the response to the client.
fn head(
    parts: &http::response::Parts,
    delimited: Delimited,
    length: Option<u64>,
    keep: bool,
    redactor: Option<&Redactor>,
) -> BytesMut {
    let mut out = BytesMut::with_capacity(1024);
    let phrase = parts.status.canonical_reason().unwrap_or_default();
    append(&mut out, format_args!("HTTP/1.1 {} {phrase}\r\n", parts.status.as_u16()));
    for (name, value) in headers::returning(&parts.headers) {
        match redactor.and_then(|redactor| redactor.header(value.as_bytes())) {
            Some(hidden) => line(&mut out, name.as_str(), &hidden),
            None => line(&mut out, name.as_str(), value.as_bytes()),
        }
    }
    match delimited {
        Delimited::Nothing => {
            // The length of the response to a GET (RFC 9110, section 8.6).
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
    out
}

/// Passes the body on as it arrives. Bytes that are in `out` when this returns, also with an error, are yet to be written.
async fn pass_on<L: FnMut(&[u8]) + Send>(
    client: &UnixStream,
    mut body: Incoming,
    lease: &mut Lease,
    delimited: Delimited,
    out: &mut BytesMut,
    seen: &mut Seen<'_, L>,
    meter: &Meter,
) -> Result<(), Refusal> {
    let chunks = delimited == Delimited::InChunks;
    let mut over = false;
    while !over {
        let frame = match lease.now(body.frame()) {
            Some(frame) => frame,
            None => {
                flush(client, out).await?;
                lease.during(body.frame()).await
            }
        };
        // Trailers are dropped, because the client has not said that it accepts them (RFC 9110, section 6.5.1).
        let data = match frame.transpose().map_err(|error| broken(&error))?.map(http_body::Frame::into_data) {
            None => {
                over = true;
                seen.redactor.as_mut().map(|redactor| redactor.rest()).unwrap_or_default()
            }
            Some(Err(_trailers)) => continue,
            Some(Ok(data)) => {
                (seen.look)(&data);
                match &mut seen.redactor {
                    Some(redactor) => redactor.piece(data),
                    None => data,
                }
            }
        };
        if data.is_empty() {
            continue;
        }
        if chunks {
            append(out, format_args!("{:x}\r\n", data.len()));
        }
        let end: &[u8] = if chunks { b"\r\n" } else { b"" };
        if out.len() + data.len() > GATHERED {
            socket::write(client, &[out, &data, end]).await.map_err(|_| Refusal::client_gone())?;
            out.clear();
        } else {
            out.put_slice(&data);
            out.put_slice(end);
        }
        meter.count_down(data.len());
        meter.pace().await;
    }
    if chunks {
        out.put_slice(b"0\r\n\r\n");
    }
    Ok(())
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
    // The buffer grows as needed, so formatting into it cannot fail.
    let _ = out.write_fmt(text);
}
