//! Repairs what a run may have done to its own directories, so that the next one can begin.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Permissions that a directory's owner needs to work in it.
const OWNER: u32 = 0o700;
/// Length in bytes beyond which settings of the CLI are junk.
const LONGEST_SETTINGS: u64 = 16 << 20;

/// Makes the working directory and the home directory usable, and removes settings of the CLI that it could not read. What cannot be
/// repaired is logged; the CLI then says what it misses.
pub(crate) fn before_an_execution(cwd: &Path) {
    open(cwd);
    let Some(home) = std::env::var_os("HOME").map(PathBuf::from) else { return };
    open(&home);
    open(&home.join(".claude"));
    open(&home.join(".claude/projects"));
    let settings = home.join(".claude.json");
    if is_junk(&settings) {
        note(&settings, "removed, because the CLI could not read it", remove(&settings));
    }
    let directory = home.join(".claude");
    if fs::symlink_metadata(&directory).is_ok_and(|found| !found.is_dir()) {
        note(&directory, "removed, because it is not a directory", remove(&directory));
    }
}

/// Gives the owner of a directory, which is this process's user, access to it.
pub(crate) fn open(directory: &Path) {
    // Not of the target of a link.
    let Ok(found) = fs::symlink_metadata(directory) else { return };
    let mode = found.permissions().mode();
    if found.is_dir() && mode & OWNER != OWNER {
        note(directory, "made accessible", fs::set_permissions(directory, fs::Permissions::from_mode(mode | OWNER)));
    }
}

/// Whether the file exists and is not a JSON object. A link, a FIFO or a huge file is junk unread: reading one of them could take for
/// ever, or all memory.
fn is_junk(path: &Path) -> bool {
    let Ok(found) = fs::symlink_metadata(path) else { return false };
    if !found.is_file() || found.len() > LONGEST_SETTINGS {
        return true;
    }
    let read = fs::read(path).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
    !read.is_some_and(|value| value.is_object())
}

fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

fn note(path: &Path, what: &str, done: io::Result<()>) {
    match done {
        Ok(()) => tracing::warn!(path = %path.display(), "{what}"),
        Err(error) => tracing::error!(path = %path.display(), %error, "not {what}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_be_read_to_an_end_are_junk_unread() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join(".claude.json");
        let kinds: [&dyn Fn(); 3] = [
            &|| {
                let (fifo, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
                rustix::fs::mknodat(rustix::fs::CWD, &file, fifo, mode, 0).expect("makes");
            },
            &|| std::os::unix::fs::symlink("/dev/zero", &file).expect("links"),
            &|| fs::File::create(&file).expect("makes").set_len(LONGEST_SETTINGS + 1).expect("grows"),
        ];
        for make in kinds {
            make();
            assert!(is_junk(&file));
            remove(&file).expect("removes");
        }
    }

    #[test]
    fn settings_that_are_no_object_are_junk() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join(".claude.json");
        assert!(!is_junk(&file), "there is none");
        for (text, junk) in [("{}", false), ("{\"a\": 1}", false), ("junk{{", true), ("", true), ("[]", true)] {
            fs::write(&file, text).expect("writes");
            assert_eq!(is_junk(&file), junk, "{text:?}");
        }
        fs::remove_file(&file).expect("removes");
        fs::create_dir(&file).expect("makes");
        assert!(is_junk(&file));
        remove(&file).expect("removes");
        let mut longest = b"{}".to_vec();
        longest.resize(usize::try_from(LONGEST_SETTINGS).expect("fits"), b' ');
        fs::write(&file, &longest).expect("writes");
        assert!(!is_junk(&file), "as long as may be");
        longest.push(b' ');
        fs::write(&file, &longest).expect("writes");
        assert!(is_junk(&file), "a byte longer");
    }

    #[test]
    fn a_directory_without_permissions_is_opened() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o0)).expect("closes");
        open(dir.path());
        let mode = |path: &Path| fs::metadata(path).expect("exists").permissions().mode() & 0o777;
        assert_eq!(mode(dir.path()), 0o700);
        // Nothing else is given or taken, no file is made a program, and no link is followed.
        let (file, link, inner) = (dir.path().join("file"), dir.path().join("link"), dir.path().join("inner"));
        fs::write(&file, "x").expect("writes");
        fs::create_dir(&inner).expect("makes");
        std::os::unix::fs::symlink(&inner, &link).expect("links");
        for (before, after) in [(0o055, 0o755), (0o777, 0o777), (0o600, 0o700), (0o500, 0o700)] {
            fs::set_permissions(&inner, fs::Permissions::from_mode(before)).expect("sets");
            open(&link);
            assert_eq!(mode(&inner), before, "a link is not followed");
            open(&inner);
            assert_eq!(mode(&inner), after, "{before:o}");
        }
        fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).expect("sets");
        open(&file);
        assert_eq!(mode(&file), 0o400);
    }
}
