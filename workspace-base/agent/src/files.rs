//! Lists, reads, writes and deletes the workspace's files for the server.
//!
//! The agent has the same privileges as the other processes in the container, so this is no protection against them. It avoids
//! accidents: symbolic links are not followed, a file is written atomically, and anything but regular files is left alone. The
//! workspace is a memory file system, so the blocking calls here do not wait for a disk.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use nagaya_protocol::FileEntry;
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};

use crate::memory;

/// Size in bytes of a chunk when a file is read.
const CHUNK: usize = 64 * 1024;
/// Files listed per chunk.
const BATCH: usize = 256;
/// Maximum length of a path in bytes (`PATH_MAX`).
const MAX_PATH: usize = 4096;
/// Prefix of the temporary name under which a file is written.
const UNFINISHED: &str = ".nagaya-unfinished-";
/// Time limit between two chunks of a request body.
const IDLE_LIMIT: Duration = Duration::from_secs(30);

/// Bytes that are written between two looks at the memory that is left.
const MEMORY_CHECK: usize = 1 << 20;

/// Number of the next temporary file.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Lists every regular file below `root` as lines of JSON, in chunks of a few hundred.
pub(crate) fn list(root: PathBuf) -> impl Stream<Item = Bytes> {
    let walk = Walk { root, pending: VecDeque::from([String::new()]), current: None, complete: true };
    futures::stream::unfold(Some(walk), async |walk| {
        let mut walk = walk?;
        let mut lines = Vec::new();
        for _ in 0..BATCH {
            match walk.next() {
                Some(entry) => push_line(&mut lines, &entry),
                None => {
                    push_line(&mut lines, &FileEntry::End { whole: walk.complete });
                    return Some((lines.into(), None));
                }
            }
        }
        // The agent has one thread; let other tasks run.
        tokio::task::yield_now().await;
        Some((lines.into(), Some(walk)))
    })
}

fn push_line(lines: &mut Vec<u8>, entry: &FileEntry) {
    match serde_json::to_vec(entry) {
        Ok(line) => lines.extend_from_slice(&line),
        Err(error) => unreachable!("an entry is plain data: {error}"),
    }
    lines.push(b'\n');
}

/// A breadth-first walk through the workspace.
struct Walk {
    root: PathBuf,
    /// Directories that are still to be read.
    pending: VecDeque<String>,
    current: Option<(String, std::fs::ReadDir)>,
    complete: bool,
}

impl Walk {
    fn next(&mut self) -> Option<FileEntry> {
        loop {
            if self.current.is_none() {
                let dir = self.pending.pop_front()?;
                match std::fs::read_dir(self.root.join(&dir)) {
                    Ok(entries) => self.current = Some((dir, entries)),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(_) => self.complete = false,
                }
                continue;
            }
            let (dir, entries) = self.current.as_mut()?;
            let Some(entry) = entries.next() else {
                self.current = None;
                continue;
            };
            let found = entry.and_then(|entry| Ok((entry.file_name(), entry.metadata()?)));
            let (name, metadata) = match found {
                Ok(found) => found,
                // Removed since the directory was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(_) => {
                    self.complete = false;
                    continue;
                }
            };
            let Some(name) = name.to_str().filter(|name| dir.len() + name.len() < MAX_PATH) else {
                self.complete = false;
                continue;
            };
            let path = if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") };
            if metadata.is_dir() {
                self.pending.push_back(path);
            } else if metadata.is_file() && !name.starts_with(UNFINISHED) {
                let version = metadata.ctime().saturating_mul(1_000_000_000).saturating_add(metadata.ctime_nsec());
                let mode = metadata.mode() & 0o777;
                return Some(FileEntry::File { path, size: metadata.len(), version, mode });
            }
        }
    }
}

/// The components of a path below the workspace.
fn parts(path: &str) -> io::Result<Vec<&str>> {
    let valid = |part: &&str| !matches!(*part, "" | "." | "..") && !part.contains('\0');
    let parts: Vec<&str> = path.split('/').collect();
    match parts.iter().all(valid) && !path.is_empty() {
        true => Ok(parts),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "a path below the workspace is accepted")),
    }
}

/// What happens to parent directories that do not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MissingParents {
    /// They are created.
    Create,
    /// The operation fails.
    Fail,
}

