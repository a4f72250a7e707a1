//! Habits that no test of behaviour shows: nobody sleeps, and nothing of the server is linked.

use std::path::{Path, PathBuf};

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
        let path = entry.path();
        if path.is_dir() { sources(&path, found) } else { found.push(path) }
    }
}

/// Conditions are polled with a deadline; only the poll itself pauses.
#[test]
fn nobody_sleeps() {
    let (root, mut files) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), Vec::new());
    sources(&root, &mut files);
    assert!(files.len() > 90, "only {} files were looked at", files.len());
    let mut sleepers = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        if ["time::sleep", "thread::sleep"].iter().any(|call| text.contains(call)) {
            sleepers.push(path.strip_prefix(&root).expect("below").display().to_string());
        }
    }
    sleepers.sort();
    assert_eq!(sleepers, ["poll.rs"]);
}

#[test]
fn nothing_of_the_server_is_linked() {
    let manifest = include_str!("../../Cargo.toml");
    let (_, dependencies) = manifest.split_once("[dependencies]").expect("dependencies");
    assert!(dependencies.contains("bollard"), "these are not the dependencies: {dependencies}");
    assert!(!dependencies.contains("nagaya"), "a crate of this project is among the dependencies");
}
