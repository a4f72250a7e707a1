//! Removes directories that a hostile workspace may have filled.

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

/// Removes a directory with everything in it; a missing one is no error. It runs `rm`, because the standard library descends by
/// recursion and a workspace can nest directories deeper than the stack allows.
///
/// # Errors
/// Something in it cannot be removed.
pub async fn remove(dir: &Path) -> std::io::Result<()> {
    let output =
        Command::new("rm").args(["-rf", "--"]).arg(dir).stdin(Stdio::null()).kill_on_drop(true).output().await?;
    if output.status.success() {
        return Ok(());
    }
    Err(std::io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use rustix::fs::{Mode, OFlags};

    use super::*;

    #[tokio::test]
    async fn a_deep_directory_is_removed_and_a_missing_one_is_no_error() {
        let base = tempfile::tempdir().expect("a directory");
        let deep = base.path().join("deep");
        std::fs::create_dir(&deep).expect("made");
        let mut here = rustix::fs::open(&deep, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).expect("opened");
        for _ in 0..2_000 {
            rustix::fs::mkdirat(&here, "d", Mode::RWXU).expect("made");
            here = rustix::fs::openat(&here, "d", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).expect("opened");
        }
        remove(&deep).await.expect("removed");
        assert!(!deep.exists());
        remove(&deep).await.expect("nothing to do");
    }
}
