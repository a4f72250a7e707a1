//! The state directory: this process's alone while it runs.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Characters of a deployment id that we make: random, hexadecimal.
const ID_DIGITS: usize = 12;

/// Bytes that must be free in it. A run's journal, its messages and its room's record find room in less, but with less than
/// this it is only a matter of minutes.
const LEAST_FREE: u64 = 8 << 20;

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// It cannot be made or written.
    #[error("STATE_DIR={path:?}: {source}; give a directory this user may write to")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// In the system's words.
        source: io::Error,
    },
    /// Its file system is full.
    #[error(
        "STATE_DIR={path:?} has {free} bytes and {files} files free, too little to keep runs; make room on that file system"
    )]
    Full {
        /// The directory.
        path: PathBuf,
        /// Bytes that are left.
        free: u64,
        /// Files that may still be made.
        files: u64,
    },
    /// Another server has it.
    #[error("STATE_DIR={0:?} is in use by another server; stop it, or give this one a directory of its own")]
    InUse(PathBuf),
    /// The id in it is none.
    #[error("{0:?} holds no deployment id; restore or remove it (removing it disowns the rooms that exist)")]
    Id(PathBuf),
}

/// The directory, locked.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    /// Held for as long as the directory is ours.
    _lock: File,
}

impl StateDir {
    /// Makes the directory where there is none, and locks it.
    ///
    /// # Errors
    /// It cannot be used.
    pub fn open(path: &Path) -> Result<Self, DirectoryError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| DirectoryError::Io { path, source }
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io(path))?;
        let lock = path.join("lock");
        let file =
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&lock).map_err(io(&lock))?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(DirectoryError::InUse(path.to_owned())),
            Err(error) => Err(io(&lock)(error.into())),
        }
    }

    /// A file in the directory.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Whether its file system has room for runs: some MiB, and a few files more.
    ///
    /// # Errors
    /// It has not, or does not tell.
    pub fn check_free_space(&self) -> Result<(), DirectoryError> {
        check_free_space(&self.path)
    }

    /// The deployment's id, made at the first start.
    ///
    /// # Errors
    /// It can be neither read nor written.
    pub fn deployment_id(&self) -> Result<String, DirectoryError> {
        let path = self.file("deployment-id");
        let io = |source| DirectoryError::Io { path: path.clone(), source };
        match fs::read_to_string(&path) {
            Ok(text) => {
                let id = text.trim();
                let valid = id.len() == ID_DIGITS && id.bytes().all(|b| b.is_ascii_hexdigit());
                if valid { Ok(id.to_owned()) } else { Err(DirectoryError::Id(path)) }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let id = format!("{:016x}", rand::random::<u64>())[..ID_DIGITS].to_owned();
                write_atomically(&path, &id).map_err(io)?;
                Ok(id)
            }
            Err(error) => Err(io(error)),
        }
    }
}

/// [`StateDir::check_free_space`] for a directory that is not ours yet.
///
/// # Errors
/// As there.
pub fn check_free_space(path: &Path) -> Result<(), DirectoryError> {
    let space = rustix::fs::statvfs(path)
        .map_err(|error| DirectoryError::Io { path: path.to_owned(), source: error.into() })?;
    let (free, files) = (space.f_bavail.saturating_mul(space.f_frsize), space.f_favail);
    // A file system that does not count files says that it has none at all.
    let no_file = space.f_files > 0 && files == 0;
    if free < LEAST_FREE || no_file {
        return Err(DirectoryError::Full { path: path.to_owned(), free, files });
    }
    Ok(())
}

/// Writes a file so that a reader sees all of it or nothing.
///
/// # Errors
/// It was not written.
pub fn write_atomically(path: &Path, text: &str) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    let mut file = File::create(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_belongs_to_one_and_keeps_its_id() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("state");
        let first = StateDir::open(&path).expect("opens");
        let id = first.deployment_id().expect("makes an id");
        assert!(matches!(StateDir::open(&path), Err(DirectoryError::InUse(_))));
        drop(first);
        let second = StateDir::open(&path).expect("opens again");
        assert_eq!(second.deployment_id().expect("reads it"), id);
        fs::write(path.join("deployment-id"), "junk").expect("writes");
        assert!(matches!(second.deployment_id(), Err(DirectoryError::Id(_))));
    }
}
