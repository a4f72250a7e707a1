//! Reads what the CLI prints, within bounds.

use std::io;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

/// Maximum length in bytes of a line of the CLI's output; a longer one is skipped.
const MAX_LINE: usize = 32 * 1024 * 1024;
/// Bytes from the end of the CLI's standard error that go into an error message.
const STDERR_TAIL: usize = 8 * 1024;

/// Reads lines of bounded length.
pub(crate) struct Lines<R> {
    reader: BufReader<R>,
    line: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(crate) fn of(stream: R) -> Self {
        Self { reader: BufReader::with_capacity(64 * 1024, stream), line: Vec::new() }
    }

    /// The next line; empty and too long ones are skipped.
    pub(crate) async fn next(&mut self) -> io::Result<Option<&[u8]>> {
        loop {
            self.line.clear();
            let mut skipped = 0;
            let ended = loop {
                let chunk = self.reader.fill_buf().await?;
                if chunk.is_empty() {
                    break true;
                }
                let end = chunk.iter().position(|byte| *byte == b'\n');
                let part = &chunk[..end.unwrap_or(chunk.len())];
                if self.line.len() + part.len() > MAX_LINE {
                    skipped += part.len();
                } else {
                    self.line.extend_from_slice(part);
                }
                let used = part.len() + usize::from(end.is_some());
                self.reader.consume(used);
                if end.is_some() {
                    break false;
                }
            };
            if skipped > 0 {
                tracing::warn!(bytes = self.line.len() + skipped, "skipped a line that is too long");
            } else if !self.line.is_empty() {
                break;
            }
            if ended {
                return Ok(None);
            }
        }
        Ok(Some(&self.line))
    }
}

/// The last bytes of a stream.
#[derive(Debug, Default)]
pub(crate) struct Tail(Vec<u8>);

impl Tail {
    pub(crate) async fn fill(&mut self, mut stream: impl AsyncRead + Unpin) {
        let mut chunk = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut chunk).await {
            self.0.extend_from_slice(&chunk[..count]);
            let beyond = self.0.len().saturating_sub(STDERR_TAIL);
            self.0.drain(..beyond);
        }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(text: &[u8]) -> Vec<Vec<u8>> {
        let mut lines = Lines::of(text);
        let mut found = Vec::new();
        while let Some(line) = lines.next().await.expect("reads") {
            found.push(line.to_vec());
        }
        found
    }

    #[tokio::test]
    async fn lines_are_whole_up_to_their_limit_and_a_longer_one_takes_no_other_with_it() {
        assert_eq!(lines(b"").await, Vec::<Vec<u8>>::new());
        assert_eq!(lines(b"\n\n").await, Vec::<Vec<u8>>::new());
        assert_eq!(lines(b"a\n\nb\r\n\xff c").await, [&b"a"[..], b"b\r", b"\xff c"]);
        for (length, kept) in [(MAX_LINE, true), (MAX_LINE + 1, false), (MAX_LINE + (64 << 10) + 1, false)] {
            let long = vec![b'x'; length];
            let text = [b"before\n", &long[..], b"\nafter\n", &long[..]].concat();
            let mut expected = vec![b"before".to_vec(), b"after".to_vec()];
            if kept {
                expected.insert(1, long.clone());
                expected.push(long);
            }
            assert!(lines(&text).await == expected, "{length}");
        }
    }

    #[tokio::test]
    async fn of_the_standard_error_the_end_is_kept() {
        for length in [0, 1, STDERR_TAIL - 1, STDERR_TAIL, STDERR_TAIL + 1, 3 * STDERR_TAIL + 7] {
            let all: Vec<u8> = (0..length).map(|at| b'a' + u8::try_from(at % 23).unwrap_or_default()).collect();
            let mut tail = Tail::default();
            tail.fill(&all[..]).await;
            assert_eq!(tail.text().as_bytes(), &all[length.saturating_sub(STDERR_TAIL)..], "{length}");
        }
        let mut tail = Tail::default();
        tail.fill(&b"\xff."[..]).await;
        assert_eq!(tail.text(), "\u{fffd}.");
    }
}
