//! The state directory. A running server locks it, so no other server uses it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Length of a deployment id: random hexadecimal digits.
const ID_DIGITS: usize = 12;

/// Free bytes below which no run is accepted. One run's journal, messages and record need less than this, but the directory would be
/// full within minutes.
const MIN_FREE_BYTES: u64 = 8 << 20;

/// Free bytes that uploads leave beyond [`MIN_FREE_BYTES`]: this many, or a share of the file system where that is less. So uploads
/// end while there is still much space for the journals and the database of runs.
const UPLOAD_RESERVE: u64 = 1 << 30;
/// That share is one in this many.
const UPLOAD_RESERVE_SHARE: u64 = 20;

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// It cannot be created or written.
    #[error("STATE_DIR={path:?}: {source}; choose a directory that this user may write to")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// Its file system is full.
    #[error(
        "STATE_DIR={path:?} has {free} bytes and {files} files free, too little to store runs; free space on that file system"
    )]
    Full {
        /// The directory.
        path: PathBuf,
        /// Free bytes.
        free: u64,
        /// Free inodes.
        files: u64,
    },
    /// Another server has locked it.
    #[error("STATE_DIR={0:?} is in use by another server; stop it, or give this one a directory of its own")]
    InUse(PathBuf),
    /// The file with the deployment id is not valid.
    #[error(
        "{0:?} does not contain a valid deployment id; restore it, or remove it (existing workspaces then no longer belong to this deployment)"
    )]
    Id(PathBuf),
}

/// The locked directory.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    /// Keeps the lock for as long as the value lives.
    _lock: File,
}

impl StateDir {
    /// Creates the directory if it is missing, and locks it.
    ///
    /// # Errors
    /// The directory cannot be created or written, or another server has locked it.
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

    /// The path of a file in the directory.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Checks that the directory's file system has space for runs.
    ///
    /// # Errors
    /// The file system is full or cannot be queried.
    pub fn check_free_space(&self) -> Result<(), DirectoryError> {
        check_free_space(&self.path)
    }

    /// Checks that the directory's file system has space for uploads, which must leave a reserve for runs.
    ///
    /// # Errors
    /// Only the reserve is left, or the file system cannot be queried.
    pub fn check_space_for_uploads(&self) -> Result<(), DirectoryError> {
        let space = Space::of(&self.path)?;
        space.check(MIN_FREE_BYTES + upload_reserve(space.total), &self.path)
    }

    /// The deployment's id, generated at the first start.
    ///
    /// # Errors
    /// The file cannot be read or written, or has no valid id.
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

/// [`StateDir::check_free_space`] for a directory that is not locked.
///
/// # Errors
/// The file system is full or cannot be queried.
pub fn check_free_space(path: &Path) -> Result<(), DirectoryError> {
    Space::of(path)?.check(MIN_FREE_BYTES, path)
}

/// Space of a file system.
struct Space {
    /// Size in bytes.
    total: u64,
    /// Free bytes.
    free: u64,
    /// Free inodes.
    files: u64,
    /// A file system without a fixed number of inodes, such as btrfs, reports zero of them in total.
    has_inodes: bool,
}

impl Space {
    fn of(path: &Path) -> Result<Self, DirectoryError> {
        let space = rustix::fs::statvfs(path)
            .map_err(|error| DirectoryError::Io { path: path.to_owned(), source: error.into() })?;
        Ok(Self {
            total: space.f_blocks.saturating_mul(space.f_frsize),
            free: space.f_bavail.saturating_mul(space.f_frsize),
            files: space.f_favail,
            has_inodes: space.f_files > 0,
        })
    }

    fn check(&self, least: u64, path: &Path) -> Result<(), DirectoryError> {
        let Self { free, files, .. } = *self;
        if free < least || (self.has_inodes && files == 0) {
            return Err(DirectoryError::Full { path: path.to_owned(), free, files });
        }
        Ok(())
    }
}

/// Bytes that uploads leave free on a file system of this size, beyond what a run needs.
fn upload_reserve(total: u64) -> u64 {
    UPLOAD_RESERVE.min(total / UPLOAD_RESERVE_SHARE)
}

/// Writes a file atomically: a reader sees the old content or the whole new one.
///
/// # Errors
/// The file could not be written.
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
    fn uploads_leave_more_than_runs_need() {
        const MIB: u64 = 1 << 20;
        for (total, reserve) in [(1 << 40, 1024 * MIB), (20 << 30, 1024 * MIB), (200 * MIB, 10 * MIB), (0, 0)] {
            assert_eq!(upload_reserve(total), reserve, "of {total}");
        }
        let space = |free| Space { total: 1 << 40, free, files: 1, has_inodes: true };
        let (path, for_uploads) = (Path::new("/"), MIN_FREE_BYTES + upload_reserve(1 << 40));
        assert!(space(1024 * MIB).check(MIN_FREE_BYTES, path).is_ok());
        assert!(space(1024 * MIB).check(for_uploads, path).is_err());
        assert!(space(1100 * MIB).check(for_uploads, path).is_ok());
        assert!(Space { files: 0, ..space(1 << 39) }.check(MIN_FREE_BYTES, path).is_err());
    }

    #[test]
    fn a_directory_is_locked_by_one_server_and_keeps_its_id() {
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
    #[test]
    fn a_byte_or_an_inode_less_than_needed_is_too_little() {
        let path = Path::new("/somewhere");
        let space = |free, files, has_inodes| Space { total: 1 << 40, free, files, has_inodes };
        for (space, fits) in [
            (space(MIN_FREE_BYTES, 1, true), true),
            (space(MIN_FREE_BYTES - 1, 1, true), false),
            (space(MIN_FREE_BYTES, 0, true), false),
            (space(MIN_FREE_BYTES, 0, false), true),
        ] {
            assert_eq!(space.check(MIN_FREE_BYTES, path).is_ok(), fits);
        }
        let told = space(7, 3, true).check(MIN_FREE_BYTES, path).expect_err("too little").to_string();
        assert!(told.starts_with("STATE_DIR=\"/somewhere\" has 7 bytes and 3 files free"), "{told}");
    }

    #[test]
    fn an_id_is_so_many_digits_and_files_are_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a/state");
        let state = StateDir::open(&path).expect("opens");
        let id = state.deployment_id().expect("makes an id");
        assert!(id.len() == 12 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
        let mode = |path: &Path| fs::metadata(path).expect("exists").permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&state.file("lock"))), (0o700, 0o600));
        for (text, is_valid) in [
            ("0123456789ab\n", true),
            (" 0123456789ab ", true),
            ("0123456789AB", true),
            ("0123456789a", false),
            ("0123456789abc", false),
            ("0123456789ag", false),
            ("", false),
        ] {
            fs::write(state.file("deployment-id"), text).expect("writes");
            assert_eq!(state.deployment_id().ok().as_deref(), is_valid.then(|| text.trim()), "{text:?}");
        }
        write_atomically(&state.file("x"), "one").expect("writes");
        write_atomically(&state.file("x"), "two").expect("writes");
        assert_eq!(fs::read_to_string(state.file("x")).expect("reads"), "two");
        assert!(!state.file("x.new").exists());
    }
}
