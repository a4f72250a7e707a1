//! Reads the server name a TLS client asks for (RFC 6066, 3) from its first message, however that is split.
//!
//! The message is passed on byte for byte, so one that two parsers could read differently is refused. No TLS library is used,
//! because libraries read the name only together with everything else they need, and refuse clients that are merely old.

use crate::host::Host;

/// Maximum size of a first message, in bytes. Post-quantum key shares make some of 2 KiB; none needs 16.
pub(crate) const LONGEST: usize = 16 * 1024;
/// Record and handshake types (RFC 8446, sections 5.1 and 4).
pub(crate) const HANDSHAKE: u8 = 22;
pub(crate) const CLIENT_HELLO: u8 = 1;
/// First bytes of a handshake record, whatever its version.
const RECORD: [u8; 2] = [HANDSHAKE, 3];
/// Length of a record's header, in bytes.
pub(crate) const HEADER: usize = 5;
/// Maximum length of a record in plain text, in bytes (RFC 8446, section 5.1).
pub(crate) const LONGEST_RECORD: usize = 1 << 14;
/// Extensions (RFC 6066, 3; RFC 9849).
const SERVER_NAME: u16 = 0;
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
/// Type of a DNS name, the only type defined.
const HOST_NAME: u8 = 0;

/// Result of reading a client's first bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hello {
    /// More bytes are needed.
    Incomplete,
    /// The bytes are not TLS.
    NotTls,
    /// The bytes begin as TLS and continue otherwise, or the message is too long.
    Malformed,
    /// A ClientHello without a server name.
    Nameless,
    /// A ClientHello with this server name.
    For(String),
    /// A ClientHello that may hide another server name (ECH, RFC 9849).
    Hidden,
}

/// Reads a client's first bytes, all of them from the beginning.
#[cfg(any(test, fuzzing))]
pub(crate) fn read(bytes: &[u8]) -> Hello {
    Scan::default().next(bytes)
}

/// Reads a client's first bytes as they arrive. Each byte is read once, however small the pieces.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// The message, reassembled from its records.
    message: Vec<u8>,
    /// Number of bytes in complete records.
    seen: usize,
}

impl Scan {
    /// Reads on; `bytes` are all bytes from the beginning, more with each call.
    pub(crate) fn next(&mut self, bytes: &[u8]) -> Hello {
        if bytes.iter().zip(&RECORD).any(|(byte, wanted)| byte != wanted) {
            return Hello::NotTls;
        }
        loop {
            // Looked at first: a message of another type may be whole already.
            if self.message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
                return Hello::Malformed;
            }
            match length_of(&self.message) {
                Some(length) if length > LONGEST => return Hello::Malformed,
                // Nothing may come between it and the server's answer that is part of the same message flight.
                Some(length) if self.message.len() > length => return Hello::Malformed,
                Some(length) if self.message.len() == length => {
                    return parse(&self.message[4..]).unwrap_or(Hello::Malformed);
                }
                _ => {}
            }
            match record(&bytes[self.seen..]) {
                Ok(Some(fragment)) => {
                    self.message.extend_from_slice(fragment);
                    self.seen += HEADER + fragment.len();
                }
                // Many small records make the bytes on the wire more than those of the message.
                Ok(None) if bytes.len() > 6 * LONGEST => return Hello::Malformed,
                Ok(None) => return Hello::Incomplete,
                Err(NotTls) => return Hello::Malformed,
            }
        }
    }
}

impl Scan {
    /// Number of bytes in the records that were read; once the message is complete, this is where it ends.
    pub(crate) fn seen(&self) -> usize {
        self.seen
    }
}

struct NotTls;

/// The first record's content; `None` if it is incomplete.
fn record(bytes: &[u8]) -> Result<Option<&[u8]>, NotTls> {
    if bytes.iter().zip(&RECORD).any(|(byte, wanted)| byte != wanted) {
        return Err(NotTls);
    }
    let Some(([_, _, _, high, low], rest)) = bytes.split_first_chunk::<HEADER>() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    if length == 0 || length > LONGEST_RECORD {
        return Err(NotTls);
    }
    Ok(rest.get(..length))
}

/// Length of the whole message including its header of four bytes, once those have arrived.
fn length_of(message: &[u8]) -> Option<usize> {
    let [_, a, b, c] = *message.first_chunk()?;
    Some(4 + u32::from_be_bytes([0, a, b, c]) as usize)
}

/// Parses a ClientHello (RFC 8446, 4.1.2). Earlier versions have the same form, as far as it is read here.
fn parse(body: &[u8]) -> Option<Hello> {
    let mut body = Reader(body);
    body.take(2 + 32)?;
    let session = body.vector8()?;
    let (suites, compressions) = (body.vector16()?, body.vector8()?);
    if session.0.len() > 32 || suites.0.is_empty() || suites.0.len() % 2 != 0 || compressions.0.is_empty() {
        return None;
    }
    if body.0.is_empty() {
        // A version without extensions.
        return Some(Hello::Nameless);
    }
    let mut extensions = body.vector16()?;
    if !body.0.is_empty() {
        return None;
    }
    let (mut seen, mut name, mut hidden) = (Vec::new(), None, false);
    while !extensions.0.is_empty() {
        let (kind, content) = (extensions.u16()?, extensions.vector16()?);
        if seen.contains(&kind) {
            return None;
        }
        seen.push(kind);
        match kind {
            SERVER_NAME => name = Some(server_name(content)?),
            ENCRYPTED_CLIENT_HELLO => hidden = true,
            _ => {}
        }
    }
    Some(match name {
        _ if hidden => Hello::Hidden,
        None => Hello::Nameless,
        Some(name) => Hello::For(name),
    })
}

/// The name in the extension. There must be exactly one, because servers differ in what they do with several.
fn server_name(mut content: Reader<'_>) -> Option<String> {
    let mut list = content.vector16()?;
    let (kind, name) = (list.take(1)?, list.vector16()?);
    let whole = content.0.is_empty() && list.0.is_empty() && kind == [HOST_NAME];
    let text = std::str::from_utf8(name.0).ok()?;
    (whole && !text.is_empty()).then(|| text.to_owned())
}

/// The bytes that are yet to be read.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.take(2).and_then(|bytes| bytes.try_into().ok()).map(u16::from_be_bytes)
    }

    pub(crate) fn vector8(&mut self) -> Option<Reader<'a>> {
        let length = self.take(1)?[0];
        self.take(length.into()).map(Reader)
    }

    pub(crate) fn vector16(&mut self) -> Option<Reader<'a>> {
        let length = self.u16()?;
        self.take(length.into()).map(Reader)
    }
}

/// Why a client with this first message must not reach `host`; `None` if it may.
pub(crate) fn objection(hello: &Hello, host: &Host) -> Option<&'static str> {
    match (hello, host) {
        (Hello::NotTls, _) => Some("not_tls"),
        (Hello::Incomplete | Hello::Malformed, _) => Some("tls_malformed"),
        (Hello::Hidden, _) => Some("sni_hidden"),
        // An address is not sent as a server name.
        (Hello::Nameless, Host::Address(_)) => None,
        (Hello::Nameless, Host::Name(_)) => Some("sni_missing"),
        // RFC 6066, 3: without a trailing dot; case does not matter.
        (Hello::For(name), Host::Name(host)) if name.eq_ignore_ascii_case(host) => None,
        (Hello::For(_), _) => Some("sni_mismatch"),
    }
}

#[cfg(test)]
#[path = "hello_tests.rs"]
pub(crate) mod tests;
