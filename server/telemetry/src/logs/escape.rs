//! Characters that must not reach a log as they are, and their escapes.

use std::fmt::{self, Debug, Display, Write as _};
use std::io;

use tracing_subscriber::fmt::MakeWriter;

/// Whether a character could end a line, control a terminal (ECMA-48: C0, DEL, C1), or make text look other than it is: the
/// bidirectional controls of UAX 9 and characters that are not shown.
fn is_deceptive(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// Writes `text` to `out`, with `escape` in place of writing a deceptive character.
fn write_escaped<W: fmt::Write>(
    out: &mut W,
    mut text: &str,
    escape: impl Fn(&mut W, char) -> fmt::Result,
) -> fmt::Result {
    while let Some((at, character)) = text.char_indices().find(|(_, character)| is_deceptive(*character)) {
        out.write_str(&text[..at])?;
        escape(out, character)?;
        text = &text[at + character.len_utf8()..];
    }
    out.write_str(text)
}

/// A value's `Debug` output, with deceptive characters as in a Rust literal: `\n`, `\u{1b}`.
pub(super) struct Escaped<'a>(pub &'a dyn Debug);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Escaping<'a, 'b>(&'a mut fmt::Formatter<'b>);
        impl fmt::Write for Escaping<'_, '_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                write_escaped(self.0, text, |out, character| write!(out, "{}", character.escape_default()))
            }
        }
        write!(Escaping(f), "{:?}", self.0)
    }
}

/// Writes to `W` what a JSON formatter has written, with deceptive characters as `\uXXXX`. They occur only within strings, where
/// RFC 8259 (section 7) allows that for any character and demands it only for C0.
pub(super) struct EscapedJson<W>(pub W);

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for EscapedJson<W> {
    type Writer = EscapedLine<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        EscapedLine(self.0.make_writer())
    }
}

/// The writer of one line, which the subscriber writes as a whole.
pub(super) struct EscapedLine<W>(W);

impl<W: io::Write> io::Write for EscapedLine<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let (json, end) = text.strip_suffix('\n').map_or((&*text, ""), |json| (json, "\n"));
        let mut escaped = String::with_capacity(line.len());
        let written = write_escaped(&mut escaped, json, |out, character| {
            character.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(out, "\\u{unit:04x}"))
        });
        written.map_err(io::Error::other)?;
        escaped.push_str(end);
        self.0.write_all(escaped.as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
