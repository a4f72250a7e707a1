//! Socket directories: one per room, with the two sockets on which the server listens for the room.
//!
//! A room's container mounts its directory read-only, so nothing of the room is ever on the host's disk, and no name in the directory
//! can change under the server. Beside the sockets lies a file that says which user the room runs as. It is locked by the
//! server that has the room, and closed to the room, which could lock it otherwise.
//!
//! Rooms of version 0.1 could write to their directory, and their agents listened on a socket in it. Such a room has no such
//! file. Until it is released, no link in its directory is followed: its agent's socket is opened with `O_NOFOLLOW`, checked to
//! be a socket, and connected to through its descriptor.

mod clear;
mod placed;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nagaya_protocol::{AGENT_SOCKET, PROXY_SOCKET};
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use tokio::net::{UnixListener, UnixStream};

use crate::id::RoomId;
use clear::remove_tree;

/// Default of `WORKSPACE_SOCKET_BASE_PATH`.
pub const DEFAULT_BASE: &str = "/var/run/workspace-sockets";

/// Longest path of a Unix socket: `sun_path` holds 108 bytes with its final NUL (unix(7)).
const LONGEST_PATH: usize = 107;

/// Name of the file that says which user the room runs as. The server that has the room holds it locked.
const LOCK: &str = ".lock";
/// Name of the file that a server locks while it looks into a room that no server has.
const LOOK: &str = ".look";
/// Pause between two attempts to lock a room.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

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

/// The directory that holds the socket directories of all rooms.
#[derive(Debug, Clone)]
pub struct SocketBase {
    base: PathBuf,
    host_base: PathBuf,
}

impl SocketBase {
    /// Creates the base directory if it does not exist, and closes it to the host's other users: rooms run as users of their own, so
    /// the sockets below admit everyone who can reach them.
    ///
    /// # Errors
    /// If it cannot be created, or is not a directory this process may write to.
    pub fn prepare(base: PathBuf, host_base: PathBuf) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&base)?;
        rustix::fs::access(&base, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)?;
        let found = fs::metadata(&base)?;
        if found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o077 != 0 {
            fs::set_permissions(&base, fs::Permissions::from_mode(0o700))?;
        }
        Ok(Self { base, host_base })
    }

    /// Creates a room's directory and takes the room for this process. It will run as `uid`.
    ///
    /// # Errors
    /// If it exists or cannot be created.
    pub fn create(&self, id: &RoomId, uid: u32) -> io::Result<RoomDir> {
        let path = self.base.join(id.as_str());
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        // Whatever the umask: the room's user may look for the sockets.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        let mut lock = File::options().write(true).create_new(true).mode(0o600).open(path.join(LOCK))?;
        writeln!(lock, "{uid}")?;
        let dir = RoomDir::open(&path)?;
        // Nobody else can have it yet.
        if let Some((lock, _)) = &dir.lock {
            rustix::fs::flock(lock, FlockOperation::NonBlockingLockExclusive)?;
        }
        Ok(dir)
    }

    /// Opens the directory of a room that an earlier server created.
    ///
    /// # Errors
    /// If it does not exist, or the file in it does not name a user.
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

