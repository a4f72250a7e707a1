//! Every tracked Rust file is formatted, also one that no `mod` line leads to: `cargo fmt` follows only those.

use std::path::{Path, PathBuf};
use std::process::Command;

fn unformatted(root: &Path, files: &[PathBuf]) -> String {
    let mut rustfmt = Command::new("rustfmt");
    let output = rustfmt.args(["--check", "--edition", "2024", "-l"]).args(files).current_dir(root).output();
    let output = output.unwrap_or_else(|error| panic!("rustfmt: {error}; rust-toolchain.toml names the component"));
    let mut names: Vec<&str> = std::str::from_utf8(&output.stdout).expect("UTF-8").lines().collect();
    names.sort_unstable();
    // A file is reported once by itself and once through each file that declares it.
    names.dedup();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() || !names.is_empty() || !errors.is_empty(), "rustfmt: {}", output.status);
    format!("{}{errors}", names.join("\n"))
}

#[test]
fn every_tracked_rust_file_is_formatted() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let listed = Command::new("git").args(["ls-files", "-z", "*.rs"]).current_dir(&root).output().expect("git");
    assert!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr));
    let listed = String::from_utf8(listed.stdout).expect("UTF-8");
    // A file may be tracked and deleted in the working tree.
    let files: Vec<PathBuf> =
        listed.split_terminator('\0').map(PathBuf::from).filter(|file| root.join(file).exists()).collect();
    assert!(files.len() > 300, "only {} files are tracked", files.len());
    let found = unformatted(&root, &files);
    assert!(found.is_empty(), "run `cargo fmt`, or rustfmt on:\n{found}");
}

#[test]
fn a_wrongly_formatted_file_is_found() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("good.rs"), "fn main() {}\n").expect("written");
    std::fs::write(dir.path().join("bad.rs"), "fn  main( ) { }\n").expect("written");
    let found = unformatted(dir.path(), &[PathBuf::from("good.rs"), PathBuf::from("bad.rs")]);
    assert!(found.ends_with("bad.rs") && !found.contains("good.rs"), "{found}");
}
