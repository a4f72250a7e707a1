//! The stored files of one conversation.

use bytes::{Bytes, BytesMut};
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};
use tokio::time::Instant;

use super::bucket::{Bucket, map_error, within};
use super::manifest::Manifest;
use super::sync::room_within;
use super::{Content, MAX_FILE_BYTES, MAX_FILES, RoomFilesError, StorageError, name};

/// Size of one part of a multipart upload, and the size above which one is used. S3 accepts up to 10,000 parts.
const PART_SIZE: usize = 8 << 20;
/// Maximum size of a manifest in bytes. This server writes none that is larger.
const MAX_MANIFEST_BYTES: u64 = 64 << 20;
/// Time limit for aborting a multipart upload.
const ABORT_DEADLINE: std::time::Duration = std::time::Duration::from_secs(3);

/// The part of the bucket that stores one conversation's files.
#[derive(Debug, Clone)]
pub struct ConversationStore {
    bucket: Bucket,
    root: String,
}

/// A file as stored in the bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFile {
    /// Path relative to the workspace directory.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// Time of the upload.
    pub stored_at: jiff::Timestamp,
}

impl ConversationStore {
    pub(super) fn new(bucket: Bucket, root: String) -> Self {
        Self { bucket, root }
    }

    /// The bucket that holds the files.
    #[must_use]
    pub fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    fn root(&self) -> Result<Path, StorageError> {
        parse(&self.root)
    }

    fn manifest_path(&self) -> Result<Path, StorageError> {
        parse(&format!("{}/manifest.json", self.root))
    }

    /// Whether a file with this path can be stored: the path is valid and its object's name not too long.
    #[must_use]
    pub fn accepts(&self, path: &str) -> bool {
        self.object(path).is_some()
    }

    fn object(&self, path: &str) -> Option<Path> {
        let name = format!("{}/files/{}", self.root, name::escape_path(path)?);
        Path::parse(&name).ok().filter(|_| name.len() <= name::MAX_LENGTH)
    }

    fn require_object(&self, path: &str) -> Result<Path, StorageError> {
        self.object(path).ok_or_else(|| StorageError::NotFound("not a valid path of a file".into()))
    }

    /// Lists up to [`MAX_FILES`] files. Objects whose names no path has are left out.
    ///
    /// # Errors
    /// The bucket does not answer or refuses.
    pub async fn list(&self, until: Instant) -> Result<Vec<StoredFile>, StorageError> {
        let root = parse(&format!("{}/files", self.root))?;
        let below = format!("{}/files/", self.root);
        let listed = self.bucket.store.list(Some(&root)).take(MAX_FILES).try_collect::<Vec<_>>();
        let objects = within(until, listed).await?;
        let files = objects.into_iter().filter_map(|object| {
            let path = name::unescape_path(object.location.as_ref().strip_prefix(&below)?)?;
            let stored_at = jiff::Timestamp::from_millisecond(object.last_modified.timestamp_millis()).ok()?;
            Some(StoredFile { path, size: object.size, stored_at })
        });
        Ok(files.collect())
    }

