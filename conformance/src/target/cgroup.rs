//! Control groups of the suite's own engines: an engine that is killed leaves those of its containers behind.

use std::io;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Where the kernel mounts them: one tree, or one for each controller (cgroups(7)).
const ROOT: &str = "/sys/fs/cgroup";

/// Removes a group and its children in every tree; a missing one is no error. Returns the number of trees that had it.
///
/// # Errors
/// A process is still in one of the groups.
pub fn remove(name: &str) -> io::Result<usize> {
    let trees = std::fs::read_dir(ROOT)?.collect::<io::Result<Vec<_>>>()?;
    let places = trees.into_iter().map(|tree| tree.path()).chain([PathBuf::from(ROOT)]).map(|tree| tree.join(name));
    let found: Vec<PathBuf> = places.filter(|group| group.is_dir()).collect();
    found.iter().try_for_each(|group| remove_below(group))?;
    Ok(found.len())
}

/// The kernel removes a group's files with its directory, so only directories are removed here.
fn remove_below(group: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_below(&entry.path())?;
        }
    }
    match std::fs::remove_dir(group) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removing_a_missing_cgroup_succeeds() {
        assert_eq!(remove("nagaya-conformance-that-nobody-made").expect("nothing to do"), 0);
    }
}
