//! Syncs a room's files with the bucket: restores them into the room before a run, and saves them afterwards.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::conversation_store::{ConversationStore, StoredFile};
use super::manifest::{Manifest, ManifestEntry};
use super::{MAX_FILE_BYTES, MAX_FILES, StorageError};

/// Files in transfer concurrently.
const CONCURRENT_FILES: usize = 4;
/// Time limit for writing the manifest, even if the deadline of the sync has passed.
const MANIFEST_DEADLINE: Duration = Duration::from_secs(5);

/// The content of a file as a stream of chunks.
pub type Content = BoxStream<'static, Result<Bytes, StorageError>>;

/// Why reading or writing a room's files failed.
#[derive(Debug, thiserror::Error)]
pub enum RoomFilesError {
    /// The room's agent does not answer or refuses.
    #[error("the workspace: {0}")]
    Agent(String),
    /// The file was removed or changed while it was read.
    #[error("the file changed while it was read")]
    Changed,
    /// The file is larger than [`MAX_FILE_BYTES`].
    #[error("the file is larger than {MAX_FILE_BYTES} bytes")]
    TooLarge,
}

/// A file in a room, as the room's agent lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomFile {
    /// Path relative to the workspace directory, with `/` between its components.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// A value that changes whenever the file does.
    pub version: i64,
    /// Permission bits.
    pub mode: u32,
}

/// The room's side of a sync.
#[async_trait]
pub trait RoomFiles: Send + Sync {
    /// Lists up to `limit` regular files; the second value is whether the list is complete.
    ///
    /// # Errors
    /// The room does not answer.
    async fn list(&self, limit: usize) -> Result<(Vec<RoomFile>, bool), RoomFilesError>;

    /// Opens a file. The content fails if it does not have the listed size.
    ///
    /// # Errors
    /// The file was removed or changed, or the room does not answer.
    async fn read(&self, file: &RoomFile) -> Result<Content, RoomFilesError>;

    /// Creates a file atomically, unless one exists once its whole content has arrived; returns whether it was created.
    ///
    /// # Errors
    /// The content fails, or the room refuses it.
    async fn create(&self, path: &str, size: u64, mode: u32, content: Content) -> Result<bool, StorageError>;
}

/// The result of a sync.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SyncReport {
    /// Number of files transferred.
    pub moved: usize,
    /// Number of files deleted on the other side.
    pub deleted: usize,
    /// Number of files that could not be transferred.
    pub skipped: usize,
    /// The first skipped file and the reason, for people.
    pub skip_reason: Option<String>,
}

impl SyncReport {
    fn skip(&mut self, path: &str, why: &str) {
        self.skipped += 1;
        tracing::debug!(path, why, "file skipped");
        self.skip_reason.get_or_insert_with(|| format!("{:.120}: {why}", path.escape_debug().to_string()));
    }
}

/// What this process knows about the files of one room and of its conversation in the bucket.
#[derive(Debug, Default)]
pub struct SyncState {
    /// Whether all stored files were restored into the room. Until then, a file that is missing in it was not deleted there.
    pub restored: bool,
    manifest: Option<Manifest>,
    /// Whether the manifest has changed since it was last written.
    manifest_changed: bool,
    /// Size and version of the files as they were last saved, by path.
    saved: HashMap<String, (u64, i64)>,
}

/// What became of a stored file.
enum Restored {
    /// It is in the room.
    Yes,
    /// It is not needed: it was deleted in the bucket, or the room has received another file of this name.
    No,
    /// The room refuses the file with this path, for this reason.
    Refused(String, String),
}

