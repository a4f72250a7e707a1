//! Bodies that are held until they are complete, because their hash is sent ahead of them: in memory while they are small,
//! then in a file without a name, within the listener's quota.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use bytes::buf::Limit;
use bytes::{BufMut, Bytes, BytesMut};
use sha2::{Digest, Sha256};
use tokio_util::io::ReaderStream;

use crate::answer::Refusal;
use crate::body::Upload;
use crate::model::{Found, Reader};
use crate::quota::{Quota, Resource, Share};

/// Largest body that is held in memory, in bytes.
const IN_MEMORY: usize = 1024 * 1024;
/// Size of a read from a file, in bytes.
const READ: usize = 256 * 1024;

/// A body that is being held.
#[derive(Debug)]
pub(crate) struct Holding {
    quota: Arc<Quota>,
    share: Share,
    /// Two descriptors: the file's, and that of its second opening while it is sent.
    descriptors: Option<Share>,
    hash: Sha256,
    length: u64,
    most: u64,
    memory: BytesMut,
    file: Option<File>,
    /// Reads the body while it arrives.
    reader: Option<Box<Reader>>,
}

impl Holding {
    /// Holds at most `most` bytes. Space for the expected bytes is allocated at once, because untouched pages cost no memory.
    pub(crate) fn new(quota: &Arc<Quota>, most: u64, expected: u64) -> Self {
        let expected = usize::try_from(expected).unwrap_or(IN_MEMORY);
        let memory = if expected > IN_MEMORY { BytesMut::new() } else { BytesMut::with_capacity(expected) };
        Self {
            share: Share::new(quota, Resource::Memory),
            descriptors: None,
            quota: quota.clone(),
            hash: Sha256::new(),
            length: 0,
            most,
            memory,
            file: None,
            reader: None,
        }
    }

    /// Lets `reader` see the body.
    pub(crate) fn read_by(mut self, reader: Option<Reader>) -> Self {
        self.reader = reader.map(Box::new);
        self
    }

    /// Space in memory for more bytes, if there is any; [`Self::read`] adds the bytes that were read into it.
    pub(crate) fn room(&mut self, bytes: u64) -> Option<Limit<&mut BytesMut>> {
        let most = self.memory.capacity().min(IN_MEMORY).saturating_sub(self.memory.len());
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).min(most);
        (bytes > 0 && self.file.is_none()).then(|| (&mut self.memory).limit(bytes))
    }

    /// Adds the bytes that were read into [`Self::room`].
    pub(crate) fn read(&mut self, bytes: usize) -> Result<(), Refusal> {
        self.lengthen(bytes)?;
        let new = &self.memory[self.memory.len() - bytes..];
        self.hash.update(new);
        if let Some(reader) = &mut self.reader {
            reader.feed(new)?;
        }
        if self.share.grow(bytes as u64) { Ok(()) } else { self.spill() }
    }

    /// Adds bytes. A file is written on this thread, because the write goes to the page cache.
    pub(crate) fn add(&mut self, data: &[u8]) -> Result<(), Refusal> {
        if self.file.is_none() && self.memory.len() + data.len() <= IN_MEMORY {
            self.memory.extend_from_slice(data);
            return self.read(data.len());
        }
        self.lengthen(data.len())?;
        self.hash.update(data);
        if let Some(reader) = &mut self.reader {
            reader.feed(data)?;
        }
        if self.file.is_none() {
            self.spill()?;
        }
        self.write(data)
    }

    fn lengthen(&mut self, bytes: usize) -> Result<(), Refusal> {
        self.length += bytes as u64;
        if self.length > self.most { Err(Refusal::signed_body_too_large()) } else { Ok(()) }
    }

    fn spill(&mut self) -> Result<(), Refusal> {
        self.descriptors = Some(self.quota.take(Resource::Descriptors, 2).ok_or_else(Refusal::no_buffers)?);
        let file = nameless().map_err(|error| failed(&error))?;
        self.share = Share::new(&self.quota, Resource::Disk);
        self.file = Some(file);
        let memory = std::mem::take(&mut self.memory);
        self.write(&memory)
    }

    fn write(&mut self, data: &[u8]) -> Result<(), Refusal> {
        if !self.share.grow(data.len() as u64) {
            return Err(Refusal::no_buffers());
        }
        let file = self.file.as_mut().ok_or(Refusal::internal("buffer"))?;
        file.write_all(data).map_err(|error| failed(&error))
    }

    /// The body, and what was read in it.
    pub(crate) fn finish(self) -> Result<(Held, Option<Found>), Refusal> {
        let found = self.reader.map(|reader| reader.finish()).transpose()?;
        let sha256 = self.hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let shares = (self.share, self.descriptors);
        let held = Held { memory: self.memory.freeze(), file: self.file, length: self.length, sha256, _shares: shares };
        Ok((held, found))
    }
}

