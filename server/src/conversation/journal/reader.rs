//! Readers of a journal: one yields SSE frames for a client, the other lines for the server itself.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use rustix::io::{Errno, ReadWriteFlags};
use tokio::sync::watch;

use super::line::{EventLine, NOTE};
use super::{Journal, Progress};

/// How many bytes are read at a time. hyper queues up to sixteen pieces for a client that does not read; together they stay below
/// 64 KiB.
const PIECE: usize = 2 * 1024;
/// Upper bound of the length of `<agent event> <name> `, in bytes.
const LONGEST_HEAD: usize = 128;

/// Reads a journal from a given event on and follows it to its end.
#[derive(Debug)]
pub struct Reader {
    journal: Arc<Journal>,
    progress: watch::Receiver<Progress>,
    offset: u64,
    /// Number of the last event whose line was begun.
    seq: usize,
    /// Events up to this number are skipped.
    after: usize,
    inside: Inside,
    /// Whether the line that was begun is `done`, the last one.
    last: bool,
    ended: bool,
}

/// The kind of line in the middle of which the next piece begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inside {
    /// The next piece begins a line.
    Nothing,
    /// An event that is sent to the client.
    Event,
    /// A note, or an event that is skipped.
    Skipped,
}

impl Reader {
    pub(super) fn new(
        journal: Arc<Journal>,
        progress: watch::Receiver<Progress>,
        offset: u64,
        seq: usize,
        after: usize,
    ) -> Self {
        Self { journal, progress, offset, seq, after, inside: Inside::Nothing, last: false, ended: false }
    }

    /// The next piece of the SSE stream: some events, or a part of a long one. `None` after `done`, and when this process stops.
    /// Cancel-safe.
    ///
    /// # Errors
    /// The file cannot be read, or is not a journal.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        while !self.ended {
            let offset = self.offset;
            let ready = self.progress.wait_for(|progress| progress.bytes > offset || progress.over).await;
            let Ok(seen) = ready.map(|seen| *seen) else { return Ok(None) };
            if seen.bytes <= offset {
                return Ok(None);
            }
            let wanted = usize::try_from(seen.bytes - offset).unwrap_or(usize::MAX).min(PIECE);
            let piece = self.read(wanted).await?;
            let mut out = BytesMut::with_capacity(piece.len() * 2);
            let used = self.frame(&piece, &mut out)?;
            if used == 0 {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("not a journal from byte {offset} on")));
            }
            self.offset += used as u64;
            if !out.is_empty() {
                return Ok(Some(out.freeze()));
            }
        }
        Ok(None)
    }

    /// Reads from the page cache without blocking (RWF_NOWAIT); other reads run on the blocking pool.
    async fn read(&self, wanted: usize) -> io::Result<Vec<u8>> {
        let mut piece = vec![0; wanted];
        let count = match self.journal.read_pending(self.offset, &mut piece) {
            Some(count) => count,
            None => {
                let mut slices = [IoSliceMut::new(&mut piece)];
                match rustix::io::preadv2(&self.journal.file, &mut slices, self.offset, ReadWriteFlags::NOWAIT) {
                    Ok(count @ 1..) => count,
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS) => {
                        let (journal, offset) = (self.journal.clone(), self.offset);
                        let read = tokio::task::spawn_blocking(move || {
                            let mut piece = vec![0; wanted];
                            let count = journal.file.read_at(&mut piece, offset)?;
                            piece.truncate(count);
                            Ok(piece)
                        });
                        return read.await.unwrap_or_else(|error| Err(io::Error::other(error)));
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        };
        piece.truncate(count);
        Ok(piece)
    }

    /// Appends the frames for a piece of the file to `out`; returns how many bytes of the piece were used.
    fn frame(&mut self, piece: &[u8], out: &mut BytesMut) -> io::Result<usize> {
        let mut rest = piece;
        while let Some(first) = rest.first() {
            if self.inside == Inside::Nothing {
                if *first == NOTE {
                    self.inside = Inside::Skipped;
                } else {
                    let Some(head) = self.head(rest, out)? else { break };
                    rest = &rest[head..];
                }
            }
            let end = rest.iter().position(|byte| *byte == b'\n');
            if self.inside == Inside::Event {
                out.put_slice(&rest[..end.unwrap_or(rest.len())]);
            }
            let Some(end) = end else { return Ok(piece.len()) };
            if std::mem::replace(&mut self.inside, Inside::Nothing) == Inside::Event {
                out.put_slice(b"\n\n");
            }
            rest = &rest[end + 1..];
            if self.last {
                self.ended = true;
                return Ok(piece.len() - rest.len());
            }
        }
        Ok(piece.len() - rest.len())
    }

    /// Begins an event's frame; returns the length of the line's head, or `None` if the piece ends within it.
    fn head(&mut self, rest: &[u8], out: &mut BytesMut) -> io::Result<Option<usize>> {
        let head = &rest[..rest.len().min(LONGEST_HEAD)];
        let Some(brace) = head.iter().position(|byte| *byte == b'{') else {
            let torn = rest.len() >= LONGEST_HEAD || head.contains(&b'\n');
            return if torn {
                Err(io::Error::new(io::ErrorKind::InvalidData, "a line that is not an event"))
            } else {
                Ok(None)
            };
        };
        let event = std::str::from_utf8(&head[..brace]).ok().and_then(EventLine::parse);
        let event = event.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a line that is not an event"))?;
        self.seq += 1;
        self.last = event.name == "done";
        if self.seq <= self.after {
            self.inside = Inside::Skipped;
        } else {
            self.inside = Inside::Event;
            let head = format!("id: {}:{}\nevent: {}\ndata: ", self.journal.run_id, self.seq, event.name);
            out.put_slice(head.as_bytes());
        }
        Ok(Some(brace))
    }
}

/// The complete lines of a journal, one by one.
#[derive(Debug)]
pub struct Lines<'a> {
    reader: BufReader<Section<'a>>,
    line: Vec<u8>,
}

/// The first `end` bytes of a file, read independently of the file's own position.
#[derive(Debug)]
struct Section<'a> {
    file: &'a File,
    offset: u64,
    end: u64,
}

impl io::Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.offset).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read_at(&mut buffer[..left], self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

impl<'a> Lines<'a> {
    pub(super) fn new(file: &'a File, end: u64) -> Self {
        Self { reader: BufReader::with_capacity(64 * 1024, Section { file, offset: 0, end }), line: Vec::new() }
    }

    /// The next line without its line feed; `None` after the last complete line.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn next_line(&mut self) -> io::Result<Option<&[u8]>> {
        self.line.clear();
        self.reader.read_until(b'\n', &mut self.line)?;
        Ok(self.line.strip_suffix(b"\n"))
    }
}
