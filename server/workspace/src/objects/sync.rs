//! A room's files and the bucket's, made the same: into the room before a run, out of it after.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::conversation_store::{ConversationStore, StoredFile};
use super::manifest::{Manifest, ManifestEntry};
use super::{MAX_FILE_BYTES, MAX_FILES, StorageError};

/// Files under way at once.
const AT_ONCE: usize = 4;
/// How long the manifest may take after what it tells of.
const MANIFEST: Duration = Duration::from_secs(5);

/// A file's bytes, as they come.
pub type Content = BoxStream<'static, Result<Bytes, StorageError>>;

/// Why a room did not give or take files.
#[derive(Debug, thiserror::Error)]
pub enum RoomFilesError {
    /// The room's agent cannot be talked to.
    #[error("the room: {0}")]
    Agent(String),
    /// The file went, or changed, while it was read.
    #[error("the file changed while it was read")]
    Changed,
    /// It is larger than what is kept.
    #[error("the file is larger than {MAX_FILE_BYTES} bytes")]
    TooLarge,
}

/// A file in a room, by the room's own account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomFile {
    /// Below the workspace, parts divided by '/'.
    pub path: String,
    /// In bytes.
    pub size: u64,
    /// Whatever changes when the file does.
    pub version: i64,
    /// Permission bits.
    pub mode: u32,
}

/// The room's side of a sync.
#[async_trait]
pub trait RoomFiles: Send + Sync {
    /// Every regular file, at most `most`; `false` where there are more.
    ///
    /// # Errors
    /// The room does not answer.
    async fn list(&self, most: usize) -> Result<(Vec<RoomFile>, bool), RoomFilesError>;

    /// A file's content; breaks off where it is not as long as it is said to be.
    ///
    /// # Errors
    /// It is gone, or the room does not answer.
    async fn read(&self, file: &RoomFile) -> Result<Content, RoomFilesError>;

    /// Makes a file; all of it is there, or nothing.
    ///
    /// # Errors
    /// The content breaks off, or the room does not take it.
    async fn write(&self, path: &str, size: u64, mode: u32, content: Content) -> Result<(), StorageError>;
}

/// What a sync did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SyncReport {
    /// Files that went over.
    pub moved: usize,
    /// Files that were deleted on the other side.
    pub deleted: usize,
    /// Files that did not go over, and why: at most one of each reason is told.
    pub skipped: usize,
    /// One reason for that, for a person.
    pub skip_reason: Option<String>,
}

impl SyncReport {
    fn skip(&mut self, path: &str, why: &str) {
        self.skipped += 1;
        tracing::debug!(path, why, "a file is not synced");
        self.skip_reason.get_or_insert_with(|| format!("{:.120}: {why}", path.escape_debug().to_string()));
    }
}

/// What is known of one room and its conversation's place, as long as this process has the room.
#[derive(Debug, Default)]
pub struct SyncState {
    /// Whether the room has had every file of the bucket. Before that, what is missing in it was not deleted there.
    pub is: bool,
    manifest: Option<Manifest>,
    /// Whether the bucket has an older manifest.
    unwritten: bool,
    /// Versions that are in the bucket.
    out: HashMap<String, (u64, i64)>,
}

/// Brings the bucket's files into the room; those it has already stay as they are.
///
/// # Errors
/// Not all of them are there; what is there is whole.
pub async fn restore(
    place: &ConversationStore,
    room_id: &str,
    room: &dyn RoomFiles,
    step: &mut SyncState,
    until: Instant,
) -> Result<SyncReport, StorageError> {
    let mut done = SyncReport::default();
    if step.is {
        return Ok(done);
    }
    let manifest = place.manifest(until).await?;
    if manifest.room.as_deref() == Some(room_id) {
        // An earlier process has brought them in.
        step.is = true;
        return Ok(done);
    }
    let stored = place.list(until).await?;
    if !stored.is_empty() {
        let (there, _) = in_time(until, room.list(MAX_FILES)).await?;
        let there: HashSet<&str> = there.iter().map(|file| file.path.as_str()).collect();
        let modes = &manifest.files;
        let mut missing = stored.clone();
        missing.retain(|file| !there.contains(file.path.as_str()));
        let brought = stream::iter(missing).map(move |file: StoredFile| async move {
            let mode = modes.get(&file.path).map_or(0o644, |kept| kept.mode);
            let (size, content) = place.read(&file.path, until).await?;
            match in_time(until, room.write(&file.path, size, mode, content)).await {
                // Another file is where its directory should be, say. The others come in all the same.
                Err(StorageError::Room(why)) if Instant::now() < until => Ok(Some((file.path, why.to_string()))),
                other => other.map(|()| None),
            }
        });
        let mut brought = brought.buffer_unordered(AT_ONCE);
        while let Some(refused) = brought.try_next().await? {
            match refused {
                None => done.moved += 1,
                Some((path, why)) => done.skip(&path, &why),
            }
        }
    }
    if done.skipped > 0 {
        return Ok(done);
    }
    let mut manifest = manifest;
    manifest.follow(&stored);
    manifest.room = Some(room_id.to_owned());
    if !stored.is_empty() {
        place.set_manifest(&manifest, until.max(Instant::now() + MANIFEST)).await?;
    }
    // Of an empty place there is nothing to tell yet.
    (step.is, step.unwritten, step.manifest) = (true, stored.is_empty(), Some(manifest));
    Ok(done)
}

