//! The journals of a server, one file per run: those of runs that are not settled, and those of settled ones, which are kept by
//! conversation. With [`SharedLog`] the files are copies, and a journal of another server is read from there.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::io::AsyncWriteExt;

use super::copy::SharedCopy;
use super::line::Head;
use super::shared::{SharedError, SharedLog, SharedRun};
use super::{Journal, Past, retention};

/// Lines that are read from the shared log at a time.
const PAGE: u32 = 5_000;
/// Beginning of the names of files that are being read from the shared log.
const PARTIAL: &str = "partial-";

/// All journals.
#[derive(Debug, Clone)]
pub struct Journals {
    /// Journals of runs that are not settled: `<conversation>.<run>`.
    open: PathBuf,
    /// A directory for each conversation with its settled runs.
    pub(super) kept: PathBuf,
    pub(super) shared: Option<Arc<SharedLog>>,
}

/// Identifies a journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalRef {
    /// Id of the conversation.
    pub conversation: String,
    /// Id of the run; ids ascend with time.
    pub run_id: String,
}

impl Journals {
    /// Opens the directories of journals of unsettled and of settled runs, and creates them if they are missing. Settled journals that an
    /// earlier process has left among the others are kept.
    ///
    /// # Errors
    /// A directory cannot be created or read.
    pub fn open(open: PathBuf, kept: PathBuf, shared: Option<Arc<SharedLog>>) -> io::Result<Self> {
        for path in [&open, &kept] {
            DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        }
        for entry in fs::read_dir(&open)? {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(PARTIAL.as_bytes()) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(Self { open, kept, shared })
    }

    /// The log that other servers read as well.
    #[must_use]
    pub fn shared(&self) -> Option<&Arc<SharedLog>> {
        self.shared.as_ref()
    }

    fn file(&self, reference: &JournalRef) -> PathBuf {
        self.open.join(format!("{}.{}", reference.conversation, reference.run_id))
    }

    fn of_conversation(&self, conversation: &str) -> PathBuf {
        self.kept.join(conversation)
    }

    /// Begins the journal of a new run.
    ///
    /// # Errors
    /// The run has a journal, or the file or the shared log cannot be written; an incomplete file is removed.
    pub async fn begin(&self, head: Head) -> io::Result<Journal> {
        let conversation = head.order.conversation.conversation_id.clone();
        let reference = JournalRef { conversation, run_id: head.run_id.clone() };
        let path = self.file(&reference);
        let file = OpenOptions::new().create_new(true).read(true).write(true).mode(0o600).open(&path)?;
        let begun = async {
            let copy = match &self.shared {
                Some(log) => {
                    log.begin(&reference.conversation, &reference.run_id).await?;
                    Some(SharedCopy::new(log.clone(), reference.run_id.clone(), None))
                }
                None => None,
            };
            Journal::begin(file, head, copy).await
        };
        let begun = begun.await;
        if begun.is_err()
            && let Err(error) = self.withdraw(&reference).await
        {
            tracing::warn!(?path, %error, "an incomplete journal was not removed");
        }
        begun
    }

    /// The journals that are not kept yet, oldest run first. Files with other names are ignored.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn unsettled(&self) -> io::Result<Vec<JournalRef>> {
        let mut journals = Vec::new();
        for entry in fs::read_dir(&self.open)? {
            let name = entry?.file_name();
            if let Some((conversation, run_id)) = name.to_str().and_then(|name| name.split_once('.')) {
                journals.push(JournalRef { conversation: conversation.into(), run_id: run_id.into() });
            }
        }
        journals.sort_unstable_by(|a, b| a.run_id.cmp(&b.run_id));
        Ok(journals)
    }

    /// Runs of a conversation that are not settled, with their files.
    pub(super) fn unsettled_of(&self, conversation: &str) -> io::Result<Vec<(String, PathBuf)>> {
        let mut journals = self.unsettled()?;
        journals.retain(|journal| journal.conversation == conversation);
        Ok(journals.into_iter().map(|journal| (journal.run_id.clone(), self.file(&journal))).collect())
    }

    /// Opens the journal of a run that an earlier process has left, with the past of the run; `None` if the journal has no complete first
    /// line, or if another server has the run.
    ///
    /// # Errors
    /// The file cannot be read, or not truncated to its last complete line; or the shared log does not answer.
    pub async fn resume(&self, reference: &JournalRef) -> io::Result<Option<(Journal, Past)>> {
        let path = self.file(reference);
        let open = || OpenOptions::new().read(true).write(true).open(&path);
        let Some(log) = &self.shared else {
            let file = open()?;
            let (file, read) = past(file, 0).await?;
            let Some((past, _)) = read else { return Ok(None) };
            return Ok(Some((Journal::resume(file, &past, None)?, past)));
        };
        let shared = log.complete(&reference.run_id).await?;
        let (_, mut read) = past(open()?, shared).await?;
        if read.as_ref().is_none_or(|(past, _)| past.lines < shared) {
            // A power failure has shortened the file, or it never was this server's.
            self.fetch(log, &reference.run_id, &path).await?;
            (_, read) = past(open()?, shared).await?;
        }
        let Some((past, at)) = read else { return Ok(None) };
        let copy = SharedCopy::new(log.clone(), reference.run_id.clone(), Some((at, shared)));
        Ok(Some((Journal::resume(open()?, &past, Some(copy))?, past)))
    }

    /// Claims a run of a server that has died; `false` if it is another server's.
    ///
    /// # Errors
    /// The shared log does not answer.
    pub async fn claim(&self, run: &SharedRun) -> io::Result<bool> {
        let Some(log) = &self.shared else { return Ok(false) };
        if !log.claim(&run.run_id, &run.owner).await? {
            return Ok(false);
        }
        let reference = JournalRef { conversation: run.conversation.clone(), run_id: run.run_id.clone() };
        // An empty file: it is fetched when the run is resumed.
        OpenOptions::new().create(true).append(true).mode(0o600).open(self.file(&reference))?;
        Ok(true)
    }