/// Restores the stored files into the room. Files that the room already has stay as they are, also those that clients upload meanwhile.
///
/// # Errors
/// Not all files were restored; each restored file is complete.
pub async fn restore(
    store: &ConversationStore,
    room_id: &str,
    room: &dyn RoomFiles,
    state: &mut SyncState,
    until: Instant,
) -> Result<SyncReport, StorageError> {
    let mut done = SyncReport::default();
    if state.restored {
        return Ok(done);
    }
    let manifest = store.manifest(until).await?;
    if manifest.room.as_deref() == Some(room_id) {
        // An earlier process has restored them.
        state.restored = true;
        return Ok(done);
    }
    let stored = store.list(until).await?;
    if !stored.is_empty() {
        let (present, _) = room_within(until, room.list(MAX_FILES)).await?;
        let present: HashSet<&str> = present.iter().map(|file| file.path.as_str()).collect();
        let modes = &manifest.files;
        let mut missing = stored.clone();
        missing.retain(|file| !present.contains(file.path.as_str()));
        let transfers = stream::iter(missing).map(move |file: StoredFile| async move {
            let mode = modes.get(&file.path).map_or(0o644, |entry| entry.mode);
            let (size, content) = match store.read(&file.path, until).await {
                // It was deleted in the bucket after the list was made.
                Err(StorageError::NotFound(_)) => return Ok(Restored::No),
                other => other?,
            };
            match room_within(until, room.create(&file.path, size, mode, content)).await {
                // For example, a file exists where its directory should be. The other files are restored nevertheless.
                Err(StorageError::Room(why)) if Instant::now() < until => {
                    Ok(Restored::Refused(file.path, why.to_string()))
                }
                Ok(true) => Ok(Restored::Yes),
                // A client has uploaded another one meanwhile, which is newer.
                Ok(false) => Ok(Restored::No),
                Err(error) => Err(error),
            }
        });
        let mut transfers = transfers.buffer_unordered(CONCURRENT_FILES);
        while let Some(restored) = transfers.try_next().await? {
            match restored {
                Restored::Yes => done.moved += 1,
                Restored::No => {}
                Restored::Refused(path, why) => done.skip(&path, &why),
            }
        }
    }
    if done.skipped > 0 {
        return Ok(done);
    }
    let mut manifest = manifest;
    manifest.reconcile(&stored);
    manifest.room = Some(room_id.to_owned());
    if !stored.is_empty() {
        store.set_manifest(&manifest, until.max(Instant::now() + MANIFEST_DEADLINE)).await?;
    }
    // If nothing is stored, the manifest is written by the first save.
    (state.restored, state.manifest_changed, state.manifest) = (true, stored.is_empty(), Some(manifest));
    Ok(done)
}