/// A complete body that is held.
#[derive(Debug)]
pub(crate) struct Held {
    memory: Bytes,
    file: Option<File>,
    pub(crate) length: u64,
    /// SHA-256 of the body, hexadecimal.
    pub(crate) sha256: String,
    _shares: (Share, Option<Share>),
}

impl Held {
    /// The body to send; can be called repeatedly.
    pub(crate) fn upload(&self) -> Result<Upload, Refusal> {
        let Some(file) = &self.file else { return Ok(Upload::Whole(self.memory.clone())) };
        // A file that is opened again has its own position, at the beginning.
        let file = File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(|error| failed(&error))?;
        Ok(Upload::File(ReaderStream::with_capacity(tokio::fs::File::from_std(file), READ), self.length))
    }
}

/// Creates a file without a name, which no other process can open and which is deleted when it is closed.
fn nameless() -> io::Result<File> {
    use rustix::fs::{CWD, Mode, OFlags, openat};
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(openat(CWD, std::env::temp_dir(), flags, Mode::RUSR | Mode::WUSR)?.into())
}

fn failed(error: &io::Error) -> Refusal {
    tracing::error!(%error, "a body that has to be signed cannot be held");
    Refusal::internal("buffer")
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::quota::Shared;
    use crate::settings::Limits;

    fn quota(held_in_memory: usize, held_on_disk: u64) -> Arc<Quota> {
        // A listener gets a quarter of the common part.
        let (held_in_memory, held_on_disk) = (4 * held_in_memory, 4 * held_on_disk);
        let limits =
            Limits { held_in_memory, held_on_disk, reserved_in_memory: 0, reserved_on_disk: 0, ..Limits::default() };
        Shared::new(&limits).listener(None)
    }

    async fn sent(held: &Held) -> Bytes {
        held.upload().expect("an upload").collect().await.expect("a body").to_bytes()
    }

    #[tokio::test]
    async fn a_body_is_the_same_in_memory_and_in_a_file_and_can_be_sent_twice() {
        for (size, spilled) in
            [(0, false), (1000, false), (IN_MEMORY, false), (IN_MEMORY + 1, true), (3 * IN_MEMORY, true)]
        {
            let quota = quota(64 << 20, 64 << 20);
            let body: Vec<u8> = (0..size).map(|n| u8::try_from(n % 251).expect("small")).collect();
            let mut holding = Holding::new(&quota, u64::MAX, 0);
            for piece in body.chunks(100_000) {
                holding.add(piece).expect("held");
            }
            let (held, _) = holding.finish().expect("nobody reads it");
            assert_eq!((held.file.is_some(), held.length), (spilled, size as u64));
            assert_eq!(sent(&held).await, body);
            assert_eq!(sent(&held).await, body, "again");
            let sha256: String = Sha256::digest(&body).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(held.sha256, sha256);
        }
    }

    #[test]
    fn memory_reserves_only_what_it_may_hold() {
        let quota = quota(64 << 20, 64 << 20);
        let mut holding = Holding::new(&quota, u64::MAX, 2 * IN_MEMORY as u64);
        assert!(holding.room(u64::MAX).is_none(), "none is made for what will be in a file");
        // Memory grows by doubling.
        for piece in [IN_MEMORY / 2 + 1, 100] {
            holding.add(&vec![7; piece]).expect("held");
        }
        let room = holding.room(u64::MAX).map_or(0, |room| room.remaining_mut());
        assert!(room <= IN_MEMORY / 2 - 101, "{room}");
        let mut small = Holding::new(&quota, u64::MAX, 1000);
        assert_eq!(small.room(10).map(|room| room.remaining_mut()), Some(10), "nothing of what follows is read");
    }

    #[tokio::test]
    async fn quotas_are_enforced_and_returned() {
        let quota = quota(1000, 2000);
        let mut first = Holding::new(&quota, u64::MAX, 0);
        first.add(&[1; 900]).expect("in memory");
        let mut second = Holding::new(&quota, u64::MAX, 0);
        second.add(&[2; 900]).expect("in a file, as memory is used up");
        assert!(first.file.is_none() && second.file.is_some());
        let full = second.add(&[2; 1200]).expect_err("the disk's budget is used up, too");
        assert_eq!(full.status.as_u16(), 429);
        drop((first, second));
        let mut third = Holding::new(&quota, 950, 0);
        third.add(&[3; 900]).expect("in memory again");
        assert!(third.file.is_none());
        assert_eq!(third.add(&[3; 51]).expect_err("too large").status.as_u16(), 413);
    }
}
