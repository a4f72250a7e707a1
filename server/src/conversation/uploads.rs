//! Files that came with a run's request: in the state directory until they are in the run's room, also over a restart.

use std::collections::HashSet;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::fs::File;
use tokio_util::io::ReaderStream;
use uuid::Uuid;

/// Files that come with one request, at most.
pub const MOST_UPLOADS: usize = 100;
/// Bytes that are read of a file at once.
const PIECE: usize = 64 * 1024;

/// The directory: one below it for each request.
#[derive(Debug, Clone)]
pub struct Uploads(Arc<Path>);

/// What came with a run's request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uploaded {
    /// Names its directory.
    id: String,
    /// The files, in their order.
    pub files: Vec<UploadedFile>,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadedFile {
    /// Where it belongs, below the workspace.
    pub path: String,
    /// Its length.
    pub bytes: u64,
}

impl Uploads {
    /// Opens the directory, making it where there is none.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        Ok(Self(path.into()))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Begins to take files of a request.
    ///
    /// # Errors
    /// The disk does not take them.
    pub fn begin(&self) -> io::Result<Batch> {
        let batch = Batch { uploads: self.clone(), id: Uuid::now_v7().to_string(), count: 0, kept: false };
        DirBuilder::new().mode(0o700).create(self.dir(&batch.id))?;
        Ok(batch)
    }

    fn dir(&self, id: &str) -> PathBuf {
        self.0.join(id)
    }

    fn file(&self, id: &str, at: usize) -> PathBuf {
        self.dir(id).join(at.to_string())
    }

    /// What the file at this place holds.
    ///
    /// # Errors
    /// It cannot be opened.
    pub async fn read(&self, of: &Uploaded, at: usize) -> io::Result<BoxStream<'static, io::Result<Bytes>>> {
        let file = File::open(self.file(&of.id, at)).await?;
        Ok(ReaderStream::with_capacity(file, PIECE).boxed())
    }

    /// Removes what came with a request; what is not there is fine.
    pub fn remove(&self, of: &Uploaded) {
        self.remove_dir(&of.id);
    }

    fn remove_dir(&self, id: &str) {
        match fs::remove_dir_all(self.dir(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::error!(upload = id, %error, "uploaded files are left until the next start");
            }
            _ => {}
        }
    }

    /// Removes what no run waits for any more: what a server that was killed had only begun to take.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn sweep<'a>(&self, waiting: impl IntoIterator<Item = &'a Uploaded>) -> io::Result<()> {
        let waiting: HashSet<&str> = waiting.into_iter().map(|uploaded| uploaded.id.as_str()).collect();
        for entry in fs::read_dir(&self.0)? {
            let name = entry?.file_name();
            if let Some(id) = name.to_str().filter(|id| !waiting.contains(id)) {
                self.remove_dir(id);
            }
        }
        Ok(())
    }
}

/// Files of a request that is being read. They go with it, unless a run keeps them.
#[derive(Debug)]
pub struct Batch {
    uploads: Uploads,
    id: String,
    count: usize,
    kept: bool,
}

impl Batch {
    /// The next file, empty, to be written.
    ///
    /// # Errors
    /// The disk does not take it.
    pub async fn file(&mut self) -> io::Result<File> {
        let file = File::create_new(self.uploads.file(&self.id, self.count)).await?;
        self.count += 1;
        Ok(file)
    }

    /// What a run is told of it: one entry for each [`Batch::file`], in that order.
    #[must_use]
    pub fn told(&self, files: Vec<UploadedFile>) -> Uploaded {
        debug_assert_eq!(files.len(), self.count, "one entry for each file");
        Uploaded { id: self.id.clone(), files }
    }

    /// A run has it now.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        if !self.kept {
            self.uploads.remove_dir(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;
    use tokio::io::AsyncWriteExt;

    use super::*;

    fn entries(uploads: &Uploads) -> usize {
        fs::read_dir(uploads.path()).expect("a directory").count()
    }

    async fn batch(uploads: &Uploads) -> (Batch, Uploaded) {
        let mut batch = uploads.begin().expect("begun");
        let mut file = batch.file().await.expect("a file");
        file.write_all(b"content").await.expect("written");
        file.flush().await.expect("flushed");
        let told = batch.told(vec![UploadedFile { path: "a/b".into(), bytes: 7 }]);
        (batch, told)
    }

    #[tokio::test]
    async fn what_no_run_keeps_goes_with_its_request() {
        let dir = tempfile::tempdir().expect("a directory");
        let uploads = Uploads::open(dir.path().join("uploads")).expect("opened");
        let (dropped, _) = batch(&uploads).await;
        drop(dropped);
        assert_eq!(entries(&uploads), 0);

        let (kept, told) = batch(&uploads).await;
        kept.keep();
        let content: Vec<Bytes> = uploads.read(&told, 0).await.expect("opened").try_collect().await.expect("read");
        assert_eq!(content.concat(), b"content");
        uploads.remove(&told);
        uploads.remove(&told);
        assert_eq!(entries(&uploads), 0);
    }

    #[tokio::test]
    async fn a_start_removes_what_no_run_waits_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let uploads = Uploads::open(dir.path().join("uploads")).expect("opened");
        let (waited_for, told) = batch(&uploads).await;
        let (forgotten, _) = batch(&uploads).await;
        waited_for.keep();
        forgotten.keep();
        uploads.sweep([&told]).expect("swept");
        assert_eq!(entries(&uploads), 1);
        assert!(uploads.read(&told, 0).await.is_ok());
    }
}
