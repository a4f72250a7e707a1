//! Where journals stand: a directory with one file per run, of each conversation only the last.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::line::Head;
use super::{Journal, Past};

/// How a journal ends whose run is all in the database.
const SETTLED: &[u8] = b"\n#\"settled\"\n";

/// The directory.
#[derive(Debug, Clone)]
pub struct JournalDir(PathBuf);

/// Names a journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalRef {
    /// Whose run it was.
    pub conversation: String,
    /// The run; ids ascend with time.
    pub run_id: String,
    /// Length in bytes when last looked at.
    pub bytes: u64,
}

impl JournalDir {
    /// Opens the directory, making it where there is none.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    fn file(&self, conversation: &str, run_id: &str) -> PathBuf {
        self.0.join(format!("{conversation}.{run_id}"))
    }

    fn open_file(&self, reference: &JournalRef) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(self.file(&reference.conversation, &reference.run_id))
    }

    /// Begins a run's journal.
    ///
    /// # Errors
    /// The disk does not take it; then nothing of it is left.
    pub fn begin(&self, head: Head) -> io::Result<Journal> {
        let path = self.file(&head.order.conversation.conversation_id, &head.run_id);
        let file = OpenOptions::new().create_new(true).read(true).write(true).mode(0o600).open(&path)?;
        Journal::begin(file, head).inspect_err(|_| {
            if let Err(error) = fs::remove_file(&path) {
                tracing::warn!(?path, %error, "a journal that could not be begun is left");
            }
        })
    }

    /// All journals, oldest run first. What else lies in the directory is none of ours and stays.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn slips(&self) -> io::Result<Vec<JournalRef>> {
        let mut slips = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let entry = entry?;
            let name = entry.file_name();
            if let Some((conversation, run_id)) = name.to_str().and_then(|name| name.split_once('.')) {
                let bytes = entry.metadata()?.len();
                slips.push(JournalRef { conversation: conversation.into(), run_id: run_id.into(), bytes });
            }
        }
        slips.sort_unstable_by(|a, b| a.run_id.cmp(&b.run_id));
        Ok(slips)
    }

    /// Whether the run is over and all in the database: seen at the file's end, so that a start need not read it.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn is_settled(&self, reference: &JournalRef) -> io::Result<bool> {
        let Some(at) = reference.bytes.checked_sub(SETTLED.len() as u64) else { return Ok(false) };
        let mut end = [0; SETTLED.len()];
        self.open_file(reference)?.read_exact_at(&mut end, at)?;
        Ok(end == SETTLED)
    }

    /// The journal of a run that is over.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn read(&self, reference: &JournalRef) -> io::Result<Journal> {
        Journal::finished(self.open_file(reference)?, reference.run_id.clone())
    }

    /// A journal that is to be gone on with, and what it tells; `None` where it tells nothing.
    ///
    /// # Errors
    /// The file cannot be read, or not be cut to its last whole line.
    pub fn resume(&self, reference: &JournalRef) -> io::Result<Option<(Journal, Past)>> {
        let file = self.open_file(reference)?;
        let Some(past) = Past::read(&file)? else { return Ok(None) };
        Ok(Some((Journal::resume(file, &past)?, past)))
    }

    /// Removes a journal; who reads it reads on. One that is not there is fine.
    ///
    /// # Errors
    /// It stays.
    pub fn remove(&self, reference: &JournalRef) -> io::Result<()> {
        match fs::remove_file(self.file(&reference.conversation, &reference.run_id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
