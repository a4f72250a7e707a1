//! Inspects a tunnel between the client's first ClientHello and the end of the handshake in plain text.
//!
//! A server may answer the first ClientHello by asking for another (HelloRetryRequest, RFC 8446, section 4.1.4), and the second
//! one names a host again. So both directions are read, record by record, until no further ClientHello can come: every one
//! must name the tunnel's host, and none may come unrequested.

use crate::hello::{self, CLIENT_HELLO, HANDSHAKE, HEADER, Hello, LONGEST, LONGEST_RECORD};
use crate::host::Host;

/// Record types (RFC 8446, section 5.1).
const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const APPLICATION_DATA: u8 = 23;
/// Handshake type (RFC 8446, section 4).
const SERVER_HELLO: u8 = 2;
/// Extension in which a server names TLS 1.3 (RFC 8446, section 4.2.1).
const SUPPORTED_VERSIONS: u16 = 43;
const TLS_1_3: [u8; 2] = [3, 4];
/// The random value that makes a ServerHello a HelloRetryRequest (RFC 8446, section 4.1.3): SHA-256 of that word.
pub(crate) const RETRY: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2, 0xa2, 0x11,
    0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

/// The server's answer to the last ClientHello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// None yet: the client may not send plain text.
    Awaited,
    /// HelloRetryRequest: the client must send another ClientHello.
    Retry,
    /// TLS 1.3: all further messages of the handshake are encrypted, in records of application data.
    Tls13,
    /// TLS 1.2 or older: messages other than ClientHello come in plain text until ChangeCipherSpec.
    Older,
}

/// Watches both directions of a tunnel after the first ClientHello.
#[derive(Debug)]
pub(crate) struct Watch {
    /// How many of the client's next bytes have been checked already.
    judged: usize,
    answer: Answer,
    over: bool,
    client: Records,
    server: Records,
    /// The server's first message since the last ClientHello, as far as it has arrived.
    server_message: Vec<u8>,
    /// In TLS 1.2, the beginnings of the client's messages.
    client_messages: Messages,
}

impl Watch {
    /// Begins after the client's first ClientHello, of `hello` bytes with its record headers, has been checked.
    pub(crate) fn new(hello: usize) -> Self {
        Self {
            judged: hello,
            answer: Answer::Awaited,
            over: false,
            client: Records::default(),
            server: Records::default(),
            server_message: Vec::new(),
            client_messages: Messages::default(),
        }
    }

    /// Whether no further ClientHello can come, or would be accepted by the server.
    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    /// Reads bytes from the server before they are passed on to the client.
    pub(crate) fn server_says(&mut self, bytes: &[u8]) {
        if self.over {
            return;
        }
        let (answer, message) = (&mut self.answer, &mut self.server_message);
        let read = self.server.read(bytes, &mut |kind, fragment| {
            if *answer == Answer::Awaited && kind == HANDSHAKE {
                message.extend_from_slice(&fragment.bytes[..fragment.bytes.len().min(LONGEST - message.len())]);
                if let Some(said) = server_hello(message) {
                    *answer = said;
                    message.clear();
                }
            }
            Ok(())
        });
        // If the server does not speak TLS, there is no answer, and the client may not send plain text.
        if read.is_err() {
            tracing::trace!("a server's answer to a ClientHello is not TLS");
        }
    }

    /// Reads bytes from the client before they are passed on to the server. Returns how many of them may be passed on now: all,
    /// or those before an incomplete ClientHello. An error is the reason to end the tunnel.
    pub(crate) fn client_says(&mut self, bytes: &[u8], host: &Host) -> Result<usize, &'static str> {
        let mut at = self.judged.min(bytes.len());
        self.judged -= at;
        while at < bytes.len() && !self.over {
            if self.answer == Answer::Retry && self.client.at_start() && bytes[at] == HANDSHAKE {
                let mut scan = hello::Scan::default();
                let hello = scan.next(&bytes[at..]);
                if hello == Hello::Incomplete {
                    return Ok(at);
                }
                if let Some(reason) = hello::objection(&hello, host) {
                    return Err(reason);
                }
                at += scan.seen();
                self.answer = Answer::Awaited;
                continue;
            }
            at += self.client_record(&bytes[at..])?;
        }
        Ok(bytes.len())
    }

    /// Reads on in the record at the beginning of `bytes`, to its end or that of `bytes`; how far that was.
    fn client_record(&mut self, bytes: &[u8]) -> Result<usize, &'static str> {
        let (answer, messages) = (self.answer, &mut self.client_messages);
        let mut over = false;
        let read = self.client.read_one(bytes, &mut |kind, fragment| match (kind, answer) {
            (HANDSHAKE, Answer::Older) => messages.read(fragment.bytes),
            (HANDSHAKE, Answer::Awaited | Answer::Tls13 | Answer::Retry) => Err("tls_malformed"),
            (CHANGE_CIPHER_SPEC, Answer::Older) | (APPLICATION_DATA, Answer::Older | Answer::Tls13) => {
                over = true;
                Ok(())
            }
            // Early data, and the middlebox compatibility records (RFC 8446, sections 2.3 and D.4).
            (CHANGE_CIPHER_SPEC | APPLICATION_DATA | ALERT, _) => Ok(()),
            _ => Err("tls_malformed"),
        })?;
        self.over |= over;
        Ok(read)
    }
}

