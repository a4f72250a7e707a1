//! Reads JSON as it arrives, strictly (RFC 8259), and in bounded memory: no part of a document is kept but short texts that the
//! listener wants.

/// Deepest nesting that is read; common readers stop at this depth or later.
const DEEPEST: usize = 128;
/// Longest text that is handed over, in bytes; longer ones are only marked.
const LONGEST: usize = 512;

/// Why a document is not read.
pub(super) type Fault = &'static str;

/// A text as it is spelled in the document.
#[derive(Debug, Default)]
pub(super) struct Text {
    pub(super) bytes: Vec<u8>,
    /// Whether an escape is in it, other than that of a slash.
    pub(super) escaped: bool,
    pub(super) too_long: bool,
}

impl Text {
    /// The text, if every reader reads the same: short, without escapes.
    pub(super) fn plain(&self) -> Option<&str> {
        let text = std::str::from_utf8(&self.bytes).ok()?;
        (!self.escaped && !self.too_long).then_some(text)
    }

    fn clear(&mut self) {
        self.bytes.clear();
        (self.escaped, self.too_long) = (false, false);
    }

    fn push(&mut self, bytes: &[u8]) {
        let room = LONGEST - self.bytes.len().min(LONGEST);
        self.too_long |= bytes.len() > room;
        self.bytes.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
    }
}

/// A value that is not a container.
#[derive(Debug)]
pub(super) enum Scalar<'t> {
    Null,
    Text(&'t Text),
    /// A number, `true` or `false`.
    Other,
}

/// Receives what is read.
pub(super) trait Events {
    /// Whether the texts of the current object or array are wanted.
    fn wants_texts(&self) -> bool;
    fn key(&mut self, text: &Text) -> Result<(), Fault>;
    fn scalar(&mut self, value: &Scalar<'_>) -> Result<(), Fault>;
    fn open(&mut self, object: bool) -> Result<(), Fault>;
    fn close(&mut self);
}

/// What may come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    Value,
    ValueOrEnd,
    Key,
    KeyOrEnd,
    Colon,
    CommaOrEnd,
    Nothing,
}

