//! A parser for server-sent events that behaves as a browser (WHATWG HTML, section 9.2 "Server-sent events").

/// One dispatched event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SseEvent {
    /// The last event id in force when it was dispatched; empty if there was none.
    pub id: String,
    /// Its `event:` field, or `message`.
    pub name: String,
    /// Its `data:` lines, joined by a line feed.
    pub data: String,
}

/// Parses events from chunks that may be split anywhere, even inside a character or between CR and LF.
#[derive(Debug, Default)]
pub struct SseReader {
    line: Vec<u8>,
    /// The last byte was a CR, so a following LF belongs to it.
    after_cr: bool,
    /// The first line was read, so no byte-order mark may follow.
    begun: bool,
    last_id: String,
    name: String,
    data: String,
    has_data: bool,
    retry_ms: Option<u64>,
    comments: u64,
    not_utf8: u64,
}

impl SseReader {
    /// Parses the next bytes and returns the events that they complete.
    pub fn push(&mut self, chunk: &[u8]) -> Vec<SseEvent> {
        let mut events = Vec::new();
        for &byte in chunk {
            let after_cr = std::mem::replace(&mut self.after_cr, byte == b'\r');
            match byte {
                b'\n' if after_cr => {}
                b'\n' | b'\r' => events.extend(self.end_of_line()),
                _ => self.line.push(byte),
            }
        }
        events
    }

    /// Whether the stream is inside an event; a stream that ends here was cut off.
    #[must_use]
    pub fn is_inside_event(&self) -> bool {
        !self.line.is_empty() || self.has_data || !self.name.is_empty()
    }

    /// The last reconnection time of the stream, in milliseconds.
    #[must_use]
    pub fn retry_ms(&self) -> Option<u64> {
        self.retry_ms
    }

    /// The number of comment lines.
    #[must_use]
    pub fn comments(&self) -> u64 {
        self.comments
    }

    /// The number of lines with invalid UTF-8, which were read with replacement characters.
    #[must_use]
    pub fn not_utf8(&self) -> u64 {
        self.not_utf8
    }

    fn end_of_line(&mut self) -> Option<SseEvent> {
        let line = std::mem::take(&mut self.line);
        let mut bytes = line.as_slice();
        if !std::mem::replace(&mut self.begun, true) {
            bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
        }
        if bytes.is_empty() {
            return self.dispatch();
        }
        let text = String::from_utf8_lossy(bytes);
        self.not_utf8 += u64::from(matches!(text, std::borrow::Cow::Owned(_)));
        let (field, value) = match text.split_once(':') {
            Some(("", _)) => {
                self.comments += 1;
                return None;
            }
            Some((field, value)) => (field, value.strip_prefix(' ').unwrap_or(value)),
            None => (text.as_ref(), ""),
        };
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
                self.has_data = true;
            }
            "id" if !value.contains('\0') => value.clone_into(&mut self.last_id),
            "retry" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                self.retry_ms = value.parse().ok();
            }
            _ => {}
        }
        None
    }

    fn dispatch(&mut self) -> Option<SseEvent> {
        let name = std::mem::take(&mut self.name);
        let mut data = std::mem::take(&mut self.data);
        if !std::mem::take(&mut self.has_data) {
            return None;
        }
        data.pop();
        let name = if name.is_empty() { "message".to_owned() } else { name };
        Some(SseEvent { id: self.last_id.clone(), name, data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: &str, name: &str, data: &str) -> SseEvent {
        SseEvent { id: id.into(), name: name.into(), data: data.into() }
    }

    #[test]
    fn any_cut_gives_the_same_events() {
        let text = "\u{feff}: hello\r\nid: r:1\r\nevent: text_delta\r\ndata: {\"text\":\"長屋\"}\r\n\r\ndata\rdata\r\rid\ndata:  a\ndata:b\n\n";
        let expected = [
            event("r:1", "text_delta", "{\"text\":\"長屋\"}"),
            event("r:1", "message", "\n"),
            event("", "message", " a\nb"),
        ];
        for size in 1..=text.len() {
            let mut reader = SseReader::default();
            let events: Vec<_> = text.as_bytes().chunks(size).flat_map(|chunk| reader.push(chunk)).collect();
            assert_eq!(events, expected, "in chunks of {size}");
            assert_eq!((reader.comments(), reader.not_utf8()), (1, 0));
            assert!(!reader.is_inside_event());
        }
    }

    #[test]
    fn lines_without_data_dispatch_nothing_and_names_do_not_linger() {
        let mut reader = SseReader::default();
        assert_eq!(reader.push(b"event: lost\n\ndata: x\n\n"), [event("", "message", "x")]);
        assert_eq!(reader.push(b"unknown: y\nid: a\0b\nretry: 12x\n\n"), []);
        assert_eq!(reader.retry_ms(), None);
        assert_eq!(reader.push(b"retry: 1500\nid:7\ndata:\n\n"), [event("7", "message", "")]);
        assert_eq!(reader.retry_ms(), Some(1500));
        assert_eq!(reader.push(b"data: z\n\n"), [event("7", "message", "z")], "the id stays in force");
    }

    #[test]
    fn an_unfinished_event_is_not_dispatched_but_seen() {
        let mut reader = SseReader::default();
        assert_eq!(reader.push(b"data: half\n"), []);
        assert!(reader.is_inside_event());
    }

    #[test]
    fn a_mark_is_dropped_at_the_very_start_only() {
        let mut reader = SseReader::default();
        reader.push(b"\n\xEF\xBB\xBFdata: x\n\n");
        assert_eq!(reader.push(b"data: y\n\n"), [event("", "message", "y")]);
    }

    #[test]
    fn bad_text_is_counted() {
        let mut reader = SseReader::default();
        assert_eq!(reader.push(b"data: \xFF\n\n"), [event("", "message", "\u{FFFD}")]);
        assert_eq!(reader.not_utf8(), 1);
    }
}
