//! Files that a room reads and cannot change: they lie in its socket directory, which its container mounts read-only.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::SocketBase;
use super::clear::remove_tree;
use crate::id::RoomId;

/// Beginning of the name of a folder that is being written.
const UNFINISHED: &str = ".new-";
/// Permissions of folders, and of files that begin with `#!`.
const OPEN: u32 = 0o755;
/// Permissions of all other files.
const READABLE: u32 = 0o644;

impl SocketBase {
    /// Removes a room's folders of a kind but the one of this name, `<kind>-<name>`; returns whether that one is there. A room without a
    /// directory has none.
    ///
    /// # Errors
    /// The directory cannot be read or changed.
    pub fn keep_placed(&self, id: &RoomId, kind: &str, name: Option<&str>) -> io::Result<bool> {
        let room = self.base.join(id.as_str());
        let kept = name.map(|name| folder(kind, name));
        let mut found = false;
        let entries = match fs::read_dir(&room) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?.file_name();
            let text = entry.to_string_lossy();
            if kept.as_deref() == Some(&*text) {
                found = true;
            } else if text.starts_with(&folder(kind, "")) || text.starts_with(UNFINISHED) {
                remove_tree(&room.join(&entry))?;
            }
        }
        Ok(found)
    }

    /// Places a folder of files, `<kind>-<name>`, in a room's directory. It is there whole, or not at all. Paths are checked by the caller.
    ///
    /// # Errors
    /// The room is one of version 0.1, which could change the files; they cannot be written, or are there already.
    pub fn place(&self, id: &RoomId, kind: &str, name: &str, files: &[(String, Vec<u8>)]) -> io::Result<()> {
        if self.open(id)?.uid().is_none() {
            return Err(io::Error::other("the workspace is of version 0.1, and could change its files"));
        }
        let room = self.base.join(id.as_str());
        let folder = folder(kind, name);
        let unfinished = room.join(format!("{UNFINISHED}{folder}"));
        let written = write(&unfinished, files).and_then(|()| fs::rename(&unfinished, room.join(&folder)));
        if written.is_err()
            && let Err(error) = remove_tree(&unfinished)
        {
            tracing::warn!(room = id.as_str(), folder, %error, "what was written of a folder of files stays until the next run");
        }
        written
    }
}

fn folder(kind: &str, name: &str) -> String {
    format!("{kind}-{name}")
}

fn write(folder: &Path, files: &[(String, Vec<u8>)]) -> io::Result<()> {
    make(folder)?;
    for (path, content) in files {
        let mut parent = folder.to_path_buf();
        let parts: Vec<&str> = path.split('/').collect();
        for part in &parts[..parts.len() - 1] {
            parent.push(part);
            make(&parent)?;
        }
        let mode = if content.starts_with(b"#!") { OPEN } else { READABLE };
        let path = folder.join(path);
        File::options().write(true).create_new(true).mode(mode).open(&path)?.write_all(content)?;
        fs::set_permissions(&path, Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// Makes a folder, whatever the umask, unless it is there.
fn make(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(OPEN).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
        Ok(()) => fs::set_permissions(path, Permissions::from_mode(OPEN)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_takes_the_place_of_the_one_before() {
        let dir = tempfile::tempdir().expect("a directory");
        let base = SocketBase::prepare(dir.path().join("b"), dir.path().join("b")).expect("prepares");
        let id = RoomId::generate("d");
        let _room = base.create(&id, 50_000).expect("creates");
        let file = |path: &str, content: &str| (path.to_owned(), content.as_bytes().to_vec());
        let at = |path: &str| base.host_path(&id).join(path);
        base.place(&id, "skills", "one", &[file("a/b/c.txt", "c"), file("run", "#!/bin/sh\n")]).expect("places");
        assert_eq!(fs::read_to_string(at("skills-one/a/b/c.txt")).expect("reads"), "c");
        let mode = |path: &str| fs::metadata(at(path)).expect("is there").permissions().mode() & 0o777;
        assert_eq!(
            (mode("skills-one/a"), mode("skills-one/a/b/c.txt"), mode("skills-one/run")),
            (OPEN, READABLE, OPEN)
        );
        assert!(base.keep_placed(&id, "skills", Some("one")).expect("looks"));
        assert!(!base.keep_placed(&id, "skills", Some("two")).expect("looks") && !at("skills-one").exists());
        base.place(&id, "skills", "two", &[file("a", "2")]).expect("places");
        assert!(base.place(&id, "skills", "two", &[file("a", "3")]).is_err(), "it never changes");
        assert_eq!(fs::read_to_string(at("skills-two/a")).expect("reads"), "2");
        assert!(base.place(&id, "skills", "bad", &[file("a", "1"), file("a/b", "2")]).is_err());
        assert!(!at(".new-skills-bad").exists() && !at("skills-bad").exists(), "all of it, or nothing");
        assert!(!base.keep_placed(&id, "skills", None).expect("looks") && !at("skills-two").exists());
        assert!(base.open(&id).is_ok(), "nothing else is touched");
        base.remove(&id).expect("removes");
        assert!(!at("").exists());
    }
}