/// A token that has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    None,
    /// A key or a text, and how far an escape in it has come.
    Text {
        key: bool,
        escape: Escape,
    },
    Number(Number),
    /// What is to come of `true`, `false` or `null`.
    Literal {
        left: &'static [u8],
        null: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Escape {
    None,
    Begun,
    /// So many hexadecimal digits are to come.
    Digits(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    Minus,
    Zero,
    Whole,
    Point,
    Fraction,
    E,
    Sign,
    Exponent,
}

/// The reader of one document.
#[derive(Debug)]
pub(super) struct Json<E> {
    pub(super) events: E,
    expect: Expect,
    token: Token,
    /// For each open container, whether it is an object.
    open: Vec<bool>,
    text: Text,
    wanted: bool,
    utf8: Utf8,
}

impl<E: Events> Json<E> {
    pub(super) fn new(events: E) -> Self {
        let (expect, token, text) = (Expect::Value, Token::None, Text::default());
        Self { events, expect, token, open: Vec::new(), text, wanted: false, utf8: Utf8::default() }
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.utf8.feed(bytes)?;
        let mut rest = bytes;
        while let Some((&byte, after)) = rest.split_first() {
            rest = match self.token {
                Token::None => {
                    self.begin(byte)?;
                    after
                }
                Token::Text { key, escape: Escape::None } => self.inside(key, rest)?,
                Token::Text { key, escape } => {
                    self.escape(key, escape, byte)?;
                    after
                }
                Token::Literal { left, null } => {
                    let left = left.strip_prefix(&[byte]).ok_or("it is not JSON")?;
                    self.token = Token::Literal { left, null };
                    if left.is_empty() {
                        self.events.scalar(if null { &Scalar::Null } else { &Scalar::Other })?;
                        self.after_value();
                    }
                    after
                }
                Token::Number(state) => match number(state, byte) {
                    Some(state) => {
                        self.token = Token::Number(state);
                        after
                    }
                    // The byte belongs to what follows.
                    None => {
                        self.end_number(state)?;
                        rest
                    }
                },
            };
        }
        Ok(())
    }

    /// The end of the document.
    pub(super) fn finish(&mut self) -> Result<(), Fault> {
        if let Token::Number(state) = self.token {
            self.end_number(state)?;
        }
        if self.expect == Expect::Nothing && self.token == Token::None && self.utf8.is_whole() {
            Ok(())
        } else {
            Err("it is not complete JSON")
        }
    }

    fn begin(&mut self, byte: u8) -> Result<(), Fault> {
        if matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
            return Ok(());
        }
        match (self.expect, byte) {
            (Expect::Key | Expect::KeyOrEnd, b'"') => self.begin_text(true),
            (Expect::Colon, b':') => self.expect = Expect::Value,
            (Expect::CommaOrEnd, b',') => {
                self.expect = if self.open.last() == Some(&true) { Expect::Key } else { Expect::Value };
            }
            (Expect::KeyOrEnd, b'}') | (Expect::ValueOrEnd, b']') => self.close(byte)?,
            (Expect::CommaOrEnd, b'}' | b']') => self.close(byte)?,
            (Expect::Value | Expect::ValueOrEnd, _) => self.begin_value(byte)?,
            _ => return Err("it is not JSON"),
        }
        Ok(())
    }

    fn begin_value(&mut self, byte: u8) -> Result<(), Fault> {
        match byte {
            b'{' | b'[' => {
                if self.open.len() >= DEEPEST {
                    return Err("it is nested too deeply");
                }
                let object = byte == b'{';
                self.events.open(object)?;
                self.open.push(object);
                self.expect = if object { Expect::KeyOrEnd } else { Expect::ValueOrEnd };
            }
            b'"' => self.begin_text(false),
            b'-' => self.token = Token::Number(Number::Minus),
            b'0' => self.token = Token::Number(Number::Zero),
            b'1'..=b'9' => self.token = Token::Number(Number::Whole),
            b't' => self.token = Token::Literal { left: b"rue", null: false },
            b'f' => self.token = Token::Literal { left: b"alse", null: false },
            b'n' => self.token = Token::Literal { left: b"ull", null: true },
            _ => return Err("it is not JSON"),
        }
        Ok(())
    }

    fn close(&mut self, byte: u8) -> Result<(), Fault> {
        if self.open.pop() != Some(byte == b'}') {
            return Err("it is not JSON");
        }
        self.events.close();
        self.after_value();
        Ok(())
    }

    fn after_value(&mut self) {
        self.token = Token::None;
        self.expect = if self.open.is_empty() { Expect::Nothing } else { Expect::CommaOrEnd };
    }

    fn begin_text(&mut self, key: bool) {
        self.text.clear();
        self.wanted = self.events.wants_texts();
        self.token = Token::Text { key, escape: Escape::None };
    }

    /// Passes over the plain bytes of a text; returns what is behind them.
    fn inside<'b>(&mut self, key: bool, bytes: &'b [u8]) -> Result<&'b [u8], Fault> {
        let plain = bytes.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f)).unwrap_or(bytes.len());
        let (text, rest) = bytes.split_at(plain);
        if self.wanted {
            self.text.push(text);
        }
        let Some((&byte, rest)) = rest.split_first() else { return Ok(rest) };
        match byte {
            b'"' if key => {
                self.token = Token::None;
                self.expect = Expect::Colon;
                self.events.key(&self.text)?;
            }
            b'"' => {
                self.events.scalar(&Scalar::Text(&self.text))?;
                self.after_value();
            }
            b'\\' => self.token = Token::Text { key, escape: Escape::Begun },
            _ => return Err("a text has a control character"),
        }
        Ok(rest)
    }

    fn escape(&mut self, key: bool, escape: Escape, byte: u8) -> Result<(), Fault> {
        let next = match (escape, byte) {
            // Some writers escape every slash.
            (Escape::Begun, b'/') => {
                if self.wanted {
                    self.text.push(b"/");
                }
                self.token = Token::Text { key, escape: Escape::None };
                return Ok(());
            }
            (Escape::Begun, b'"' | b'\\' | b'b' | b'f' | b'n' | b'r' | b't') => Escape::None,
            (Escape::Begun, b'u') => Escape::Digits(4),
            (Escape::Digits(1), digit) if digit.is_ascii_hexdigit() => Escape::None,
            (Escape::Digits(left), digit) if digit.is_ascii_hexdigit() => Escape::Digits(left.saturating_sub(1)),
            _ => return Err("a text has an escape that is none"),
        };
        self.text.escaped = true;
        self.token = Token::Text { key, escape: next };
        Ok(())
    }

    fn end_number(&mut self, state: Number) -> Result<(), Fault> {
        if !matches!(state, Number::Zero | Number::Whole | Number::Fraction | Number::Exponent) {
            return Err("a number is not complete");
        }
        self.events.scalar(&Scalar::Other)?;
        self.after_value();
        Ok(())
    }
}

/// The state after another byte of a number; `None` if the byte is not a part of it.
fn number(state: Number, byte: u8) -> Option<Number> {
    Some(match (state, byte) {
        (Number::Minus, b'0') => Number::Zero,
        (Number::Minus, b'1'..=b'9') | (Number::Whole, b'0'..=b'9') => Number::Whole,
        (Number::Zero | Number::Whole, b'.') => Number::Point,
        (Number::Point | Number::Fraction, b'0'..=b'9') => Number::Fraction,
        (Number::Zero | Number::Whole | Number::Fraction, b'e' | b'E') => Number::E,
        (Number::E, b'+' | b'-') => Number::Sign,
        (Number::E | Number::Sign | Number::Exponent, b'0'..=b'9') => Number::Exponent,
        _ => return None,
    })
}

/// Checks that bytes are UTF-8, also a character that is split over two pieces.
#[derive(Debug, Default)]
struct Utf8 {
    begun: Vec<u8>,
}

impl Utf8 {
    fn feed(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        const FAULT: Fault = "it is not UTF-8";
        while !self.begun.is_empty() {
            let Some((&byte, rest)) = bytes.split_first() else { return Ok(()) };
            self.begun.push(byte);
            bytes = rest;
            match std::str::from_utf8(&self.begun) {
                Ok(_) => self.begun.clear(),
                Err(error) if error.error_len().is_some() => return Err(FAULT),
                Err(_) => {}
            }
        }
        match std::str::from_utf8(bytes) {
            Ok(_) => {}
            Err(error) if error.error_len().is_some() => return Err(FAULT),
            Err(error) => self.begun.extend_from_slice(bytes.get(error.valid_up_to()..).unwrap_or_default()),
        }
        Ok(())
    }

    fn is_whole(&self) -> bool {
        self.begun.is_empty()
    }
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
