//! One conversation's place in the bucket.

use bytes::{Bytes, BytesMut};
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};
use tokio::time::Instant;

use super::bucket::{Bucket, told, within};
use super::manifest::Manifest;
use super::sync::in_time;
use super::{Content, MAX_FILE_BYTES, MAX_FILES, RoomFilesError, StorageError, name};

/// What is larger goes in parts of this size; S3 takes up to 10,000 of them.
const PART: usize = 8 << 20;
/// Bytes of a manifest, at most: what is larger is not ours.
const LARGEST_MANIFEST: u64 = 64 << 20;
/// How long giving up a half-made upload may take.
const ABORT: std::time::Duration = std::time::Duration::from_secs(3);

/// One conversation's files in the bucket.
#[derive(Debug, Clone)]
pub struct ConversationStore {
    bucket: Bucket,
    root: String,
}

/// A file in the bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFile {
    /// Below the workspace.
    pub path: String,
    /// In bytes.
    pub size: u64,
    /// When it was stored.
    pub stored_at: jiff::Timestamp,
}

impl ConversationStore {
    pub(super) fn new(bucket: Bucket, root: String) -> Self {
        Self { bucket, root }
    }

    /// The bucket it is in.
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

    /// Whether a file of this path can be kept: it is a path, and its object's name is not too long.
    #[must_use]
    pub fn accepts(&self, path: &str) -> bool {
        self.object(path).is_some()
    }

    fn object(&self, path: &str) -> Option<Path> {
        let name = format!("{}/files/{}", self.root, name::escape_path(path)?);
        Path::parse(&name).ok().filter(|_| name.len() <= name::LONGEST)
    }

    fn object_or_refuse(&self, path: &str) -> Result<Path, StorageError> {
        self.object(path).ok_or_else(|| StorageError::NotFound("no file can have this path".into()))
    }

    /// Every file, by its path; no more than [`MAX_FILES`]. What was put there under a name that no file has is left out.
    ///
    /// # Errors
    /// Storage does not answer.
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

    /// A file's size and content.
    ///
    /// # Errors
    /// There is none, or storage does not answer.
    pub async fn read(&self, path: &str, until: Instant) -> Result<(u64, Content), StorageError> {
        let object = self.object_or_refuse(path)?;
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

    /// Stores a file; what was there before stays until all of it has arrived.
    ///
    /// # Errors
    /// Its content breaks off or is too large, or storage does not take it.
    pub async fn write(&self, path: &str, mut content: Content, until: Instant) -> Result<(), StorageError> {
        let object = self.object_or_refuse(path)?;
        let (first, more) = part(&mut content, until).await?;
        if !more {
            within(until, self.bucket.store.put(&object, PutPayload::from(first))).await?;
            return Ok(());
        }
        let mut upload = within(until, self.bucket.store.put_multipart(&object)).await?;
        let uploaded = upload_parts(upload.as_mut(), first, content, until).await;
        if uploaded.is_err() {
            // Parts of an upload that is neither completed nor aborted are kept, and paid for.
            if let Err(error) = within(Instant::now() + ABORT, upload.abort()).await {
                tracing::warn!(object = %object, %error, "a half-made upload is left in the bucket");
            }
        }
        uploaded
    }

    /// Stores a file for a conversation that has no room. What is known of the one before it is forgotten first: a room that made it
    /// what it once was would otherwise find that there already.
    ///
    /// # Errors
    /// As [`ConversationStore::write`].
    pub async fn replace(&self, path: &str, content: Content, until: Instant) -> Result<(), StorageError> {
        let mut manifest = self.manifest(until).await?;
        if let Some(kept) = manifest.files.get_mut(path) {
            kept.sha256.clear();
            self.set_manifest(&manifest, until).await?;
        }
        self.write(path, content, until).await
    }

    /// Whether a file is there.
    ///
    /// # Errors
    /// It is not, or storage does not answer.
    pub async fn find(&self, path: &str, until: Instant) -> Result<(), StorageError> {
        let object = self.object_or_refuse(path)?;
        within(until, self.bucket.store.head(&object)).await.map(drop)
    }

    /// Deletes files; those that are not there are as good as deleted.
    ///
    /// # Errors
    /// Storage does not answer.
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

    /// Deletes everything of the conversation, and looks that nothing is left.
    ///
    /// # Errors
    /// Something may be left.
    pub async fn delete_all(&self, until: Instant) -> Result<(), StorageError> {
        loop {
            let some = self.bucket.store.list(Some(&self.root()?)).take(MAX_FILES);
            let objects = within(until, some.map_ok(|object| object.location).try_collect::<Vec<_>>()).await?;
            if objects.is_empty() {
                return Ok(());
            }
            self.delete_objects(objects.into_iter().map(Ok).collect(), until).await?;
        }
    }

    /// The manifest; an empty one where there is none, or none that can be read.
    ///
    /// # Errors
    /// Storage does not answer.
    pub async fn manifest(&self, until: Instant) -> Result<Manifest, StorageError> {
        let path = self.manifest_path()?;
        let text = within(until, async {
            let found = self.bucket.store.get(&path).await?;
            match found.meta.size {
                size if size > LARGEST_MANIFEST => Ok(Bytes::new()),
                _ => found.bytes().await,
            }
        });
        match text.await {
            Ok(text) => Ok(serde_json::from_slice(&text).unwrap_or_else(|error| {
                tracing::warn!(%path, %error, "a manifest cannot be read; files are compared anew");
                Manifest::default()
            })),
            // Also where the bucket itself is missing: the next list says so.
            Err(StorageError::NotFound(_)) => Ok(Manifest::default()),
            Err(error) => Err(error),
        }
    }

    /// Stores the manifest.
    ///
    /// # Errors
    /// Storage does not take it.
    pub async fn set_manifest(&self, manifest: &Manifest, until: Instant) -> Result<(), StorageError> {
        let text = serde_json::to_vec(manifest).map_err(|error| StorageError::Failed(error.to_string()))?;
        within(until, self.bucket.store.put(&self.manifest_path()?, PutPayload::from(text))).await.map(drop)
    }
}

fn parse(path: &str) -> Result<Path, StorageError> {
    Path::parse(path).map_err(|error| told(error.into()))
}

/// The next part, and whether more may follow.
async fn part(content: &mut Content, until: Instant) -> Result<(Bytes, bool), StorageError> {
    let mut part = BytesMut::new();
    while part.len() < PART {
        match in_time(until, content.try_next()).await? {
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
        (next, more) = part(&mut content, until).await?;
    }
    within(until, upload.complete()).await.map(drop)
}
