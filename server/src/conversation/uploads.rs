//! Files uploaded with a run's request. They stay in the state directory, also across a restart, until they are in the run's
//! workspace.

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

/// Largest number of files in one request.
pub const MOST_UPLOADS: usize = 100;
/// How many bytes of a file are read at once.
const PIECE: usize = 64 * 1024;

/// The directory of uploads, with one directory per request.
#[derive(Debug, Clone)]
pub struct Uploads(Arc<Path>);

/// The files of one request, as kept in the run's journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uploaded {
    /// Name of the request's directory.
    id: String,
    /// The files, in the order of the request.
    pub files: Vec<UploadedFile>,
}

/// One file of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadedFile {
    /// Path of the file, relative to the workspace directory.
    pub path: String,
    /// Length of the file, in bytes.
    pub bytes: u64,
}

impl Uploads {
    /// Opens the directory, and creates it if it is missing.
    ///
    /// # Errors
    /// The directory cannot be created.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        Ok(Self(path.into()))
    }

    /// Path of the directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Begins to receive the files of a request.
    ///
    /// # Errors
    /// The request's directory cannot be created.
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

    /// The content of the file at this index.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub async fn read(&self, of: &Uploaded, at: usize) -> io::Result<BoxStream<'static, io::Result<Bytes>>> {
        let file = File::open(self.file(&of.id, at)).await?;
        Ok(ReaderStream::with_capacity(file, PIECE).boxed())
    }

    /// Removes the files of a request, if they are still there.
    pub fn remove(&self, of: &Uploaded) {
        self.remove_dir(&of.id);
    }

    fn remove_dir(&self, id: &str) {
        match fs::remove_dir_all(self.dir(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::error!(upload = id, %error, "uploaded files were not removed; the next start removes them");
            }
            _ => {}
        }
    }

    /// Removes every upload that is not in `needed`, such as one that a killed server had not received completely.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn sweep<'a>(&self, needed: impl IntoIterator<Item = &'a Uploaded>) -> io::Result<()> {
        let needed: HashSet<&str> = needed.into_iter().map(|uploaded| uploaded.id.as_str()).collect();
        for entry in fs::read_dir(&self.0)? {
            let name = entry?.file_name();
            if let Some(id) = name.to_str().filter(|id| !needed.contains(id)) {
                self.remove_dir(id);
            }
        }
        Ok(())
    }
}

/// The files of a request that is being received. Dropping the value removes them, unless [`Batch::keep`] was called.
#[derive(Debug)]
pub struct Batch {
    uploads: Uploads,
    id: String,
    count: usize,
    kept: bool,
}

impl Batch {
    /// Creates the next file, empty.
    ///
    /// # Errors
    /// The file cannot be created.
    pub async fn file(&mut self) -> io::Result<File> {
        let file = File::create_new(self.uploads.file(&self.id, self.count)).await?;
        self.count += 1;
        Ok(file)
    }

    /// The description of the files for the run's order: one entry for each [`Batch::file`], in that order.
    #[must_use]
    pub fn describe(&self, files: Vec<UploadedFile>) -> Uploaded {
        debug_assert_eq!(files.len(), self.count, "one entry for each file");
        Uploaded { id: self.id.clone(), files }
    }

    /// Leaves the files to a run.
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
        let mut batch = uploads.begin().expect("begins");
        let mut file = batch.file().await.expect("a file");
        file.write_all(b"content").await.expect("written");
        file.flush().await.expect("flushed");
        let uploaded = batch.describe(vec![UploadedFile { path: "a/b".into(), bytes: 7 }]);
        (batch, uploaded)
    }

    #[tokio::test]
    async fn files_that_no_run_keeps_are_removed_with_their_request() {
        let dir = tempfile::tempdir().expect("a directory");
        let uploads = Uploads::open(dir.path().join("uploads")).expect("opened");
        let (dropped, _) = batch(&uploads).await;
        drop(dropped);
        assert_eq!(entries(&uploads), 0);

        let (kept, uploaded) = batch(&uploads).await;
        kept.keep();
        let content: Vec<Bytes> = uploads.read(&uploaded, 0).await.expect("opened").try_collect().await.expect("read");
        assert_eq!(content.concat(), b"content");
        uploads.remove(&uploaded);
        uploads.remove(&uploaded);
        assert_eq!(entries(&uploads), 0);
    }

    #[tokio::test]
    async fn a_sweep_removes_files_that_no_run_needs() {
        let dir = tempfile::tempdir().expect("a directory");
        let uploads = Uploads::open(dir.path().join("uploads")).expect("opened");
        let (needed, uploaded) = batch(&uploads).await;
        let (forgotten, _) = batch(&uploads).await;
        needed.keep();
        forgotten.keep();
        uploads.sweep([&uploaded]).expect("swept");
        assert_eq!(entries(&uploads), 1);
        assert!(uploads.read(&uploaded, 0).await.is_ok());
    }
}
