//! Socket directories: one per room, shared with the room, and untrusted from the moment the room starts.
//!
//! The room may put anything into its directory, so links in it are never followed. The directory itself is opened once, before
//! the room exists, and kept open. A socket is opened with `O_NOFOLLOW`, checked to be a socket, and connected to through its
//! descriptor, so that the file that was checked is the one connected to.

mod clear;

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nagaya_protocol::{AGENT_SOCKET, PROXY_SOCKET};
use rustix::fs::{FileType, Mode, OFlags};
use tokio::net::UnixStream;

use crate::id::RoomId;
use clear::remove_tree;

/// Default of `WORKSPACE_SOCKET_BASE_PATH`.
pub const DEFAULT_BASE: &str = "/var/run/workspace-sockets";

/// Longest path of a Unix socket: `sun_path` holds 108 bytes with its final NUL (unix(7)).
const LONGEST_PATH: usize = 107;

/// User and group that rooms run as if the server is root.
pub const ROOM_USER: (u32, u32) = (1000, 1000);

/// Checks that a socket below `base` has a path that the kernel accepts.
///
/// # Errors
/// A message with the lengths of the parts and the longest base that fits.
pub fn check_length(base: &Path) -> Result<(), String> {
    let socket = AGENT_SOCKET.len().max(PROXY_SOCKET.len());
    let (base, id) = (base.as_os_str().len(), RoomId::LENGTH);
    let whole = base + 1 + id + 1 + socket;
    if whole <= LONGEST_PATH {
        return Ok(());
    }
    Err(format!(
        "a socket's path has at most {LONGEST_PATH} bytes, and {base} (base) + 1 + {id} (room) + 1 + {socket} (socket) = \
         {whole}; choose a base of at most {} bytes",
        LONGEST_PATH - (whole - base)
    ))
}

/// The user and group that rooms run as: [`ROOM_USER`] if the server is root, else the server's own, because only root can give
/// the directories it creates to another user.
#[must_use]
pub fn room_user() -> (u32, u32) {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    if uid.is_root() { ROOM_USER } else { (uid.as_raw(), gid.as_raw()) }
}

/// The directory that holds the socket directories of all rooms.
#[derive(Debug, Clone)]
pub struct SocketBase {
    base: PathBuf,
    host_base: PathBuf,
}

impl SocketBase {
    /// Creates the base directory if it does not exist.
    ///
    /// # Errors
    /// If it cannot be created, or is not a directory this process may write to.
    pub fn prepare(base: PathBuf, host_base: PathBuf) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(&base)?;
        rustix::fs::access(&base, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)?;
        Ok(Self { base, host_base })
    }

    /// Creates a room's directory, owned by the room's user and closed to others.
    ///
    /// # Errors
    /// If it exists or cannot be created.
    pub fn create(&self, id: &RoomId) -> io::Result<RoomDir> {
        let path = self.base.join(id.as_str());
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        let dir = RoomDir::open(&path)?;
        if rustix::process::geteuid().is_root() {
            let (uid, gid) = ROOM_USER;
            rustix::fs::fchown(&dir.0, Some(rustix::fs::Uid::from_raw(uid)), Some(rustix::fs::Gid::from_raw(gid)))?;
        }
        Ok(dir)
    }

    /// Opens the directory of a room that an earlier server created.
    ///
    /// # Errors
    /// If it does not exist.
    pub fn open(&self, id: &RoomId) -> io::Result<RoomDir> {
        RoomDir::open(&self.base.join(id.as_str()))
    }

    /// The room's directory as the engine's host sees it.
    #[must_use]
    pub fn host_path(&self, id: &RoomId) -> PathBuf {
        self.host_base.join(id.as_str())
    }

    /// Whether the base has another path on the engine's host than in this process.
    #[must_use]
    pub fn is_elsewhere(&self) -> bool {
        self.base != self.host_base
    }

    /// Removes a room's directory and everything in it, following no link. A missing directory is not an error.
    ///
    /// # Errors
    /// If an entry cannot be removed.
    pub fn remove(&self, id: &RoomId) -> io::Result<()> {
        remove_tree(&self.base.join(id.as_str()))
    }

    /// Lists the rooms that have a directory, and when each directory was last modified. Other names are left out.
    ///
    /// # Errors
    /// If the base cannot be read.
    pub fn list(&self) -> io::Result<Vec<(RoomId, SystemTime)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.base)? {
            let entry = entry?;
            let Some(id) = entry.file_name().to_str().and_then(RoomId::parse) else { continue };
            match entry.metadata() {
                Ok(metadata) => found.push((id, metadata.modified()?)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }
}

/// Why a socket in a room's directory could not be connected to.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The file is not a socket: the room is hostile.
    #[error("{name} in the room's directory is not a socket but a {kind:?}")]
    NotASocket {
        /// Name of the file.
        name: &'static str,
        /// The file's actual type.
        kind: FileType,
    },
    /// The socket does not exist, or nothing accepts connections on it (yet).
    #[error("cannot connect to {name}: {source}")]
    Io {
        /// Name of the socket.
        name: &'static str,
        /// Error of the system call.
        source: io::Error,
    },
}