/// Locks a file (flock(2)); `false` if it is still locked by another process after `wait`.
async fn locked(file: &impl std::os::fd::AsFd, how: FlockOperation, wait: Duration) -> io::Result<bool> {
    let until = tokio::time::Instant::now() + wait;
    loop {
        match rustix::fs::flock(file, how) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) if tokio::time::Instant::now() < until => tokio::time::sleep(LOCK_PAUSE).await,
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The file that a room's server locks, with the user that it names.
fn lock_of(lock: File, dir: &Path) -> io::Result<(File, u32)> {
    let wrong = |why: String| io::Error::other(format!("{}: {why}", dir.join(LOCK).display()));
    let found = lock.metadata()?;
    if !found.is_file() || found.uid() != rustix::process::geteuid().as_raw() {
        return Err(wrong("not a file of the server's own".into()));
    }
    let mut uid = String::new();
    (&lock).take(32).read_to_string(&mut uid)?;
    let uid = uid.trim().parse().map_err(|error| wrong(format!("it does not name a user: {error}")))?;
    Ok((lock, uid))
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
pub struct RoomDir {
    dir: OwnedFd,
    /// The file that the server locks, and the user that it names; `None` for a room of version 0.1.
    lock: Option<(File, u32)>,
}

impl RoomDir {
    fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        let dir = rustix::fs::open(path, flags, Mode::empty())?;
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::RDWR;
        let lock = match rustix::fs::openat(&dir, LOCK, flags, Mode::empty()) {
            Ok(lock) => Some(lock_of(File::from(lock), path)?),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Self { dir, lock })
    }

    /// The user that the room runs as; `None` for a room of version 0.1.
    #[must_use]
    pub fn uid(&self) -> Option<u32> {
        self.lock.as_ref().map(|(_, uid)| *uid)
    }

    /// Takes the room for this process, until the directory is closed; `false` if another process still has it, or looks into it,
    /// after `wait`.
    ///
    /// # Errors
    /// If the file system does not support locks.
    pub async fn take(&self, wait: Duration) -> io::Result<bool> {
        match &self.lock {
            Some((lock, _)) => locked(lock, FlockOperation::NonBlockingLockExclusive, wait).await,
            None => Ok(true),
        }
    }

    /// Marks that this process looks into the room, until the directory and the returned file are closed: nobody takes the room or
    /// looks into it meanwhile. `None` if a process has the room, or if another one still looks into it after `wait`.
    ///
    /// # Errors
    /// If the file system does not support locks.
    pub async fn look(&self, wait: Duration) -> io::Result<Option<OwnedFd>> {
        let Some((lock, _)) = &self.lock else { return Ok(Some(self.dir.try_clone()?)) };
        let flags = OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDWR;
        let look = rustix::fs::openat(&self.dir, LOOK, flags, Mode::RUSR | Mode::WUSR)?;
        let marked = locked(&look, FlockOperation::NonBlockingLockExclusive, wait).await?
            && locked(lock, FlockOperation::NonBlockingLockShared, Duration::ZERO).await?;
        Ok(marked.then_some(look))
    }

    /// Binds a socket in the directory, in the place of one that an earlier server left.
    ///
    /// # Errors
    /// If it cannot be bound.
    pub fn bind(&self, name: &str) -> io::Result<UnixListener> {
        let existing = match rustix::fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => None,
            Err(error) => return Err(error.into()),
            // Only a room of version 0.1 can have made anything but a socket of it.
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => Some(AtFlags::REMOVEDIR),
            Ok(_) => Some(AtFlags::empty()),
        };
        if let Some(flags) = existing {
            rustix::fs::unlinkat(&self.dir, name, flags)?;
        }
        let listener = UnixListener::bind(format!("/proc/self/fd/{}/{name}", self.dir.as_raw_fd()))?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let socket = rustix::fs::openat(&self.dir, name, flags, Mode::empty())?;
        if FileType::from_raw_mode(rustix::fs::fstat(&socket)?.st_mode) != FileType::Socket {
            return Err(io::Error::other(format!("{name} was replaced while it was made")));
        }
        // Connecting needs write permission (unix(7)). The link resolves to the file that the descriptor holds (proc_pid_fd(5)).
        rustix::fs::chmod(format!("/proc/self/fd/{}", socket.as_raw_fd()), Mode::from_raw_mode(0o666))?;
        Ok(listener)
    }

    /// Connects to the socket of an agent that listens itself, in a room of version 0.1.
    ///
    /// # Errors
    /// If the socket does not exist, is of another type, or refuses the connection.
    pub async fn connect_agent(&self) -> Result<UnixStream, ConnectError> {
        let name = AGENT_SOCKET;
        let io = |source: io::Error| ConnectError::Io { name, source };
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let socket = rustix::fs::openat(&self.dir, name, flags, Mode::empty()).map_err(|e| io(e.into()))?;
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

    /// A room of version 0.1 has no file beside its directory, and makes sockets in it itself.
    fn outdated(base: &SocketBase, id: &RoomId) -> RoomDir {
        base.create(id, 1000).expect("creates");
        fs::remove_file(base.base.join(id.as_str()).join(LOCK)).expect("removes");
        base.open(id).expect("opens")
    }

    #[test]
    fn a_base_may_be_so_long_that_its_sockets_just_have_a_path() {
        // `/base/id/proxy.sock`.
        let longest = LONGEST_PATH - 1 - RoomId::LENGTH - 1 - PROXY_SOCKET.len();
        assert_eq!(longest, 79);
        let base = |length: usize| PathBuf::from(format!("/{}", "b".repeat(length - 1)));
        assert_eq!(check_length(&base(longest)), Ok(()));
        assert_eq!(
            check_length(&base(longest + 1)).expect_err("too long"),
            "a socket's path has at most 107 bytes, and 80 (base) + 1 + 16 (room) + 1 + 10 (socket) = 108; choose a base of at most 79 \
             bytes"
        );
        // The kernel agrees.
        let dir = tempfile::tempdir_in("/tmp").expect("a directory");
        let used = dir.path().as_os_str().len() + 1;
        for (length, is_bound) in [(LONGEST_PATH, true), (LONGEST_PATH + 1, false)] {
            let path = dir.path().join("s".repeat(length - used));
            assert_eq!(std::os::unix::net::UnixListener::bind(&path).is_ok(), is_bound, "{length}");
        }
    }

    #[test]
    fn rooms_are_listed_by_their_names_and_the_file_beside_the_sockets_names_a_user() {
        let (_keep, base, id) = base();
        base.create(&id, 50_001).expect("creates");
        for other in ["0123456789abcde", "0123456789ABCDEF", "junk", "0123456789abcdef0"] {
            fs::create_dir(base.base.join(other)).expect("makes");
        }
        assert_eq!(
            base.list().expect("lists").into_iter().map(|(id, _)| id).collect::<Vec<_>>(),
            std::slice::from_ref(&id)
        );
        assert!(base.create(&id, 50_001).is_err(), "it exists");
        let lock = base.host_path(&id).join(LOCK);
        assert_eq!(fs::read_to_string(&lock).expect("reads"), "50001\n");
        assert_eq!(fs::metadata(&lock).expect("is there").mode() & 0o777, 0o600);
        for (text, uid) in
            [("7", Some(7)), (" 8 \n", Some(8)), ("", None), ("x", None), ("-1", None), ("4294967296", None)]
        {
            fs::write(&lock, text).expect("writes");
            assert_eq!(base.open(&id).ok().and_then(|room| room.uid()), uid, "{text:?}");
        }
        assert!(!base.is_elsewhere());
        let elsewhere = SocketBase::prepare(base.base.clone(), "/host".into()).expect("prepares");
        assert!(elsewhere.is_elsewhere());
        assert_eq!(elsewhere.host_path(&id), PathBuf::from("/host").join(id.as_str()));
    }

    #[tokio::test]
    async fn a_socket_admits_every_user_and_replaces_an_earlier_one() {
        let (_keep, base, id) = base();
        let dir = base.create(&id, 50_000).expect("creates");
        let path = base.host_path(&id).join(AGENT_SOCKET);
        let first = dir.bind(AGENT_SOCKET).expect("binds");
        assert_eq!(fs::metadata(&path).expect("is there").mode() & 0o777, 0o666);
        let again = base.open(&id).expect("opens");
        assert_eq!(again.uid(), Some(50_000));
        let second = again.bind(AGENT_SOCKET).expect("binds");
        drop(first);
        UnixStream::connect(&path).await.expect("connects to the second");
        drop(second);
        assert_eq!(fs::metadata(base.host_path(&id)).expect("is there").mode() & 0o777, 0o755);
        assert_eq!(fs::metadata(&base.base).expect("is there").mode() & 0o777, 0o700);
    }

    #[tokio::test]
    async fn a_room_is_taken_by_one_process_and_nobody_looks_into_it_meanwhile() {
        const SOON: Duration = Duration::from_secs(20);
        let (_keep, base, id) = base();
        let open = || base.open(&id).expect("opens");
        let first = base.create(&id, 50_000).expect("creates");
        let (second, third) = (open(), open());
        assert!(!second.take(Duration::from_millis(50)).await.expect("tries"));
        assert!(third.look(SOON).await.expect("tries").is_none(), "at once: a living server has it");
        let waiting = tokio::spawn(async move { second.take(SOON).await.map(|taken| (taken, second)) });
        drop(first);
        let (taken, second) = waiting.await.expect("ends").expect("locks");
        assert!(taken);
        drop(second);
        // One looks after the other, and whoever takes the room waits for both.
        let looking = third.look(SOON).await.expect("looks").expect("nobody has it");
        let (fourth, owner) = (open(), open());
        assert!(fourth.look(Duration::from_millis(50)).await.expect("tries").is_none());
        assert!(!owner.take(Duration::from_millis(50)).await.expect("tries"));
        drop((looking, third));
        assert!(fourth.look(SOON).await.expect("looks").is_some());
        drop(fourth);
        assert!(owner.take(SOON).await.expect("takes"));
    }

    #[tokio::test]
    async fn an_outdated_room_is_connected_to_and_links_directories_and_fifos_are_refused() {
        let (_keep, base, id) = base();
        let dir = outdated(&base, &id);
        assert_eq!(dir.uid(), None);
        let agent = base.host_path(&id).join(AGENT_SOCKET);
        assert!(matches!(dir.connect_agent().await, Err(ConnectError::Io { .. })), "absent");

        let elsewhere = base.host_path(&id).join("other.sock");
        let _listener = UnixListener::bind(&elsewhere).expect("binds");
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

        fs::remove_file(&agent).expect("removes");
        let _listener = UnixListener::bind(&agent).expect("binds");
        dir.connect_agent().await.expect("connects");
    }

    #[tokio::test]
    async fn binding_in_an_outdated_room_replaces_anything_and_follows_no_link() {
        let (keep, base, id) = base();
        let dir = outdated(&base, &id);
        let socket = base.host_path(&id).join(PROXY_SOCKET);
        let outside = keep.path().join("outside");
        fs::write(&outside, "kept").expect("writes");
        fs::set_permissions(&outside, fs::Permissions::from_mode(0o600)).expect("sets");
        let tamper: [&dyn Fn(); 2] = [&|| std::os::unix::fs::symlink(&outside, &socket).expect("links"), &|| {
            fs::create_dir(&socket).expect("makes");
        }];
        for tamper in tamper {
            tamper();
            let listener = dir.bind(PROXY_SOCKET).expect("binds");
            UnixStream::connect(&socket).await.expect("connects");
            drop(listener);
            fs::remove_file(&socket).expect("removes");
        }
        let kept = fs::metadata(&outside).expect("is there");
        assert_eq!((kept.mode() & 0o777, kept.len()), (0o600, 4));
    }

    #[test]
    fn removal_follows_no_link_and_can_be_repeated() {
        let (keep, base, id) = base();
        base.create(&id, 50_000).expect("creates");
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
