//! Looks at what rooms put into the directories that they share with the server: two sockets, and nothing else that is worth
//! keeping. A room that fills its directory fills the host's disk, and so everybody's.
//!
//! What has been unlinked is not seen here; it is bounded where the directories are on a tmpfs, whose pages count as the memory of the
//! room that wrote them (cgroups(7)).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};

use crate::directory::RoomDir;
use crate::reason::ReleaseReason;
use crate::rooms::Entry;
use crate::workspaces::Workspaces;

/// Between two looks at all directories.
const LOOK: Duration = Duration::from_secs(1);
/// Entries a directory may have, with all below it.
const MOST_ENTRIES: usize = 64;
/// Bytes on disk they may have together.
const MOST_BYTES: u64 = 1 << 20;
/// Folders in folders.
const DEEPEST: usize = 4;

/// What may still be put in.
struct Left {
    entries: usize,
    bytes: u64,
}

impl Workspaces {
    /// Looks, until the server stops.
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
                        tracing::warn!(%workspace, why, "a hostile room is taken down");
                        self.release_in_background(entry.room.id.clone(), ReleaseReason::Hostile);
                    }
                }
                Err(error) => tracing::error!(%error, "rooms' directories were not looked at"),
            }
        }
    }
}

fn fills(entry: &Entry) -> bool {
    let Some(dir) = &entry.room.dir else { return false };
    match is_overfull(dir) {
        Ok(overfull) => overfull,
        Err(error) => {
            // It goes away at this moment, most likely; else the next look says the same.
            tracing::debug!(workspace = %entry.room.id, %error, "a room's directory was not looked at");
            false
        }
    }
}

fn is_overfull(dir: &RoomDir) -> io::Result<bool> {
    let mut left = Left { entries: MOST_ENTRIES, bytes: MOST_BYTES };
    Ok(!fits(&dir.descriptor()?, DEEPEST, &mut left)?)
}

/// Whether all of a directory fits into what is left. Follows no link.
fn fits(dir: &OwnedFd, deeper: usize, left: &mut Left) -> io::Result<bool> {
    // A descriptor of its own: the place in the list belongs to the descriptor.
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
    fn two_sockets_fit_and_a_filling_does_not_wherever_it_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path();
        for name in ["agent.sock", "proxy.sock"] {
            std::os::unix::net::UnixListener::bind(path.join(name)).expect("bound");
        }
        assert!(!overfull(path));
        fs::create_dir(path.join("a")).expect("made");
        fs::write(path.join("a/small"), "x").expect("written");
        // What a link leads to is not in here.
        std::os::unix::fs::symlink("/usr", path.join("link")).expect("linked");
        assert!(!overfull(path));
        fs::write(path.join("a/large"), vec![b'x'; 2 << 20]).expect("written");
        assert!(overfull(path));
        fs::remove_dir_all(path.join("a")).expect("removed");
        fs::create_dir_all(path.join("1/2/3/4/5")).expect("made");
        assert!(overfull(path), "deeper than is looked");
        fs::remove_dir_all(path.join("1")).expect("removed");
        for number in 0..MOST_ENTRIES {
            fs::write(path.join(number.to_string()), "").expect("written");
        }
        assert!(overfull(path), "many");
    }
}