/// Takes what has changed in the room out into the bucket.
///
/// # Errors
/// Not everything is there; what is there is whole.
pub async fn save(
    place: &ConversationStore,
    room_id: &str,
    room: &dyn RoomFiles,
    step: &mut SyncState,
    until: Instant,
) -> Result<SyncReport, StorageError> {
    let mut done = SyncReport::default();
    let (files, all) = in_time(until, room.list(MAX_FILES)).await?;
    if !all {
        done.skip("/", &format!("not every file of the room can be listed, or there are more than {MAX_FILES}"));
    }
    let names: HashSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let mut changed = Vec::new();
    for file in &files {
        if step.out.get(&file.path) == Some(&(file.size, file.version)) {
            continue;
        }
        if file.size > MAX_FILE_BYTES {
            done.skip(&file.path, "larger than what is kept");
        } else if place.accepts(&file.path) {
            changed.push(file.clone());
        } else {
            done.skip(&file.path, "its name is too long");
        }
    }
    if step.manifest.is_none() {
        let mut manifest = place.manifest(until).await?;
        manifest.follow(&place.list(until).await?);
        // An earlier process may have brought everything in.
        step.is |= manifest.room.as_deref() == Some(room_id);
        step.manifest = Some(manifest);
    }
    let manifest = step.manifest.get_or_insert_default();
    let before = manifest.clone();
    let known = &before.files;
    let moves = stream::iter(changed).map(move |file: RoomFile| async move {
        let taken = take_one(place, room, &file, known.get(&file.path), until).await;
        (file, taken)
    });
    let mut moves = moves.buffer_unordered(AT_ONCE);
    let mut failed = None;
    while let Some((file, taken)) = moves.next().await {
        match taken {
            Ok((kept, moved)) => {
                step.unwritten |= manifest.files.insert(file.path.clone(), kept.clone()).as_ref() != Some(&kept);
                step.out.insert(file.path.clone(), (file.size, file.version));
                done.moved += usize::from(moved);
            }
            Err(StorageError::Room(RoomFilesError::Changed)) => done.skip(&file.path, "it changed while it was read"),
            Err(StorageError::Room(RoomFilesError::TooLarge)) => done.skip(&file.path, "larger than what is kept"),
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    drop(moves);
    if failed.is_none() && step.is && all {
        let gone: Vec<String> = known.keys().filter(|path| !names.contains(path.as_str())).cloned().collect();
        done.deleted = gone.len();
        match place.delete(gone.clone(), until).await {
            Ok(()) => gone.iter().for_each(|path| {
                step.unwritten |= manifest.files.remove(path).is_some();
                step.out.remove(path);
            }),
            Err(error) => failed = Some(error),
        }
    }
    if step.is && manifest.room.as_deref() != Some(room_id) {
        (manifest.room, step.unwritten) = (Some(room_id.to_owned()), true);
    }
    if step.unwritten {
        let written = place.set_manifest(manifest, until.max(Instant::now() + MANIFEST)).await;
        step.unwritten = written.is_err();
        failed = failed.or(written.err());
    }
    failed.map_or(Ok(done), Err)
}

/// Takes one file out, unless its content is there already; says whether it went.
async fn take_one(
    place: &ConversationStore,
    room: &dyn RoomFiles,
    file: &RoomFile,
    known: Option<&ManifestEntry>,
    until: Instant,
) -> Result<(ManifestEntry, bool), StorageError> {
    if let Some(known) = known.filter(|known| known.size == file.size) {
        let sha256 = in_time(until, digest(in_time(until, room.read(file)).await?)).await?;
        if sha256 == known.sha256 {
            return Ok((ManifestEntry { mode: file.mode, ..known.clone() }, false));
        }
    }
    let (seen, hashed) = hashing(in_time(until, room.read(file)).await?);
    place.write(&file.path, hashed, until).await?;
    let (size, sha256) = seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner).finish();
    Ok((ManifestEntry { size, sha256, mode: file.mode }, true))
}

/// Work of the room's, no longer than `until`.
pub(super) async fn in_time<T, E: Into<StorageError>>(
    until: Instant,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, StorageError> {
    match tokio::time::timeout_at(until, work).await {
        Ok(done) => done.map_err(Into::into),
        Err(_) => Err(RoomFilesError::Agent("it did not answer in time".into()).into()),
    }
}

async fn digest(mut content: Content) -> Result<String, StorageError> {
    let mut sum = Sum::default();
    while let Some(chunk) = content.try_next().await? {
        sum.add(&chunk);
    }
    Ok(sum.finish().1)
}

/// Length and hash of what went by.
#[derive(Default)]
struct Sum {
    size: u64,
    hash: Sha256,
}

impl Sum {
    fn add(&mut self, chunk: &Bytes) {
        self.size += chunk.len() as u64;
        self.hash.update(chunk);
    }

    fn finish(&self) -> (u64, String) {
        (self.size, self.hash.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

fn hashing(content: Content) -> (std::sync::Arc<std::sync::Mutex<Sum>>, Content) {
    let sum = std::sync::Arc::new(std::sync::Mutex::new(Sum::default()));
    let adding = sum.clone();
    let hashed = content.inspect_ok(move |chunk| {
        adding.lock().unwrap_or_else(std::sync::PoisonError::into_inner).add(chunk);
    });
    (sum, hashed.boxed())
}
