//! Checks the socket directories that rooms share with the server. A room needs two sockets there and nothing else; one that fills
//! its directory fills the host's disk, and is released as hostile.
//!
//! Files that were unlinked but are still open are not seen here. Where the directories are on a tmpfs, its pages are charged to the
//! room that wrote them (cgroups(7)), which bounds such files.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};

use crate::directory::RoomDir;
use crate::reason::ReleaseReason;
use crate::rooms::Entry;
use crate::workspaces::Workspaces;

/// Interval between two checks of all directories.
const LOOK: Duration = Duration::from_secs(1);
/// How many entries a directory may hold, including subdirectories.
const MOST_ENTRIES: usize = 64;
/// How many bytes a directory's entries may occupy on disk together.
const MOST_BYTES: u64 = 1 << 20;
/// How deep directories may be nested.
const DEEPEST: usize = 4;

/// What remains of the limits while a directory is counted.
struct Left {
    entries: usize,
    bytes: u64,
}

impl Workspaces {
    /// Checks the directories of all rooms once per [`LOOK`] until the server stops.
    pub(crate) async fn watch_directories(self: &Arc<Self>) {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while self.stop.run_until_cancelled(look.tick()).await.is_some() {
            let rooms = self.rooms.all();
            let looked = tokio::task::spawn_blocking(move || rooms.into_iter().filter(fills).collect::<Vec<Entry>>());
            match looked.await {
                Ok(hostile) => {
                    for entry in hostile.into_iter().filter(|entry| self.rooms.is_live(&entry.room.id)) {
                        let (workspace, why) = (&entry.room.id, ReleaseReason::Hostile.explanation());
                        tracing::warn!(%workspace, why, "releasing a hostile workspace");
                        self.release_in_background(entry.room.id.clone(), ReleaseReason::Hostile);
                    }
                }
                Err(error) => tracing::error!(%error, "cannot check the workspaces' socket directories"),
            }
        }
    }
}

fn fills(entry: &Entry) -> bool {
    let Some(dir) = &entry.room.dir else { return false };
    match is_overfull(dir) {
        Ok(overfull) => overfull,
        Err(error) => {
            // Most likely the room is being released at this moment; otherwise the next check fails as well.
            tracing::debug!(workspace = %entry.room.id, %error, "cannot check a workspace's socket directory");
            false
        }
    }
}

fn is_overfull(dir: &RoomDir) -> io::Result<bool> {
    let mut left = Left { entries: MOST_ENTRIES, bytes: MOST_BYTES };
    Ok(!fits(&dir.descriptor()?, DEEPEST, &mut left)?)
}

/// Whether a directory and all below it fit into what is left of the limits. Follows no link.
fn fits(dir: &OwnedFd, deeper: usize, left: &mut Left) -> io::Result<bool> {
    // `read_from` opens a new descriptor, because the read position belongs to the descriptor.
    for entry in Dir::read_from(dir.as_fd())? {
        let entry = entry?;
        let name = entry.file_name();
        if [c".", c".."].contains(&name) {
            continue;
        }
        let Some(fewer) = left.entries.checked_sub(1) else { return Ok(false) };
        left.entries = fewer;
        let Ok(stat) = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        // In blocks of 512 bytes (stat(2)).
        let bytes = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
        let Some(fewer) = left.bytes.checked_sub(bytes) else { return Ok(false) };
        left.bytes = fewer;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let Some(deeper) = deeper.checked_sub(1) else { return Ok(false) };
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
            if let Ok(below) = rustix::fs::openat(dir, name, flags, Mode::empty())
                && !fits(&below, deeper, left)?
            {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn overfull(path: &Path) -> bool {
        let dir = fs::File::open(path).expect("opened");
        let mut left = Left { entries: MOST_ENTRIES, bytes: MOST_BYTES };
        !fits(&OwnedFd::from(dir), DEEPEST, &mut left).expect("looked at")
    }

    #[test]
    fn two_sockets_fit_and_too_much_data_does_not_at_any_depth() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path();
        for name in ["agent.sock", "proxy.sock"] {
            std::os::unix::net::UnixListener::bind(path.join(name)).expect("bound");
        }
        assert!(!overfull(path));
        fs::create_dir(path.join("a")).expect("made");
        fs::write(path.join("a/small"), "x").expect("written");
        // The target of a link does not count.
        std::os::unix::fs::symlink("/usr", path.join("link")).expect("linked");
        assert!(!overfull(path));
        fs::write(path.join("a/large"), vec![b'x'; 2 << 20]).expect("written");
        assert!(overfull(path));
        fs::remove_dir_all(path.join("a")).expect("removed");
        fs::create_dir_all(path.join("1/2/3/4/5")).expect("made");
        assert!(overfull(path), "nested too deep");
        fs::remove_dir_all(path.join("1")).expect("removed");
        for number in 0..MOST_ENTRIES {
            fs::write(path.join(number.to_string()), "").expect("written");
        }
        assert!(overfull(path), "too many entries");
    }
}
