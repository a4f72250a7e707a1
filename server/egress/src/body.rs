//! Decodes the framing of request bodies strictly, so that the end of a body is unambiguous.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use tokio::fs::File;
use tokio::sync::mpsc;
use tokio_util::io::ReaderStream;

use crate::answer::Refusal;
use crate::head::Framing;

/// Maximum length of a chunk-size line including extensions, in bytes.
const LONGEST_LINE: usize = 1024;
/// Maximum size of the trailers, which are read and dropped, in bytes.
const LARGEST_TRAILERS: usize = 8 * 1024;

/// The next piece of a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Data of the body.
    Data(Bytes),
    /// More bytes must be read first.
    More,
    /// The body has ended.
    End,
}

/// Decoder of a body's framing.
#[derive(Debug)]
pub(crate) struct Decoder {
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// This many bytes of the body remain (Content-Length).
    Length(u64),
    /// A chunk-size line comes next.
    Size,
    /// This many bytes of the chunk remain.
    Chunk(u64),
    /// The line end behind a chunk comes next.
    ChunkEnd,
    /// Trailers, of which this many bytes have been read.
    Trailers(usize),
    End,
}

impl Decoder {
    pub(crate) fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::End,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size,
        };
        Self { state }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.state == State::End
    }

    /// How many bytes of the body follow without any framing in between.
    pub(crate) fn plain(&self) -> u64 {
        if let State::Length(left) = self.state { left } else { 0 }
    }

    /// Counts bytes of those that the caller has read without this decoder.
    pub(crate) fn pass(&mut self, bytes: usize) {
        if let State::Length(left) = self.state {
            let left = left.saturating_sub(bytes as u64);
            self.state = if left == 0 { State::End } else { State::Length(left) };
        }
    }

    /// Removes the next piece from `buffer`.
    pub(crate) fn next(&mut self, buffer: &mut BytesMut) -> Result<Piece, Refusal> {
        loop {
            match self.state {
                State::End => return Ok(Piece::End),
                State::Length(left) | State::Chunk(left) => {
                    if buffer.is_empty() {
                        return Ok(Piece::More);
                    }
                    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                    let left = left - taken as u64;
                    self.state = match self.state {
                        State::Length(_) if left == 0 => State::End,
                        State::Length(_) => State::Length(left),
                        _ if left == 0 => State::ChunkEnd,
                        _ => State::Chunk(left),
                    };
                    return Ok(Piece::Data(buffer.split_to(taken).freeze()));
                }
                State::Size => {
                    let Some(line) = line(buffer, LONGEST_LINE)? else { return Ok(Piece::More) };
                    self.state = match chunk_size(&line)? {
                        0 => State::Trailers(0),
                        size => State::Chunk(size),
                    };
                }
                State::ChunkEnd => match line(buffer, 0)? {
                    None => return Ok(Piece::More),
                    Some(_) => self.state = State::Size,
                },
                State::Trailers(read) => {
                    let Some(line) = line(buffer, LARGEST_TRAILERS - read)? else { return Ok(Piece::More) };
                    self.state = if line.is_empty() { State::End } else { State::Trailers(read + line.len()) };
                }
            }
        }
    }
}

/// Removes a line of at most `longest` bytes from the buffer and returns it without its CR LF.
fn line(buffer: &mut BytesMut, longest: usize) -> Result<Option<BytesMut>, Refusal> {
    let within = &buffer[..buffer.len().min(longest + 2)];
    let Some(end) = within.iter().position(|byte| matches!(byte, b'\r' | b'\n' | 0)) else {
        let too_long = buffer.len() > longest + 1;
        return if too_long { Err(Refusal::malformed("a chunk's line is too long")) } else { Ok(None) };
    };
    match (within[end], within.get(end + 1)) {
        (b'\r', Some(b'\n')) => {
            let line = buffer.split_to(end);
            buffer.advance(2);
            Ok(Some(line))
        }
        (b'\r', None) if end <= longest => Ok(None),
        _ => Err(Refusal::malformed("a chunk is not well formed")),
    }
}

/// Parses a chunk-size line: hexadecimal digits, then nothing or an extension (RFC 9112, 7.1), which is dropped.
fn chunk_size(line: &[u8]) -> Result<u64, Refusal> {
    let digits = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let extension = &line[digits..];
    let plain = extension.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~'));
    let size = std::str::from_utf8(&line[..digits]).ok().and_then(|text| u64::from_str_radix(text, 16).ok());
    match size {
        Some(size) if plain && (extension.is_empty() || extension[0] == b';') => Ok(size),
        _ => Err(Refusal::malformed("a chunk's size is a hexadecimal number")),
    }
}

/// The body of a request to a target.
#[derive(Debug)]
pub(crate) enum Upload {
    /// The whole body, in memory.
    Whole(Bytes),
    /// Streamed from the client; with its length if that is known.
    Stream(mpsc::Receiver<Arrival>, Option<u64>),
    /// From a file; with its length in bytes.
    File(ReaderStream<File>, u64),
}

