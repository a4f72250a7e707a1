//! The directory of journals: one file per run, and for each conversation only the last run's.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::line::Head;
use super::{Journal, Past};

/// End of the journal of a settled run.
const SETTLED: &[u8] = b"\n#\"settled\"\n";

/// The directory of all journals.
#[derive(Debug, Clone)]
pub struct JournalDir(PathBuf);

/// Identifies a journal in its directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalRef {
    /// Id of the conversation.
    pub conversation: String,
    /// Id of the run; ids ascend with time.
    pub run_id: String,
    /// Length when last read, in bytes.
    pub bytes: u64,
}

impl JournalDir {
    /// Opens the directory, and creates it if it is missing.
    ///
    /// # Errors
    /// The directory cannot be created.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    /// Path of the directory.
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

    /// Begins the journal of a new run.
    ///
    /// # Errors
    /// The run has a journal, or the file cannot be written; an incomplete file is removed.
    pub fn begin(&self, head: Head) -> io::Result<Journal> {
        let path = self.file(&head.order.conversation.conversation_id, &head.run_id);
        let file = OpenOptions::new().create_new(true).read(true).write(true).mode(0o600).open(&path)?;
        Journal::begin(file, head).inspect_err(|_| {
            if let Err(error) = fs::remove_file(&path) {
                tracing::warn!(?path, %error, "an incomplete journal was not removed");
            }
        })
    }

    /// All journals, oldest run first. Files with other names are ignored.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn list(&self) -> io::Result<Vec<JournalRef>> {
        let mut journals = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let entry = entry?;
            let name = entry.file_name();
            if let Some((conversation, run_id)) = name.to_str().and_then(|name| name.split_once('.')) {
                let bytes = entry.metadata()?.len();
                journals.push(JournalRef { conversation: conversation.into(), run_id: run_id.into(), bytes });
            }
        }
        journals.sort_unstable_by(|a, b| a.run_id.cmp(&b.run_id));
        Ok(journals)
    }

    /// Whether the run is settled: ended and completely in the database. Only the file's last bytes are read, so that a start is quick
    /// with many journals.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn is_settled(&self, reference: &JournalRef) -> io::Result<bool> {
        let Some(at) = reference.bytes.checked_sub(SETTLED.len() as u64) else { return Ok(false) };
        let mut end = [0; SETTLED.len()];
        self.open_file(reference)?.read_exact_at(&mut end, at)?;
        Ok(end == SETTLED)
    }

    /// Opens the journal of a settled run.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn read(&self, reference: &JournalRef) -> io::Result<Journal> {
        Journal::finished(self.open_file(reference)?, reference.run_id.clone())
    }

    /// Opens the journal of an unsettled run, with the past of the run; `None` if the journal has no complete first line.
    ///
    /// # Errors
    /// The file cannot be read, or not truncated to its last complete line.
    pub fn resume(&self, reference: &JournalRef) -> io::Result<Option<(Journal, Past)>> {
        let file = self.open_file(reference)?;
        let Some(past) = Past::read(&file)? else { return Ok(None) };
        Ok(Some((Journal::resume(file, &past)?, past)))
    }

    /// Removes a journal if it exists; open readers can still read it to its end.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn remove(&self, reference: &JournalRef) -> io::Result<()> {
        match fs::remove_file(self.file(&reference.conversation, &reference.run_id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