/// Saves the files that have changed in the room to the bucket, and deletes those that were deleted in the room.
///
/// # Errors
/// Not all files were saved; each saved file is complete.
pub async fn save(
    store: &ConversationStore,
    room_id: &str,
    room: &dyn RoomFiles,
    state: &mut SyncState,
    until: Instant,
) -> Result<SyncReport, StorageError> {
    let mut done = SyncReport::default();
    let (files, complete) = room_within(until, room.list(MAX_FILES)).await?;
    if !complete {
        done.skip("/", &format!("not all files of the workspace can be listed, or there are more than {MAX_FILES}"));
    }
    let names: HashSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let mut changed = Vec::new();
    for file in &files {
        if state.saved.get(&file.path) == Some(&(file.size, file.version)) {
            continue;
        }
        if file.size > MAX_FILE_BYTES {
            done.skip(&file.path, "it is larger than what is stored");
        } else if store.accepts(&file.path) {
            changed.push(file.clone());
        } else {
            done.skip(&file.path, "its name is too long");
        }
    }
    if state.manifest.is_none() {
        let mut manifest = store.manifest(until).await?;
        manifest.reconcile(&store.list(until).await?);
        // An earlier process may have restored all files.
        state.restored |= manifest.room.as_deref() == Some(room_id);
        state.manifest = Some(manifest);
    }
    let manifest = state.manifest.get_or_insert_default();
    let before = manifest.clone();
    let known = &before.files;
    let transfers = stream::iter(changed).map(move |file: RoomFile| async move {
        let saved = save_one(store, room, &file, known.get(&file.path), until).await;
        (file, saved)
    });
    let mut transfers = transfers.buffer_unordered(CONCURRENT_FILES);
    let mut failed = None;
    while let Some((file, saved)) = transfers.next().await {
        match saved {
            Ok((entry, moved)) => {
                state.manifest_changed |=
                    manifest.files.insert(file.path.clone(), entry.clone()).as_ref() != Some(&entry);
                state.saved.insert(file.path.clone(), (file.size, file.version));
                done.moved += usize::from(moved);
            }
            Err(StorageError::Room(RoomFilesError::Changed)) => done.skip(&file.path, "it changed while it was read"),
            Err(StorageError::Room(RoomFilesError::TooLarge)) => {
                done.skip(&file.path, "it is larger than what is stored");
            }
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    drop(transfers);
    if failed.is_none() && state.restored && complete {
        let deleted: Vec<String> = known.keys().filter(|path| !names.contains(path.as_str())).cloned().collect();
        done.deleted = deleted.len();
        match store.delete(deleted.clone(), until).await {
            Ok(()) => deleted.iter().for_each(|path| {
                state.manifest_changed |= manifest.files.remove(path).is_some();
                state.saved.remove(path);
            }),
            Err(error) => failed = Some(error),
        }
    }
    if state.restored && manifest.room.as_deref() != Some(room_id) {
        (manifest.room, state.manifest_changed) = (Some(room_id.to_owned()), true);
    }
    if state.manifest_changed {
        let written = store.set_manifest(manifest, until.max(Instant::now() + MANIFEST_DEADLINE)).await;
        state.manifest_changed = written.is_err();
        failed = failed.or(written.err());
    }
    failed.map_or(Ok(done), Err)
}

/// Saves one file unless the bucket already has its content; returns whether it was transferred.
async fn save_one(
    store: &ConversationStore,
    room: &dyn RoomFiles,
    file: &RoomFile,
    known: Option<&ManifestEntry>,
    until: Instant,
) -> Result<(ManifestEntry, bool), StorageError> {
    if let Some(known) = known.filter(|known| known.size == file.size) {
        let sha256 = room_within(until, digest(room_within(until, room.read(file)).await?)).await?;
        if sha256 == known.sha256 {
            return Ok((ManifestEntry { mode: file.mode, ..known.clone() }, false));
        }
    }
    let (seen, hashed) = hashing(room_within(until, room.read(file)).await?);
    store.write(&file.path, hashed, until).await?;
    let (size, sha256) = seen.lock().finish();
    Ok((ManifestEntry { size, sha256, mode: file.mode }, true))
}

/// Runs an operation of the room with a deadline.
pub(super) async fn room_within<T, E: Into<StorageError>>(
    until: Instant,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, StorageError> {
    match tokio::time::timeout_at(until, work).await {
        Ok(done) => done.map_err(Into::into),
        Err(_) => Err(RoomFilesError::Agent("no answer in time".into()).into()),
    }
}

async fn digest(mut content: Content) -> Result<String, StorageError> {
    let mut sum = RunningHash::default();
    while let Some(chunk) = content.try_next().await? {
        sum.add(&chunk);
    }
    Ok(sum.finish().1)
}

/// Length and hash of a stream.
#[derive(Default)]
struct RunningHash {
    size: u64,
    hash: Sha256,
}

impl RunningHash {
    fn add(&mut self, chunk: &Bytes) {
        self.size += chunk.len() as u64;
        self.hash.update(chunk);
    }

    fn finish(&self) -> (u64, String) {
        (self.size, self.hash.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// Hashes a stream while it passes through.
fn hashing(content: Content) -> (Arc<Mutex<RunningHash>>, Content) {
    let sum = Arc::new(Mutex::new(RunningHash::default()));
    let adding = sum.clone();
    let hashed = content.inspect_ok(move |chunk| {
        adding.lock().add(chunk);
    });
    (sum, hashed.boxed())
}
