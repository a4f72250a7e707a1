//! Encoding and incremental decoding of server-sent events (WHATWG HTML, "Server-sent events").

use bytes::{Buf, BytesMut};

/// Maximum size in bytes of an event that the decoder accepts. It bounds the memory that a broken or hostile peer can occupy.
pub const MAX_EVENT: usize = 16 * 1024 * 1024;

/// One decoded event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Event {
    /// The `id:` field, if present.
    pub id: Option<String>,
    /// The `event:` field, if present.
    pub name: Option<String>,
    /// All `data:` fields, joined by line feeds.
    pub data: String,
}

/// Why a stream cannot be decoded.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    /// An event exceeds [`MAX_EVENT`].
    #[error("an event is longer than {MAX_EVENT} bytes")]
    TooLong,
    /// A line is not valid UTF-8.
    #[error("a line of the event stream is not UTF-8")]
    NotUtf8,
}

/// Encodes one event. `data` may contain line feeds; `id` and `name` must not.
#[must_use]
pub fn encode(id: &str, name: &str, data: &str) -> String {
    debug_assert!(!id.contains(['\n', '\r']) && !name.contains(['\n', '\r']));
    let mut out = String::with_capacity(id.len() + name.len() + data.len() + 24);
    out.push_str("id: ");
    out.push_str(id);
    out.push_str("\nevent: ");
    out.push_str(name);
    for line in data.split('\n') {
        out.push_str("\ndata: ");
        out.push_str(line);
    }
    out.push_str("\n\n");
    out
}

/// Decodes events from chunks that may end anywhere, even within a character.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
    /// Length of the beginning of `buffer` that is known to contain no line feed.
    scanned: usize,
    event: Event,
    has_data: bool,
    size: usize,
}

impl Decoder {
    /// Creates a decoder for a new stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a chunk; [`Decoder::next_event`] returns the events that it completes.
    pub fn push(&mut self, chunk: &[u8]) {
        self.buffer.extend_from_slice(chunk);
    }

    /// The next complete event; `None` if more data is needed.
    ///
    /// # Errors
    /// The stream cannot be decoded any further.
    pub fn next_event(&mut self) -> Result<Option<Event>, DecodeError> {
        loop {
            let Some(at) = self.buffer[self.scanned..].iter().position(|b| *b == b'\n') else {
                self.scanned = self.buffer.len();
                return if self.size + self.buffer.len() > MAX_EVENT { Err(DecodeError::TooLong) } else { Ok(None) };
            };
            let end = self.scanned + at;
            let line = self.buffer.split_to(end);
            self.buffer.advance(1);
            self.scanned = 0;
            self.size += line.len();
            if self.size > MAX_EVENT {
                return Err(DecodeError::TooLong);
            }
            let line =
                std::str::from_utf8(line.strip_suffix(b"\r").unwrap_or(&line)).map_err(|_| DecodeError::NotUtf8)?;
            if let Some(event) = self.line(line) {
                return Ok(Some(event));
            }
        }
    }

    fn line(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            self.size = 0;
            let event = std::mem::take(&mut self.event);
            return std::mem::take(&mut self.has_data).then_some(event);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => self.event.id = Some(value.to_owned()),
            "event" => self.event.name = Some(value.to_owned()),
            "data" => {
                if self.has_data {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
                self.has_data = true;
            }
            // A line that begins with a colon is a comment; `retry` and unknown fields are ignored.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(chunks: &[&[u8]]) -> Vec<Event> {
        let mut decoder = Decoder::new();
        let mut out = Vec::new();
        for chunk in chunks {
            decoder.push(chunk);
            while let Some(event) = decoder.next_event().expect("decodes") {
                out.push(event);
            }
        }
        out
    }

    #[test]
    fn encoded_events_are_decoded_from_any_chunks() {
        let wire = encode("7", "assistant", "Größe — 長屋\nsecond line") + &encode("8", "result", "{}");
        let whole = all(&[wire.as_bytes()]);
        assert_eq!(whole.len(), 2);
        assert_eq!(whole[0].data, "Größe — 長屋\nsecond line");
        assert_eq!((whole[0].id.as_deref(), whole[0].name.as_deref()), (Some("7"), Some("assistant")));
        for cut in 0..wire.len() {
            assert_eq!(all(&[&wire.as_bytes()[..cut], &wire.as_bytes()[cut..]]), whole, "cut at {cut}");
        }
        let single: Vec<&[u8]> = wire.as_bytes().chunks(1).collect();
        assert_eq!(all(&single), whole);
    }

    #[test]
    fn comments_and_carriage_returns_are_ignored() {
        assert_eq!(all(&[b": hello\n\n"]), vec![]);
        let events = all(&[b"event: ping\r\ndata:x\r\n\r\n"]);
        assert_eq!(events[0].data, "x");
    }

    #[test]
    fn a_line_beyond_the_limit_is_rejected() {
        let mut decoder = Decoder::new();
        decoder.push(&vec![b'a'; MAX_EVENT + 1]);
        assert_eq!(decoder.next_event(), Err(DecodeError::TooLong));
    }
}
