//! Parses the head of a request strictly: a head that two parsers could read differently is refused, not repaired.
//!
//! RFC 9112 applies. In addition these are refused: bare LF or CR, obsolete line folding, more than one `Content-Length`, any
//! `Transfer-Encoding` but `chunked`, both of them at once, white space or control characters in the target.

use bytes::{Buf, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::answer::Refusal;
use crate::headers;

/// Maximum size of a head, in bytes.
pub(crate) const LARGEST: usize = 16 * 1024;
/// Maximum number of headers in a head.
const MOST_HEADERS: usize = 100;

/// A request's head.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) method: Method,
    /// The target as it was sent: visible ASCII only.
    pub(crate) target: String,
    /// All headers, including the hop-by-hop ones.
    pub(crate) headers: HeaderMap,
    pub(crate) framing: Framing,
    /// Whether another request may follow on this connection.
    pub(crate) keep_alive: bool,
    /// The client waits for `100 Continue` before it sends the body.
    pub(crate) expects_continue: bool,
    /// Whether the version is HTTP/1.1, not 1.0.
    pub(crate) modern: bool,
}

/// How a body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is no body.
    None,
    /// By Content-Length, in bytes.
    Length(u64),
    /// By chunks.
    Chunked,
}

/// Finds the end of a head while it arrives, and faults in its lines before it is complete.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    seen: usize,
}

impl Scan {
    /// Removes the head from `buffer` and parses it, once it is complete.
    pub(crate) fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Head>, Refusal> {
        let Some(end) = self.end(buffer)? else {
            return if buffer.len() > LARGEST { Err(Refusal::head_too_large()) } else { Ok(None) };
        };
        if end > LARGEST {
            return Err(Refusal::head_too_large());
        }
        let head = parse(&buffer[..end])?;
        buffer.advance(end);
        self.seen = 0;
        Ok(Some(head))
    }

    /// Finds the empty line that ends the head. Every line must end in CR LF; a bare CR or LF is an error.
    fn end(&mut self, bytes: &[u8]) -> Result<Option<usize>, Refusal> {
        while let Some(byte) = bytes.get(self.seen) {
            match (byte, bytes.get(self.seen + 1)) {
                (b'\r', Some(b'\n')) => {
                    self.seen += 2;
                    if bytes[..self.seen - 2].ends_with(b"\r\n") {
                        return Ok(Some(self.seen));
                    }
                    if self.seen == 2 {
                        return Err(Refusal::malformed("an empty line before the request"));
                    }
                }
                (b'\r', None) => break,
                (b'\r' | b'\n', _) => return Err(Refusal::malformed("lines end in CR LF")),
                (0, _) => return Err(Refusal::malformed("a zero byte in the head")),
                _ => self.seen += 1,
            }
        }
        Ok(None)
    }
}

fn parse(bytes: &[u8]) -> Result<Head, Refusal> {
    let mut lines = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut request = httparse::Request::new(&mut lines);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::head_too_large()),
        Ok(_) | Err(_) => return Err(Refusal::malformed("the head is not HTTP/1.1")),
    }
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
        return Err(Refusal::malformed("the head is not HTTP/1.1"));
    };
    if !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Refusal::malformed("the target has characters that must be percent-encoded"));
    }
    let mut headers = HeaderMap::with_capacity(request.headers.len() + 4);
    for line in request.headers.iter() {
        let name = HeaderName::from_bytes(line.name.as_bytes());
        let value = HeaderValue::from_bytes(line.value);
        let (Ok(name), Ok(value)) = (name, value) else { return Err(Refusal::malformed("a header is not one")) };
        if headers::is_twin(&name) {
            return Err(Refusal::malformed(
                "a header's name is read as another's by some servers; write it with hyphens",
            ));
        }
        headers.append(name, value);
    }
    let modern = minor == 1;
    if headers.get_all(HOST).iter().count() > 1 {
        return Err(Refusal::malformed("more than one Host"));
    }
    // RFC 9112, 3.2.
    if modern && !headers.contains_key(HOST) {
        return Err(Refusal::malformed("no Host"));
    }
    let framing = framing(&headers, modern)?;
    Ok(Head {
        method: Method::from_bytes(method.as_bytes()).map_err(|_| Refusal::malformed("the method is not one"))?,
        target: target.to_owned(),
        framing,
        keep_alive: modern && !has_token(&headers, &CONNECTION, "close"),
        expects_continue: expects_continue(&headers, framing)?,
        headers,
        modern,
    })
}

/// How the body is delimited (RFC 9112, 6.3); ambiguous framing is an error.
fn framing(headers: &HeaderMap, modern: bool) -> Result<Framing, Refusal> {
    let (mut lengths, mut codings) =
        (headers.get_all(CONTENT_LENGTH).iter(), headers.get_all(TRANSFER_ENCODING).iter());
    match (lengths.next(), codings.next()) {
        (None, None) => Ok(Framing::None),
        (Some(_), Some(_)) => Err(Refusal::malformed("both Content-Length and Transfer-Encoding")),
        (Some(length), None) if lengths.next().is_none() => length_of(length.as_bytes()).map(Framing::Length),
        (Some(_), None) => Err(Refusal::malformed("more than one Content-Length")),
        (None, Some(coding))
            if modern && codings.next().is_none() && coding.as_bytes().eq_ignore_ascii_case(b"chunked") =>
        {
            Ok(Framing::Chunked)
        }
        (None, Some(_)) => Err(Refusal::malformed("the one Transfer-Encoding that is understood is chunked")),
    }
}

fn length_of(value: &[u8]) -> Result<u64, Refusal> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let number = digits.then(|| std::str::from_utf8(value).ok()?.parse().ok()).flatten();
    number.ok_or(Refusal::malformed("Content-Length is a number"))
}

fn expects_continue(headers: &HeaderMap, framing: Framing) -> Result<bool, Refusal> {
    match headers.get(EXPECT) {
        None => Ok(false),
        Some(value) if value.as_bytes().eq_ignore_ascii_case(b"100-continue") => {
            Ok(!matches!(framing, Framing::None | Framing::Length(0)))
        }
        Some(_) => Err(Refusal::expectation()),
    }
}

/// Whether a list-valued header contains this token.
pub(crate) fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    // Compared as bytes, so that a value that is not ASCII does not hide the other tokens.
    let mut words = headers.get_all(name).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    words.any(|word| word.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

#[cfg(test)]
#[path = "head_tests.rs"]
mod tests;
