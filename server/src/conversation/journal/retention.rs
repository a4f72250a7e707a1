//! How long journals of settled runs are kept, and how much of them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::Journals;
use super::line::EventLine;
use super::shared::PASSING;

/// End of the name of a journal from which the passing events are removed.
const COMPACT: &str = ".compact";

/// The file of such a journal.
pub(super) fn compacted(dir: &Path, run_id: &str) -> PathBuf {
    dir.join(format!("{run_id}{COMPACT}"))
}

/// What is kept of the log of settled runs. The messages of conversations are in the database, whatever is kept here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// How long a run is kept after its end.
    pub time: Duration,
    /// Bytes of all runs on this server's disk, and of all in the shared log; the oldest are removed first.
    pub bytes: u64,
}

struct Kept {
    path: PathBuf,
    bytes: u64,
    ended: SystemTime,
}

impl Journals {
    /// Ids of the conversations that have settled runs on this server's disk.
    fn kept_conversations(&self) -> io::Result<Vec<String>> {
        let names = fs::read_dir(&self.kept)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.collect()
    }

    /// Removes what is kept no longer.
    ///
    /// # Errors
    /// A directory cannot be read, a file cannot be removed, or the shared log does not answer.
    pub async fn forget(&self, retention: Retention) -> io::Result<()> {
        if let Some(log) = &self.shared {
            log.forget(retention.time, retention.bytes).await?;
            // Deleted by another server, which removed its own copies alone.
            for conversation in log.deleted_among(self.kept_conversations()?).await? {
                self.remove_all(&conversation)?;
            }
        }
        let kept = self.kept.clone();
        tokio::task::spawn_blocking(move || sweep(&kept, retention, SystemTime::now()))
            .await
            .map_err(io::Error::other)?
    }
}

fn sweep(dir: &Path, retention: Retention, now: SystemTime) -> io::Result<()> {
    let mut all = Vec::new();
    for conversation in fs::read_dir(dir)? {
        for entry in fs::read_dir(conversation?.path())? {
            let entry = entry?;
            let Ok(about) = entry.metadata() else { continue };
            all.push(Kept { path: entry.path(), bytes: about.len(), ended: about.modified()? });
        }
    }
    all.sort_by_key(|kept| std::cmp::Reverse(kept.ended));
    let mut bytes = 0;
    for Kept { path, bytes: own, ended } in all {
        bytes += own;
        let age = now.duration_since(ended).unwrap_or_default();
        if age <= retention.time && bytes <= retention.bytes {
            continue;
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        if let Some(conversation) = path.parent() {
            // This succeeds only for an empty directory.
            drop(fs::remove_dir(conversation));
        }
    }
    Ok(())
}

/// Removes the passing events from the journals of a conversation but that of its last run.
pub(super) fn compact(dir: &Path, last: &str) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| !name.contains('.') && *name < last) else { continue };
        let (partial, smaller) = (dir.join(format!("{name}.part")), compacted(dir, name));
        let ended = entry.metadata()?.modified()?;
        let file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&partial)?;
        let mut out = BufWriter::new(file);
        for line in BufReader::new(File::open(entry.path())?).split(b'\n') {
            let line = line?;
            let event = std::str::from_utf8(&line).ok().and_then(EventLine::parse);
            if event.is_none_or(|event| !PASSING.contains(&event.name)) {
                out.write_all(&line)?;
                out.write_all(b"\n")?;
            }
        }
        let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.set_modified(ended)?;
        fs::rename(&partial, &smaller)?;
        fs::remove_file(entry.path())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .expect("a directory")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
            .collect();
        names.sort();
        names
    }

    #[test]
    fn an_earlier_run_loses_its_passing_events_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a directory");
        let lines = "#{\"run\":1}\n1 text_delta {\"seq\":1,\"text\":\"a\"}\n1 assistant {\"seq\":2}\n0 ping {\"seq\":3}\n0 done {\"seq\":4}\n";
        let ended = SystemTime::now() - Duration::from_secs(3_600);
        for name in ["1", "2"] {
            fs::write(dir.path().join(name), lines).expect("written");
            File::options()
                .append(true)
                .open(dir.path().join(name))
                .and_then(|file| file.set_modified(ended))
                .expect("set");
        }
        for _ in 0..2 {
            compact(dir.path(), "2").expect("compacted");
            assert_eq!(names(dir.path()), ["1.compact", "2"]);
            let left = fs::read_to_string(dir.path().join("1.compact")).expect("read");
            assert_eq!(left, "#{\"run\":1}\n1 assistant {\"seq\":2}\n0 done {\"seq\":4}\n");
            let kept = fs::metadata(dir.path().join("1.compact")).expect("a file").modified().expect("a time");
            assert_eq!(kept, ended, "it is as old as it was");
            assert_eq!(fs::read_to_string(dir.path().join("2")).expect("read"), lines);
        }
    }

    #[test]
    fn what_is_too_old_or_too_much_is_removed_the_oldest_first() {
        let dir = tempfile::tempdir().expect("a directory");
        let now = SystemTime::now();
        for (conversation, run, age) in [("a", "1", 300), ("a", "2", 100), ("b", "3", 200), ("c", "4", 1_000)] {
            fs::create_dir_all(dir.path().join(conversation)).expect("created");
            let file = File::create(dir.path().join(conversation).join(run)).expect("created");
            (&file).write_all(&[b'x'; 100]).expect("written");
            file.set_modified(now - Duration::from_secs(age)).expect("set");
        }
        let sweep = |time: u64, bytes| {
            sweep(dir.path(), Retention { time: Duration::from_secs(time), bytes }, now).expect("swept");
        };
        sweep(1_000, 1_000);
        assert_eq!(names(dir.path()), ["a", "b", "c"]);
        sweep(999, 1_000);
        assert_eq!(names(dir.path()), ["a", "b"]);
        sweep(999, 299);
        assert_eq!((names(dir.path()), names(&dir.path().join("a"))), (vec!["a".into(), "b".into()], vec!["2".into()]));
        sweep(150, 1_000);
        assert_eq!(names(dir.path()), ["a"]);
    }
}
