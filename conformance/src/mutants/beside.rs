//! Servers with defects in the directories of their workspaces' sockets.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::mutant::{Mutant, red};
use crate::target::defects::Defect;
use crate::target::memory::Memory;

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        id: "sockets-writable",
        title: "Workspaces may write to the directory of their sockets",
        defects: &[super::engine::SOCKETS_WRITABLE, Defect::Beside(open_up)],
        red: &[
            red("BUG-06", "whether the mount is writable"),
            red("SOCK-001", "was not refused"),
            red("SOCK-002", "was not refused"),
            red("SOCK-003", "was not refused"),
        ],
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

/// Lets every user write to the workspaces' directories.
fn open_up(base: &Path, _: &Memory) {
    for room in rooms(base) {
        // It may disappear at any time.
        let _ = std::fs::set_permissions(&room, std::fs::Permissions::from_mode(0o777));
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