    /// Opens a file; returns its size in bytes and its content.
    ///
    /// # Errors
    /// The file does not exist, or the bucket does not answer.
    pub async fn read(&self, path: &str, until: Instant) -> Result<(u64, Content), StorageError> {
        let object = self.require_object(path)?;
        let found = within(until, self.bucket.store.get(&object)).await?;
        let size = found.meta.size;
        let chunks: BoxStream<'static, _> = found.into_stream();
        let content = futures::stream::unfold(Some(chunks), move |chunks| async move {
            let mut chunks = chunks?;
            match within(until, async { chunks.try_next().await }).await {
                Ok(Some(chunk)) => Some((Ok(chunk), Some(chunks))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok((size, content.boxed()))
    }

    /// Stores a file. S3 replaces an object only once the whole upload has succeeded.
    ///
    /// # Errors
    /// The content fails or is too large, or the bucket does not accept it.
    pub async fn write(&self, path: &str, mut content: Content, until: Instant) -> Result<(), StorageError> {
        let object = self.require_object(path)?;
        let (first, more) = read_part(&mut content, until).await?;
        if !more {
            within(until, self.bucket.store.put(&object, PutPayload::from(first))).await?;
            return Ok(());
        }
        let mut upload = within(until, self.bucket.store.put_multipart(&object)).await?;
        let uploaded = upload_parts(upload.as_mut(), first, content, until).await;
        if uploaded.is_err() {
            // S3 keeps and bills the parts of an upload that is neither completed nor aborted.
            if let Err(error) = within(Instant::now() + ABORT_DEADLINE, upload.abort()).await {
                tracing::warn!(object = %object, %error, "an incomplete upload was not aborted; its parts stay in the bucket until a lifecycle rule removes them");
            }
        }
        uploaded
    }

    /// Stores a file for a conversation that has no room. Clears the hash in the manifest first: otherwise a room in which the file later
    /// has its former content again would match the outdated hash and not save it.
    ///
    /// # Errors
    /// As [`ConversationStore::write`].
    pub async fn replace(&self, path: &str, content: Content, until: Instant) -> Result<(), StorageError> {
        let mut manifest = self.manifest(until).await?;
        if let Some(entry) = manifest.files.get_mut(path) {
            entry.sha256.clear();
            self.set_manifest(&manifest, until).await?;
        }
        self.write(path, content, until).await
    }

    /// Checks that a file exists.
    ///
    /// # Errors
    /// The file does not exist, or the bucket does not answer.
    pub async fn check_exists(&self, path: &str, until: Instant) -> Result<(), StorageError> {
        let object = self.require_object(path)?;
        within(until, self.bucket.store.head(&object)).await.map(drop)
    }

    /// Deletes files. Missing ones are no error.
    ///
    /// # Errors
    /// The bucket does not answer or refuses.
    pub async fn delete(&self, paths: impl IntoIterator<Item = String>, until: Instant) -> Result<(), StorageError> {
        let objects: Vec<_> = paths.into_iter().filter_map(|path| self.object(&path)).map(Ok).collect();
        if objects.is_empty() {
            return Ok(());
        }
        self.delete_objects(objects, until).await
    }

    async fn delete_objects(
        &self,
        objects: Vec<object_store::Result<Path>>,
        until: Instant,
    ) -> Result<(), StorageError> {
        let deleted = self.bucket.store.delete_stream(futures::stream::iter(objects).boxed());
        within(until, deleted.try_for_each(async |_| Ok(()))).await
    }

    /// Deletes all objects of the conversation, until the list is empty.
    ///
    /// # Errors
    /// The bucket does not answer or refuses; objects may be left.
    pub async fn delete_all(&self, until: Instant) -> Result<(), StorageError> {
        loop {
            let batch = self.bucket.store.list(Some(&self.root()?)).take(MAX_FILES);
            let objects = within(until, batch.map_ok(|object| object.location).try_collect::<Vec<_>>()).await?;
            if objects.is_empty() {
                return Ok(());
            }
            self.delete_objects(objects.into_iter().map(Ok).collect(), until).await?;
        }
    }

    /// Reads the manifest; an empty one if it is missing or cannot be parsed.
    ///
    /// # Errors
    /// The bucket does not answer or refuses.
    pub async fn manifest(&self, until: Instant) -> Result<Manifest, StorageError> {
        let path = self.manifest_path()?;
        let text = within(until, async {
            let found = self.bucket.store.get(&path).await?;
            match found.meta.size {
                size if size > MAX_MANIFEST_BYTES => Ok(Bytes::new()),
                _ => found.bytes().await,
            }
        });
        match text.await {
            Ok(text) => Ok(serde_json::from_slice(&text).unwrap_or_else(|error| {
                tracing::warn!(%path, %error, "the manifest cannot be parsed; all files are compared again");
                Manifest::default()
            })),
            // Also if the bucket itself does not exist, which the following list reports.
            Err(StorageError::NotFound(_)) => Ok(Manifest::default()),
            Err(error) => Err(error),
        }
    }

    /// Stores the manifest.
    ///
    /// # Errors
    /// The bucket does not answer or refuses.
    pub async fn set_manifest(&self, manifest: &Manifest, until: Instant) -> Result<(), StorageError> {
        let text = serde_json::to_vec(manifest).map_err(|error| StorageError::Failed(error.to_string()))?;
        within(until, self.bucket.store.put(&self.manifest_path()?, PutPayload::from(text))).await.map(drop)
    }
}

fn parse(path: &str) -> Result<Path, StorageError> {
    Path::parse(path).map_err(|error| map_error(error.into()))
}

/// Reads the next part; returns whether more may follow.
async fn read_part(content: &mut Content, until: Instant) -> Result<(Bytes, bool), StorageError> {
    let mut part = BytesMut::new();
    while part.len() < PART_SIZE {
        match room_within(until, content.try_next()).await? {
            Some(chunk) => part.extend_from_slice(&chunk),
            None => return Ok((part.freeze(), false)),
        }
    }
    Ok((part.freeze(), true))
}

async fn upload_parts(
    upload: &mut dyn MultipartUpload,
    first: Bytes,
    mut content: Content,
    until: Instant,
) -> Result<(), StorageError> {
    let (mut next, mut more, mut sent) = (first, true, 0);
    while !next.is_empty() {
        sent += next.len() as u64;
        if sent > MAX_FILE_BYTES {
            return Err(RoomFilesError::TooLarge.into());
        }
        within(until, upload.put_part(PutPayload::from(next))).await?;
        if !more {
            break;
        }
        (next, more) = read_part(&mut content, until).await?;
    }
    within(until, upload.complete()).await.map(drop)
}
