//! A bucket, and workspaces whose files are a table in memory.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use nagaya_fixtures::s3::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY};
use nagaya_workspace::objects::{
    Bucket, BucketSettings, Content, ConversationStore, RoomFile, RoomFiles, RoomFilesError, StorageError,
};
use tokio::time::Instant;

pub(crate) async fn server() -> S3Server {
    S3Server::start(SocketAddr::from(([127, 0, 0, 1], 0)), BUCKET).await.expect("listens")
}

pub(crate) fn bucket_with(server: &S3Server, secret: &str, sync_timeout: Duration) -> Bucket {
    let settings = BucketSettings {
        name: BUCKET.into(),
        prefix: "workspaces/".into(),
        endpoint: Some(server.url()),
        sync_timeout,
    };
    let credentials = Credentials::new(ACCESS_KEY, secret, None, None, "test");
    Bucket::open(settings, "us-east-1", Some(SharedCredentialsProvider::new(credentials))).expect("a client")
}

pub(crate) fn bucket(server: &S3Server) -> Bucket {
    bucket_with(server, SECRET_KEY, Duration::from_secs(60))
}

pub(crate) fn place(server: &S3Server) -> ConversationStore {
    bucket(server).conversation_store("acme", "c1")
}

pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

pub(crate) fn content(bytes: impl Into<Bytes>) -> Content {
    let bytes: Bytes = bytes.into();
    let chunks: Vec<_> = bytes.chunks(1 << 20).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
    futures::stream::iter(chunks).boxed()
}

pub(crate) async fn read(place: &ConversationStore, path: &str) -> Vec<u8> {
    let (size, content) = place.read(path, soon()).await.expect("the file exists");
    let whole = content.try_collect::<Vec<_>>().await.expect("reads").concat();
    assert_eq!(whole.len() as u64, size);
    whole
}

/// Files by path: content, version and mode.
type Files = BTreeMap<String, (Vec<u8>, i64, u32)>;

/// The files of a workspace, in memory.
#[derive(Debug, Default)]
pub(crate) struct Table {
    files: Mutex<Files>,
    next: AtomicI64,
    /// Whether the list of files is reported as incomplete.
    pub(crate) cut: bool,
    /// A file that a client uploads once the files were listed: path and content.
    upload: Option<(&'static str, &'static str)>,
}

impl Table {
    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().expect("not poisoned")
    }

    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        let table = Self::default();
        files.iter().for_each(|(path, text)| table.put(path, *text));
        table
    }

    /// A client uploads this file, path and content, once the files were listed.
    pub(crate) fn with_upload(self, path: &'static str, content: &'static str) -> Self {
        Self { upload: Some((path, content)), ..self }
    }

    pub(crate) fn put(&self, path: &str, content: impl Into<Vec<u8>>) {
        let version = self.next.fetch_add(1, Ordering::Relaxed);
        self.files().insert(path.to_owned(), (content.into(), version, 0o755));
    }

    pub(crate) fn remove(&self, path: &str) {
        self.files().remove(path);
    }

    /// Paths and contents of all files.
    pub(crate) fn contents(&self) -> Vec<(String, String)> {
        let text = |content: &[u8]| String::from_utf8_lossy(content).into_owned();
        self.files().iter().map(|(path, (content, ..))| (path.clone(), text(content))).collect()
    }

    pub(crate) fn mode(&self, path: &str) -> Option<u32> {
        self.files().get(path).map(|(.., mode)| *mode)
    }
}

#[async_trait]
impl RoomFiles for Table {
    async fn list(&self, most: usize) -> Result<(Vec<RoomFile>, bool), RoomFilesError> {
        let files = self.files();
        let listed = files.iter().take(most).map(|(path, (content, version, mode))| RoomFile {
            path: path.clone(),
            size: content.len() as u64,
            version: *version,
            mode: *mode,
        });
        let listed = (listed.collect(), !self.cut && files.len() <= most);
        drop(files);
        if let Some((path, content)) = self.upload {
            self.put(path, content);
        }
        Ok(listed)
    }

    async fn read(&self, file: &RoomFile) -> Result<Content, RoomFilesError> {
        let found = self.files().get(&file.path).map(|(content, ..)| content.clone());
        found.map(content).ok_or(RoomFilesError::Changed)
    }

    async fn create(&self, path: &str, size: u64, mode: u32, content: Content) -> Result<bool, StorageError> {
        let whole = content.try_collect::<Vec<_>>().await?.concat();
        assert_eq!(whole.len() as u64, size);
        if self.files().contains_key(path) {
            return Ok(false);
        }
        self.put(path, whole);
        self.files().get_mut(path).expect("just put").2 = mode;
        Ok(true)
    }
}