/// Reads the server's first message; `None` while it is incomplete or if it is not a ServerHello.
fn server_hello(message: &[u8]) -> Option<Answer> {
    let mut message = hello::Reader(message);
    let kind = message.take(1)?[0];
    let length = message.take(3)?;
    let length = u32::from_be_bytes([0, length[0], length[1], length[2]]) as usize;
    let mut body = hello::Reader(message.take(length)?);
    if kind != SERVER_HELLO {
        return None;
    }
    let (_version, random) = (body.take(2)?, body.take(32)?);
    if random == RETRY {
        return Some(Answer::Retry);
    }
    let (_session, _suite, _compression) = (body.vector8()?, body.take(2)?, body.take(1)?);
    let Some(mut extensions) = body.vector16() else { return Some(Answer::Older) };
    while let (Some(kind), Some(content)) = (extensions.u16(), extensions.vector16()) {
        if kind == SUPPORTED_VERSIONS && content.0 == TLS_1_3 {
            return Some(Answer::Tls13);
        }
    }
    Some(Answer::Older)
}

/// A part of a record's content; never empty.
struct Fragment<'a> {
    bytes: &'a [u8],
}

/// Splits a stream into records, however its bytes arrive.
#[derive(Debug, Default)]
struct Records {
    header: Vec<u8>,
    /// How many bytes of the current record's content are yet to come.
    left: usize,
}

type Content<'a> = &'a mut dyn FnMut(u8, Fragment<'_>) -> Result<(), &'static str>;

impl Records {
    /// Whether the next byte is a record's first.
    fn at_start(&self) -> bool {
        self.header.is_empty()
    }

    fn read(&mut self, mut bytes: &[u8], content: Content<'_>) -> Result<(), &'static str> {
        while !bytes.is_empty() {
            let read = self.read_one(bytes, content)?;
            bytes = &bytes[read..];
        }
        Ok(())
    }

    /// Reads one record or the part that has arrived; returns its length.
    fn read_one(&mut self, bytes: &[u8], content: Content<'_>) -> Result<usize, &'static str> {
        let mut at = 0;
        if self.left == 0 {
            at = (HEADER - self.header.len()).min(bytes.len());
            self.header.extend_from_slice(&bytes[..at]);
            let [_, major, _, high, low] = self.header[..] else { return Ok(at) };
            self.left = usize::from(u16::from_be_bytes([high, low]));
            // Encrypted records are longer by up to 2048 bytes (RFC 5246, section 6.2.3).
            if major != 3 || self.left == 0 || self.left > LONGEST_RECORD + 2048 {
                return Err("tls_malformed");
            }
        }
        let taken = self.left.min(bytes.len() - at);
        if taken > 0 {
            content(self.header[0], Fragment { bytes: &bytes[at..at + taken] })?;
            self.left -= taken;
        }
        if self.left == 0 {
            self.header.clear();
        }
        Ok(at + taken)
    }
}

/// Reassembles a client's handshake messages from records.
#[derive(Debug, Default)]
struct Messages {
    header: Vec<u8>,
    left: usize,
}

impl Messages {
    fn read(&mut self, mut bytes: &[u8]) -> Result<(), &'static str> {
        while !bytes.is_empty() {
            if self.left > 0 {
                let taken = self.left.min(bytes.len());
                (self.left, bytes) = (self.left - taken, &bytes[taken..]);
                continue;
            }
            self.header.push(bytes[0]);
            bytes = &bytes[1..];
            if self.header[0] == CLIENT_HELLO {
                return Err("tls_malformed");
            }
            if let [_, a, b, c] = self.header[..] {
                self.left = u32::from_be_bytes([0, a, b, c]) as usize;
                self.header.clear();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "handshake_tests.rs"]
mod tests;
