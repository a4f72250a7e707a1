//! Socket directories: one per room, shared with the room, and hostile from the moment the room starts.
//!
//! The room may put anything into its directory, so nothing in it is ever followed: the directory itself is opened once,
//! before the room exists, and kept; a socket is opened with `O_NOFOLLOW`, seen to be a socket, and connected to through
//! its descriptor, so that what was checked is what is connected.

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

/// User and group a room runs as where the server is root.
pub const ROOM_USER: (u32, u32) = (1000, 1000);

/// Checks that a socket below `base` has a path that the kernel accepts.
///
/// # Errors
/// The sum that does not come out.
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

/// The user and group rooms run as: a server that is root gives them uid 1000; any other can only share what it creates
/// with itself.
#[must_use]
pub fn room_user() -> (u32, u32) {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    if uid.is_root() { ROOM_USER } else { (uid.as_raw(), gid.as_raw()) }
}

/// The directory that holds all rooms' directories.
#[derive(Debug, Clone)]
pub struct SocketBase {
    base: PathBuf,
    host_base: PathBuf,
}

impl SocketBase {
    /// Makes the base directory if it is not there.
    ///
    /// # Errors
    /// It cannot be made, or is not a directory this process may write to.
    pub fn prepare(base: PathBuf, host_base: PathBuf) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(&base)?;
        rustix::fs::access(&base, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)?;
        Ok(Self { base, host_base })
    }

    /// Makes a room's directory, owned by the room's user and closed to others.
    ///
    /// # Errors
    /// It exists, or cannot be made.
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

    /// Opens the directory of a room that an earlier server made.
    ///
    /// # Errors
    /// It is not there.
    pub fn open(&self, id: &RoomId) -> io::Result<RoomDir> {
        RoomDir::open(&self.base.join(id.as_str()))
    }

    /// The room's directory as the engine's host sees it.
    #[must_use]
    pub fn host_path(&self, id: &RoomId) -> PathBuf {
        self.host_base.join(id.as_str())
    }

    /// Whether the engine's host has the base under another path than this process.
    #[must_use]
    pub fn is_elsewhere(&self) -> bool {
        self.base != self.host_base
    }

    /// Removes a room's directory with all in it, following no link. One that is gone is fine.
    ///
    /// # Errors
    /// Something in it could not be removed.
    pub fn remove(&self, id: &RoomId) -> io::Result<()> {
        remove_tree(&self.base.join(id.as_str()))
    }

    /// Rooms' directories that are there, and when each was last changed. Names that are no room's are left out.
    ///
    /// # Errors
    /// The base cannot be read.
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
    /// It is something else: the room is not to be trusted.
    #[error("{name} in the room's directory is not a socket but a {kind:?}")]
    NotASocket {
        /// Its name.
        name: &'static str,
        /// What it is.
        kind: FileType,
    },
    /// Nobody is there, or not yet.
    #[error("cannot connect to {name}: {source}")]
    Io {
        /// Its name.
        name: &'static str,
        /// In the system's words.
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

    /// Another descriptor of the same directory.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.0.try_clone()
    }

    /// Connects to the agent's socket.
    ///
    /// # Errors
    /// It is not there, not a socket, or nobody accepts.
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
        // Resolving this link opens what the descriptor holds, not what the name stands for by now.
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
    async fn a_socket_is_connected_to() {
        let (_keep, base, id) = base();
        let dir = base.create(&id).expect("creates");
        let _listener = tokio::net::UnixListener::bind(base.host_path(&id).join(AGENT_SOCKET)).expect("binds");
        dir.connect_agent().await.expect("connects");
    }

    #[tokio::test]
    async fn nothing_else_is() {
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
    async fn a_full_directory_and_a_moved_one_change_nothing() {
        let (_keep, base, id) = base();
        let dir = base.create(&id).expect("creates");
        let path = base.host_path(&id);
        let _listener = tokio::net::UnixListener::bind(path.join(AGENT_SOCKET)).expect("binds");
        for n in 0..5_000 {
            fs::write(path.join(format!("f{n}")), "").expect("writes");
        }
        dir.connect_agent().await.expect("connects");
        // Whoever can replace the directory's name cannot replace what is held open.
        fs::rename(&path, path.with_extension("old")).expect("renames");
        fs::create_dir(&path).expect("makes");
        dir.connect_agent().await.expect("connects");
    }

    #[test]
    fn removal_follows_no_link_and_may_be_repeated() {
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