    /// Who has a run, as the shared log says; `None` if it does not know the run, or where there is none.
    ///
    /// # Errors
    /// The shared log does not answer.
    pub async fn shared_run(&self, run_id: &str) -> io::Result<Option<SharedRun>> {
        let Some(log) = &self.shared else { return Ok(None) };
        Ok(log.run(run_id).await?)
    }

    /// Writes a run's lines from the shared log to a file.
    async fn fetch(&self, log: &SharedLog, run_id: &str, path: &Path) -> io::Result<()> {
        let partial = self.open.join(format!("{PARTIAL}{}", uuid::Uuid::new_v4()));
        let file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&partial)?;
        let fetched = fetch(log, run_id, tokio::fs::File::from_std(file)).await;
        let fetched = fetched.and_then(|()| fs::rename(&partial, path));
        if fetched.is_err()
            && let Err(error) = no_matter_if_gone(fs::remove_file(&partial))
        {
            tracing::warn!(?partial, %error, "an incomplete copy of a journal was not removed");
        }
        fetched
    }

    /// Moves the journal of a settled run to those that are kept. What is only of use while it is new is removed from the conversation's
    /// earlier ones.
    ///
    /// # Errors
    /// The file cannot be moved, or the shared log does not answer.
    pub async fn keep(&self, reference: &JournalRef) -> io::Result<()> {
        if let Some(log) = &self.shared {
            log.settle(&reference.conversation, &reference.run_id).await?;
        }
        let dir = self.of_conversation(&reference.conversation);
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        fs::rename(self.file(reference), dir.join(&reference.run_id))?;
        let last = reference.run_id.clone();
        tokio::task::spawn_blocking(move || retention::compact(&dir, &last)).await.map_err(io::Error::other)?
    }

    /// Whether a run has a journal.
    ///
    /// # Errors
    /// The shared log does not answer.
    pub async fn knows(&self, conversation: &str, run_id: &str) -> io::Result<bool> {
        if let Some(log) = &self.shared {
            return Ok(log.run(run_id).await?.is_some());
        }
        let reference = JournalRef { conversation: conversation.to_owned(), run_id: run_id.to_owned() };
        Ok({
            let kept = self.of_conversation(conversation);
            self.file(&reference).exists() || kept.join(run_id).exists() || retention::compacted(&kept, run_id).exists()
        })
    }

    /// Id of the last settled run of a conversation on this server's disk.
    #[must_use]
    pub fn last_kept(&self, conversation: &str) -> Option<String> {
        let names = fs::read_dir(self.of_conversation(conversation)).ok()?;
        let names = names.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.filter(|name| !name.contains('.')).max()
    }

    /// The journal of a conversation's last run that is not in progress on this server.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn last(&self, conversation: &str) -> io::Result<Option<Journal>> {
        let own = self.last_kept(conversation);
        let shared = match &self.shared {
            Some(log) => log.latest(conversation).await?,
            None => None,
        };
        let dir = self.of_conversation(conversation);
        match (own, shared, &self.shared) {
            (own, Some(run), Some(log)) if own.as_ref().is_none_or(|own| *own < run.run_id) => {
                DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
                let path = dir.join(if run.settled { run.run_id.clone() } else { format!("{}.left", run.run_id) });
                self.fetch(log, &run.run_id, &path).await?;
                let file = File::open(&path)?;
                if !run.settled {
                    // It goes on elsewhere.
                    fs::remove_file(&path)?;
                }
                Journal::finished(file, run.run_id).map(Some)
            }
            (Some(run_id), ..) => match File::open(dir.join(&run_id)) {
                Ok(file) => Journal::finished(file, run_id).map(Some),
                // It was removed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            },
            _ => Ok(None),
        }
    }

    /// Removes the journal of a run that is not settled if it exists; open readers can still read it to its end.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn remove(&self, reference: &JournalRef) -> io::Result<()> {
        no_matter_if_gone(fs::remove_file(self.file(reference)))
    }

    /// Removes the journal of a run that did not begin, or that nobody has seen.
    ///
    /// # Errors
    /// The file cannot be removed, or the shared log does not answer.
    pub async fn withdraw(&self, reference: &JournalRef) -> io::Result<()> {
        if let Some(log) = &self.shared {
            log.withdraw(&reference.run_id).await?;
        }
        self.remove(reference)
    }

    /// Removes all journals of a conversation from this server's disk. Those in the shared log go with the conversation.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub fn remove_all(&self, conversation: &str) -> io::Result<()> {
        no_matter_if_gone(fs::remove_dir_all(self.of_conversation(conversation)))
    }
}

async fn fetch(log: &SharedLog, run_id: &str, mut file: tokio::fs::File) -> io::Result<()> {
    let mut from = 0;
    loop {
        let lines = log.lines(run_id, from, PAGE).await?;
        let Some((last, _)) = lines.last() else { break };
        from = last + 1;
        for (_, line) in &lines {
            file.write_all(line.as_bytes()).await?;
            file.write_all(b"\n").await?;
        }
    }
    file.flush().await
}

/// Reads a journal's past, which may take a while.
async fn past(file: File, shared: u64) -> io::Result<(File, Option<(Past, u64)>)> {
    let read = move || Past::read(&file, shared).map(|read| (file, read));
    tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
}

fn no_matter_if_gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl From<SharedError> for super::super::store::StoreError {
    fn from(error: SharedError) -> Self {
        Self::Journal(error.to_string())
    }
}
