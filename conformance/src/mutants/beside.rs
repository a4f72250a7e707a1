//! Servers that treat the directories of their rooms' sockets wrongly.

use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::{Defect, Mutant, red};
use crate::target::memory::Memory;

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        id: "links-are-followed",
        title: "the server connects to whatever a room's agent.sock leads to",
        defects: &[Defect::Beside(follow)],
        red: &[red("SOCK-001", "followed a link out of a room")],
    },
    Mutant {
        id: "way-out-not-restored",
        title: "a way out that a room has removed stays away",
        defects: &[Defect::Beside(remove_restored)],
        // It may be there for a moment, whenever it has just been restored; nothing gets through in that time.
        red: &[red("SOCK-002", "after nothing")],
    },
    Mutant {
        id: "directories-of-root",
        title: "the directories of sockets are root's, whoever rooms run as",
        defects: &[Defect::Beside(|base, _| {
            for room in rooms(base) {
                // It may go at any time.
                let _ = std::os::unix::fs::chown(&room, Some(0), Some(0));
            }
        })],
        red: &[red("DEP-004", "status in done")],
    },
    Mutant {
        id: "socket-left",
        title: "a socket's file stays when its room has gone",
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

/// The first way out of a room is left alone; each later one goes.
fn remove_restored(base: &Path, memory: &Memory) {
    for room in rooms(base) {
        let path = room.join("proxy.sock");
        let Ok(found) = std::fs::symlink_metadata(&path) else { continue };
        // The next one may get the number of the one that was removed; its time is its own.
        let which = format!("{} {} {}", found.ino(), found.mtime(), found.mtime_nsec());
        if memory.first(&room.display().to_string(), &which) != which {
            let _ = std::fs::remove_file(&path);
        }
    }
}

/// Once a room has been there, something of it is.
fn leave(base: &Path, memory: &Memory) {
    if rooms(base).next().is_some()
        && memory.get("left").is_none()
        && std::fs::write(base.join("left.sock"), "").is_ok()
    {
        memory.set("left", "");
    }
}