/// A part of a streamed body. If the sender is dropped before `End`, the body is incomplete.
#[derive(Debug)]
pub(crate) enum Arrival {
    Data(Bytes),
    End,
}

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.get_mut() {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Stream(arrivals, left) => Poll::Ready(match ready!(arrivals.poll_recv(cx)) {
                Some(Arrival::Data(data)) => {
                    if let Some(left) = left {
                        *left = left.saturating_sub(data.len() as u64);
                    }
                    Some(Ok(Frame::data(data)))
                }
                Some(Arrival::End) => {
                    arrivals.close();
                    *left = Some(0);
                    None
                }
                None if *left == Some(0) => None,
                None => Some(Err(io::Error::other("the client broke off"))),
            }),
            Self::File(reader, left) => Poll::Ready(match ready!(futures::Stream::poll_next(Pin::new(reader), cx)) {
                Some(Ok(data)) => {
                    *left = left.saturating_sub(data.len() as u64);
                    Some(Ok(Frame::data(data)))
                }
                Some(Err(error)) => Some(Err(error)),
                None => None,
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Stream(_, left) => *left == Some(0),
            Self::File(_, left) => *left == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream(_, left) => left.map_or_else(SizeHint::default, SizeHint::with_exact),
            Self::File(_, left) => SizeHint::with_exact(*left),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Decoded = (Vec<u8>, Vec<u8>);

    /// The body, and what is left behind it, of bytes that come in pieces of `step`.
    fn decode(framing: Framing, bytes: &[u8], step: usize) -> Result<Option<Decoded>, u16> {
        let (mut decoder, mut buffer, mut body) = (Decoder::new(framing), BytesMut::new(), Vec::new());
        let mut input = bytes.chunks(step);
        loop {
            match decoder.next(&mut buffer).map_err(|refusal| refusal.status.as_u16())? {
                Piece::Data(data) => body.extend_from_slice(&data),
                Piece::End => {
                    buffer.extend(input.flatten());
                    return Ok(Some((body, buffer.to_vec())));
                }
                Piece::More => match input.next() {
                    Some(more) => buffer.extend_from_slice(more),
                    None => return Ok(None),
                },
            }
        }
    }

    #[test]
    fn a_body_is_the_same_however_it_is_split() {
        let chunked = b"4\r\nWiki\r\n0a;name=\"v\"\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\nGET /";
        for step in 1..=chunked.len() {
            let decoded = decode(Framing::Chunked, chunked, step).expect("well formed").expect("whole");
            assert_eq!(decoded, (b"Wiki0123456789".to_vec(), b"GET /".to_vec()), "{step}");
            let decoded = decode(Framing::Length(7), chunked, step).expect("well formed").expect("whole");
            assert_eq!(decoded, (chunked[..7].to_vec(), chunked[7..].to_vec()), "{step}");
        }
        for end in 0..chunked.len() - 5 {
            assert_eq!(decode(Framing::Chunked, &chunked[..end], 3), Ok(None), "cut off at {end}");
        }
        assert_eq!(decode(Framing::None, b"GET /", 5), Ok(Some((vec![], b"GET /".to_vec()))));
    }

    #[test]
    fn ambiguous_chunks_are_refused() {
        for bad in [
            "+4\r\nWiki\r\n0\r\n\r\n",
            "-4\r\nWiki\r\n0\r\n\r\n",
            "0x4\r\nWiki\r\n0\r\n\r\n",
            " 4\r\nWiki\r\n0\r\n\r\n",
            "4 \r\nWiki\r\n0\r\n\r\n",
            "\r\nWiki\r\n0\r\n\r\n",
            "g\r\nWiki\r\n0\r\n\r\n",
            "4\nWiki\r\n0\r\n\r\n",
            "4\r\nWiki\n0\r\n\r\n",
            "4\r\nWikipedia\r\n0\r\n\r\n",
            "4\r\nWiki\rX0\r\n\r\n",
            "4;a\nb\r\nWiki\r\n0\r\n\r\n",
            "4;a\u{1}\r\nWiki\r\n0\r\n\r\n",
            "10000000000000000\r\n",
            "fffffffffffffffff\r\n",
            "0\r\nTrailer: x\n\r\n",
            "0\r\n\n",
        ] {
            for step in [1, bad.len()] {
                assert_eq!(decode(Framing::Chunked, bad.as_bytes(), step), Err(400), "{bad:?}");
            }
        }
    }

    #[test]
    fn lines_between_chunks_have_limits() {
        let extension = format!("4;{}", "x".repeat(LONGEST_LINE));
        assert_eq!(decode(Framing::Chunked, extension.as_bytes(), 100), Err(400));
        let trailers = format!("0\r\n{}", "a: b\r\n".repeat(LARGEST_TRAILERS / 4 + 2));
        assert_eq!(decode(Framing::Chunked, trailers.as_bytes(), 100), Err(400));
    }
}