/// One room's directory, held open.
#[derive(Debug)]
pub struct RoomDir(OwnedFd);

impl RoomDir {
    fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        Ok(Self(rustix::fs::open(path, flags, Mode::empty())?))
    }

    /// Duplicates the descriptor of the directory.
    ///
    /// # Errors
    /// If the process has no descriptor left.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.0.try_clone()
    }

    /// Connects to the agent's socket.
    ///
    /// # Errors
    /// If the socket does not exist, is of another type, or refuses the connection.
    pub async fn connect_agent(&self) -> Result<UnixStream, ConnectError> {
        let name = AGENT_SOCKET;
        let io = |source: io::Error| ConnectError::Io { name, source };
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let socket = rustix::fs::openat(&self.0, name, flags, Mode::empty()).map_err(|e| io(e.into()))?;
        let stat = rustix::fs::fstat(&socket).map_err(|e| io(e.into()))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Socket {
            return Err(ConnectError::NotASocket { name, kind });
        }
        // This link resolves to the file that the descriptor holds, not to the one that has the name by now (proc(5)).
        UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd())).await.map_err(io)
    }
}

/// Whether `path` is a directory that this process may write to, for `doctor`.
#[must_use]
pub fn is_writable_directory(path: &Path) -> bool {
    path.is_dir() && rustix::fs::access(path, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> (tempfile::TempDir, SocketBase, RoomId) {
        let dir = tempfile::tempdir().expect("a directory");
        let base = SocketBase::prepare(dir.path().join("b"), dir.path().join("b")).expect("prepares");
        (dir, base, RoomId::generate("d"))
    }

    #[tokio::test]
    async fn connects_to_a_socket() {
        let (_keep, base, id) = base();
        let dir = base.create(&id).expect("creates");
        let _listener = tokio::net::UnixListener::bind(base.host_path(&id).join(AGENT_SOCKET)).expect("binds");
        dir.connect_agent().await.expect("connects");
    }

    #[tokio::test]
    async fn refuses_links_directories_and_fifos() {
        let (_keep, base, id) = base();
        let dir = base.create(&id).expect("creates");
        let agent = base.host_path(&id).join(AGENT_SOCKET);
        assert!(matches!(dir.connect_agent().await, Err(ConnectError::Io { .. })), "absent");

        let elsewhere = base.host_path(&id).join("other.sock");
        let _listener = tokio::net::UnixListener::bind(&elsewhere).expect("binds");
        std::os::unix::fs::symlink(&elsewhere, &agent).expect("links");
        let link = dir.connect_agent().await;
        assert!(matches!(link, Err(ConnectError::NotASocket { kind: FileType::Symlink, .. })), "{link:?}");

        fs::remove_file(&agent).expect("removes");
        fs::create_dir(&agent).expect("makes");
        let directory = dir.connect_agent().await;
        assert!(matches!(directory, Err(ConnectError::NotASocket { kind: FileType::Directory, .. })), "{directory:?}");

        fs::remove_dir(&agent).expect("removes");
        rustix::fs::mknodat(rustix::fs::CWD, &agent, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("makes");
        let fifo = dir.connect_agent().await;
        assert!(matches!(fifo, Err(ConnectError::NotASocket { kind: FileType::Fifo, .. })), "{fifo:?}");
    }

    #[tokio::test]
    async fn a_full_or_renamed_directory_does_not_matter() {
        let (_keep, base, id) = base();
        let dir = base.create(&id).expect("creates");
        let path = base.host_path(&id);
        let _listener = tokio::net::UnixListener::bind(path.join(AGENT_SOCKET)).expect("binds");
        for n in 0..5_000 {
            fs::write(path.join(format!("f{n}")), "").expect("writes");
        }
        dir.connect_agent().await.expect("connects");
        // Replacing the directory's name does not change the directory that is held open.
        fs::rename(&path, path.with_extension("old")).expect("renames");
        fs::create_dir(&path).expect("makes");
        dir.connect_agent().await.expect("connects");
    }

    #[test]
    fn removal_follows_no_link_and_can_be_repeated() {
        let (keep, base, id) = base();
        base.create(&id).expect("creates");
        let outside = keep.path().join("outside");
        fs::create_dir(&outside).expect("makes");
        fs::write(outside.join("kept"), "x").expect("writes");
        std::os::unix::fs::symlink(&outside, base.host_path(&id).join("link")).expect("links");
        assert_eq!(base.list().expect("lists").len(), 1);
        base.remove(&id).expect("removes");
        base.remove(&id).expect("removes again");
        assert!(outside.join("kept").exists());
        assert!(base.list().expect("lists").is_empty());
    }
}