/// Opens the parent directory of a file; returns it with the file's name in it. No symbolic link is followed.
fn parent<'a>(root: &Path, path: &'a str, missing: MissingParents) -> io::Result<(OwnedFd, &'a str)> {
    let mut parts = parts(path)?;
    let name = parts.pop().unwrap_or_default();
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    let mut dir = rustix::fs::open(root, flags, Mode::empty())?;
    for part in parts {
        if missing == MissingParents::Create {
            match rustix::fs::mkdirat(dir.as_fd(), part, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        dir = rustix::fs::openat(dir.as_fd(), part, flags, Mode::empty())?;
    }
    Ok((dir, name))
}

/// Opens a file; returns its length and its content, which ends early if the file is truncated meanwhile.
pub(crate) fn read(root: &Path, path: &str) -> io::Result<(u64, impl Stream<Item = Bytes> + use<>)> {
    let (dir, name) = parent(root, path, MissingParents::Fail)?;
    // Opening a named pipe must not block.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = regular(rustix::fs::openat(dir.as_fd(), name, flags, Mode::empty())?)?;
    let size = file.metadata()?.len();
    let chunks = futures::stream::unfold((file, 0u64), move |(mut file, seen)| async move {
        let left = usize::try_from(size - seen).unwrap_or(usize::MAX).min(CHUNK);
        let mut chunk = vec![0; left];
        let read = file.read(&mut chunk).ok().filter(|read| *read > 0)?;
        chunk.truncate(read);
        tokio::task::yield_now().await;
        Some((chunk.into(), (file, seen + read as u64)))
    });
    Ok((size, chunks))
}

/// What happens to a file that exists when the whole of another one for its path has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Existing {
    /// It is replaced.
    Replace,
    /// It stays, and the new one is refused.
    Keep,
}

/// Writes a request's body to a file, which appears once the whole body has arrived.
pub(crate) async fn write(
    root: &Path,
    path: &str,
    (mode, existing): (u32, Existing),
    mut body: Incoming,
) -> io::Result<()> {
    leave_memory(root, body.size_hint().lower())?;
    let (mut file, unfinished) = Unfinished::begin(root, path)?;
    let mut unchecked = 0;
    loop {
        let frame = tokio::time::timeout(IDLE_LIMIT, body.frame()).await.map_err(|_| io::ErrorKind::TimedOut)?;
        let Some(frame) = frame else { break };
        if let Ok(data) = frame.map_err(io::Error::other)?.into_data() {
            unchecked += data.len();
            if unchecked >= MEMORY_CHECK {
                // What was written since the last check is counted already.
                leave_memory(root, data.len() as u64)?;
                unchecked = 0;
            }
            file.write_all(&data)?;
        }
    }
    unfinished.finish(&file, mode, existing)
}

/// Creates or replaces a file of so many bytes below the workspace.
pub(crate) fn create(root: &Path, path: &str, content: &mut impl Read, bytes: u64) -> io::Result<()> {
    leave_memory(root, bytes)?;
    let (mut file, unfinished) = Unfinished::begin(root, path)?;
    io::copy(&mut content.take(bytes), &mut file)?;
    unfinished.finish(&file, 0o644, Existing::Replace)
}

/// Opens a regular file, anywhere. A link is not followed, and a named pipe does not block.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    regular(rustix::fs::open(path, flags, Mode::empty())?)
}

fn regular(file: OwnedFd) -> io::Result<File> {
    let file = File::from(file);
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
    }
}

/// Refuses a file of so many bytes that would leave the CLI too little memory.
fn leave_memory(root: &Path, bytes: u64) -> io::Result<()> {
    let refused = memory::too_full_for(bytes).filter(|_| memory::counts(root));
    refused.map_or(Ok(()), |why| Err(io::Error::new(io::ErrorKind::StorageFull, why)))
}

/// Deletes a file. A symbolic link is deleted itself, not its target; a directory is refused.
pub(crate) fn delete(root: &Path, path: &str) -> io::Result<()> {
    let (dir, name) = parent(root, path, MissingParents::Fail)?;
    match rustix::fs::unlinkat(dir.as_fd(), name, AtFlags::empty()) {
        Err(rustix::io::Errno::ISDIR) => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a directory")),
        other => Ok(other?),
    }
}

/// A file under a temporary name, which is removed on drop.
struct Unfinished<'a> {
    dir: OwnedFd,
    /// The temporary name; `None` once the file has its own.
    temporary: Option<String>,
    name: &'a str,
}

impl<'a> Unfinished<'a> {
    /// Creates the file and the directories that it is in.
    fn begin(root: &Path, path: &'a str) -> io::Result<(File, Self)> {
        let (dir, name) = parent(root, path, MissingParents::Create)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let temporary = format!("{UNFINISHED}{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let file = rustix::fs::openat(dir.as_fd(), temporary.as_str(), flags, Mode::from_raw_mode(0o600))?;
        Ok((File::from(file), Self { dir, temporary: Some(temporary), name }))
    }

    /// Gives the file its permissions and its name.
    fn finish(mut self, file: &File, mode: u32, existing: Existing) -> io::Result<()> {
        rustix::fs::fchmod(file, Mode::from_raw_mode(mode & 0o777))?;
        let flags = match existing {
            Existing::Replace => RenameFlags::empty(),
            Existing::Keep => RenameFlags::NOREPLACE,
        };
        if let Some(temporary) = &self.temporary {
            let dir = self.dir.as_fd();
            rustix::fs::renameat_with(dir, temporary.as_str(), dir, self.name, flags)?;
        }
        self.temporary = None;
        Ok(())
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary
            && let Err(error) = rustix::fs::unlinkat(self.dir.as_fd(), temporary.as_str(), AtFlags::empty())
        {
            tracing::warn!(%error, "a temporary file was not removed");
        }
    }
}

/// Decodes a form-encoded value of a query string; `None` if it is missing or not valid UTF-8.
pub(crate) fn query_value(query: &str, name: &str) -> Option<String> {
    let text = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let (code, after) = after.split_at_checked(2)?;
                bytes.push(u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok()?);
                rest = after;
            }
            other => bytes.push(other),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_encoded_query_is_decoded() {
        assert_eq!(query_value("path=a+b%26%E9%95%B7&mode=644", "path").as_deref(), Some("a b&長"));
        assert_eq!(query_value("path=a&mode=644", "mode").as_deref(), Some("644"));
        assert_eq!(query_value("path=%F", "path"), None);
        assert_eq!(query_value("", "path"), None);
    }

    #[test]
    fn only_paths_below_the_workspace_are_accepted() {
        for bad in ["", "/", "/etc/passwd", "../a", "a/../b", "a//b", "a/", ".", "a\0"] {
            assert!(parts(bad).is_err(), "{bad:?}");
        }
        assert_eq!(parts("a/b c").expect("a path"), ["a", "b c"]);
    }
}
