//! Removal of a directory tree that was made by an untrusted room.
//!
//! A room can nest directories a hundred thousand deep. Removal that descends, as `remove_dir_all` does, then runs out of
//! descriptors or of stack, and takes the whole server with it. This one never descends: the entries of a subdirectory are moved
//! up, next to it, until the tree is flat. It holds two descriptors at a time, follows no link, and takes time in proportion to
//! the number of entries.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

/// Removes `path` and everything in it. The tree must not change meanwhile. A missing `path` is not an error.
///
/// # Errors
/// If an entry cannot be removed; `path` may be flatter than before.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    let top = match open(CWD, path) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(()),
        // A file or a link: only the name is removed.
        Err(Errno::NOTDIR | Errno::LOOP) => return Ok(rustix::fs::unlink(path)?),
        Err(error) => return Err(error.into()),
    };
    let mut moved = 0_u64;
    loop {
        let names = entries(&top)?;
        if names.is_empty() {
            break;
        }
        for name in names {
            if is_directory(&top, &name)? {
                lift(&top, &name, &mut moved)?;
            } else {
                rustix::fs::unlinkat(&top, &name, AtFlags::empty())?;
            }
        }
    }
    match rustix::fs::rmdir(path) {
        Err(Errno::NOENT) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Moves the directories in a subdirectory of `top` up into `top`, removes its other entries, and then the subdirectory itself.
fn lift(top: &OwnedFd, name: &CStr, moved: &mut u64) -> io::Result<()> {
    let dir = match open(top, name) {
        Err(Errno::ACCESS) => {
            // The room removed the permissions. If the directory belongs to this process's user, they can be restored.
            open_up(top, name)?;
            open(top, name)?
        }
        other => other?,
    };
    for child in entries(&dir)? {
        if !is_directory(&dir, &child)? {
            rustix::fs::unlinkat(&dir, &child, AtFlags::empty())?;
            continue;
        }
        // Moving a directory needs write permission on it, because its entry `..` changes (rename(2)).
        if !rustix::process::geteuid().is_root() {
            open_up(&dir, &child)?;
        }
        loop {
            *moved += 1;
            let lifted = format!(".lifted-{moved}");
            match rustix::fs::renameat_with(&dir, &child, top, lifted, rustix::fs::RenameFlags::NOREPLACE) {
                Ok(()) => break,
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(rustix::fs::unlinkat(top, name, AtFlags::REMOVEDIR)?)
}

fn open(at: impl std::os::fd::AsFd, name: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

/// Gives a directory, known to be one, back the permissions that its removal needs.
fn open_up(at: &OwnedFd, name: &CStr) -> io::Result<()> {
    Ok(rustix::fs::chmodat(at, name, Mode::RWXU, AtFlags::empty())?)
}

fn is_directory(at: &OwnedFd, name: &CStr) -> io::Result<bool> {
    let stat = rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

/// Names in a directory, without `.` and `..`.
fn entries(dir: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_bytes() != b"." && name.to_bytes() != b".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More levels than a process may have descriptors, and than fit into a path.
    const DEPTH: usize = 30_000;

    fn nested(path: &Path, depth: usize) {
        std::fs::create_dir(path).expect("makes");
        let mut at = open(CWD, path).expect("opens");
        for _ in 0..depth {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).expect("makes");
            at = open(&at, "d").expect("opens");
        }
        rustix::fs::openat(&at, "f", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).expect("makes");
    }

    #[test]
    fn a_tree_of_any_depth_is_removed() {
        let dir = tempfile::tempdir().expect("a directory");
        let top = dir.path().join("top");
        nested(&top, DEPTH);
        remove_tree(&top).expect("removes");
        assert!(!top.exists());
        remove_tree(&top).expect("gone already");
    }

    #[test]
    fn links_and_special_files_are_removed_and_not_followed() {
        use rustix::fs::{CWD, mknodat};
        let dir = tempfile::tempdir().expect("a directory");
        let (top, outside) = (dir.path().join("top"), dir.path().join("outside"));
        std::fs::create_dir_all(top.join("a/b")).expect("makes");
        std::fs::create_dir(&outside).expect("makes");
        std::fs::write(outside.join("kept"), "x").expect("writes");
        for link in ["link", "a/link", "a/b/link", ".lifted-1"] {
            std::os::unix::fs::symlink(&outside, top.join(link)).expect("links");
        }
        mknodat(CWD, top.join("a/fifo"), FileType::Fifo, Mode::RUSR, 0).expect("makes");
        rustix::fs::chmodat(CWD, top.join("a/b"), Mode::empty(), AtFlags::empty()).expect("closes");
        remove_tree(&top).expect("removes");
        assert!(!top.exists() && outside.join("kept").exists());

        std::os::unix::fs::symlink(&outside, &top).expect("links");
        remove_tree(&top).expect("removes the link");
        assert!(top.symlink_metadata().is_err() && outside.join("kept").exists());
    }
}
