//! Servers with defects in the directories of their workspaces' sockets.

use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::mutant::{Mutant, red};
use crate::target::defects::Defect;
use crate::target::memory::Memory;

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        id: "links-are-followed",
        title: "The server connects to whatever a workspace's agent.sock links to",
        defects: &[Defect::Beside(follow)],
        red: &[red("SOCK-001", "followed a link out of a workspace")],
    },
    Mutant {
        id: "way-out-not-restored",
        title: "A proxy socket that a workspace has removed is not restored",
        defects: &[Defect::Beside(remove_restored)],
        // It may exist for a moment after it has been restored, too short for a request.
        red: &[red("SOCK-002", "after nothing")],
    },
    Mutant {
        id: "directories-of-root",
        title: "The socket directories belong to root, whatever user workspaces run as",
        defects: &[Defect::Beside(|base, _| {
            for room in rooms(base) {
                // It may disappear at any time.
                let _ = std::os::unix::fs::chown(&room, Some(0), Some(0));
            }
        })],
        red: &[red("DEP-004", "status in done")],
    },
    Mutant {
        id: "socket-left",
        title: "A socket file remains when its workspace is released",
        defects: &[Defect::Beside(leave)],
        red: &[red("BUG-12-CRASH", "nothing in"), red("BUG-12-SHUTDOWN", "nothing in")],
    },
];

fn rooms(base: &Path) -> impl Iterator<Item = std::path::PathBuf> {
    std::fs::read_dir(base).into_iter().flatten().flatten().map(|entry| entry.path()).filter(|path| path.is_dir())
}

fn follow(base: &Path, memory: &Memory) {
    for room in rooms(base) {
        let path = room.join("agent.sock");
        let is_link = std::fs::symlink_metadata(&path).is_ok_and(|found| found.is_symlink());
        if is_link && memory.get(&path.display().to_string()).is_none() && UnixStream::connect(&path).is_ok() {
            memory.set(&path.display().to_string(), "followed");
        }
    }
}

/// Keeps the first proxy socket of a workspace, and removes each later one.
fn remove_restored(base: &Path, memory: &Memory) {
    for room in rooms(base) {
        let path = room.join("proxy.sock");
        let Ok(found) = std::fs::symlink_metadata(&path) else { continue };
        // The next socket may reuse the inode number of the removed one, but not its creation time.
        let which = format!("{} {} {}", found.ino(), found.mtime(), found.mtime_nsec());
        if memory.first(&room.display().to_string(), &which) != which {
            let _ = std::fs::remove_file(&path);
        }
    }
}

/// Recreates a socket file of each workspace that existed.
fn leave(base: &Path, memory: &Memory) {
    if rooms(base).next().is_some()
        && memory.get("left").is_none()
        && std::fs::write(base.join("left.sock"), "").is_ok()
    {
        memory.set("left", "");
    }
}
