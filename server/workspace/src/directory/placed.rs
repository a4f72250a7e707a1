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
    /// Places a folder of files, named `<kind>-<name>`, in a room's directory, and removes its other folders of this kind. One of this name is
    /// there whole, or not at all: it stays as it is. Paths are checked by the caller.
    ///
    /// # Errors
    /// The room is one of version 0.1, which could change the files, or they cannot be written.
    pub fn place(&self, id: &RoomId, kind: &str, name: &str, files: &[(String, Vec<u8>)]) -> io::Result<()> {
        if self.open(id)?.uid().is_none() {
            return Err(io::Error::other("the workspace is of version 0.1, and could change its files"));
        }
        let room = self.base.join(id.as_str());
        let folder = format!("{kind}-{name}");
        for entry in fs::read_dir(&room)? {
            let found = entry?.file_name();
            let text = found.to_string_lossy();
            let ours = text.starts_with(&format!("{kind}-")) || text.starts_with(UNFINISHED);
            if ours && text != folder {
                remove_tree(&room.join(&found))?;
            }
        }
        let target = room.join(&folder);
        if target.exists() {
            return Ok(());
        }
        let unfinished = room.join(format!("{UNFINISHED}{folder}"));
        make(&unfinished)?;
        for (path, content) in files {
            let mut parent = unfinished.clone();
            let parts: Vec<&str> = path.split('/').collect();
            for part in &parts[..parts.len() - 1] {
                parent.push(part);
                make(&parent)?;
            }
            let mode = if content.starts_with(b"#!") { OPEN } else { READABLE };
            let path = unfinished.join(path);
            File::options().write(true).create_new(true).mode(mode).open(&path)?.write_all(content)?;
            fs::set_permissions(&path, Permissions::from_mode(mode))?;
        }
        fs::rename(&unfinished, &target)
    }
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
        base.place(&id, "skills", "two", &[file("a", "2")]).expect("places");
        base.place(&id, "skills", "two", &[file("a", "3")]).expect("is there already");
        assert!(!at("skills-one").exists() && base.open(&id).is_ok());
        assert_eq!(fs::read_to_string(at("skills-two/a")).expect("reads"), "2");
        base.remove(&id).expect("removes");
        assert!(!at("").exists());
    }
}
