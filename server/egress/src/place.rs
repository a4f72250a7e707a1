//! Binds a socket in a directory that untrusted clients may write to.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use tokio::net::UnixListener;

/// Directory and name of the socket.
#[derive(Debug)]
pub(crate) struct Place {
    dir: OwnedFd,
    name: String,
}

/// A bound socket, and the identity of its file.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) listener: UnixListener,
    file: (u64, u64),
    /// Held so that no other file gets the same inode number.
    _pin: OwnedFd,
}

impl Place {
    pub(crate) fn new(dir: OwnedFd, name: &str) -> Self {
        Self { dir, name: name.to_owned() }
    }

    /// Binds the socket, replacing any file with its name.
    ///
    /// The clients own the directory, so the name may refer to another file at every step. No step follows a link, and none
    /// changes a file outside the directory.
    pub(crate) fn bind(&self) -> io::Result<Bound> {
        self.clear()?;
        let listener = UnixListener::bind(format!("/proc/self/fd/{}/{}", self.dir.as_raw_fd(), self.name))?;
        let owner = rustix::fs::fstat(&self.dir)?;
        if owner.st_uid != rustix::process::geteuid().as_raw() {
            let (uid, gid) = (Uid::from_raw(owner.st_uid), Gid::from_raw(owner.st_gid));
            rustix::fs::chownat(&self.dir, &self.name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        let file = self.file()?.ok_or(io::ErrorKind::NotFound)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let pin = rustix::fs::openat(&self.dir, &self.name, flags, Mode::empty())?;
        Ok(Bound { listener, file, _pin: pin })
    }

    fn clear(&self) -> io::Result<()> {
        let flags = match rustix::fs::statat(&self.dir, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(rustix::io::Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => AtFlags::REMOVEDIR,
            Ok(_) => AtFlags::empty(),
        };
        Ok(rustix::fs::unlinkat(&self.dir, &self.name, flags)?)
    }

    /// Device and inode of the socket with this name; `None` if there is none.
    fn file(&self) -> io::Result<Option<(u64, u64)>> {
        match rustix::fs::statat(&self.dir, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
            Ok(stat) => {
                let socket = FileType::from_raw_mode(stat.st_mode) == FileType::Socket;
                Ok(socket.then_some((stat.st_dev, stat.st_ino)))
            }
        }
    }

    pub(crate) fn holds(&self, bound: &Bound) -> bool {
        self.file().is_ok_and(|file| file == Some(bound.file))
    }

    pub(crate) fn unbind(&self, bound: &Bound) {
        if self.holds(bound)
            && let Err(error) = rustix::fs::unlinkat(&self.dir, &self.name, AtFlags::empty())
        {
            tracing::warn!(%error, "the socket was not removed");
        }
    }
}
