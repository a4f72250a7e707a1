//! A state directory on a small file system of its own, which can be filled.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;

use super::contained::on_path;
use super::deployment::Server;
use super::process::Program;
use crate::harness::failure::Failure;

/// Mounts in a mount namespace of its own and executes the server: the file system disappears when the server exits.
const MOUNT: &str = r#"mount -t tmpfs -o "size=$1,mode=0700" tmpfs "$STATE_DIR" && shift && exec "$@""#;
/// Name of the file that fills the disk.
const FILL: &str = "fill";

/// Checks that file systems can be mounted here.
///
/// # Errors
/// Why they cannot.
pub fn find() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("only root mounts file systems".to_owned());
    }
    on_path("unshare").map(drop).ok_or_else(|| "unshare is not on the search path".to_owned())
}

/// The same program with a state directory of so many MiB.
///
/// # Errors
/// File systems cannot be mounted here, or it has no `STATE_DIR`.
pub fn with_state_of(mib: u32, program: Program) -> Result<Program, Failure> {
    let unshare = on_path("unshare").ok_or_else(|| Failure::could_not_run("unshare is not on the search path"))?;
    let state = program.env.get("STATE_DIR").ok_or_else(|| Failure::harness("a program without a STATE_DIR"))?;
    std::fs::create_dir_all(state)?;
    let size = format!("{mib}m");
    let mut args: Vec<std::ffi::OsString> = ["--mount", "sh", "-c", MOUNT, "sh", &size].map(Into::into).to_vec();
    args.push(program.path.into());
    args.extend(program.args);
    Ok(Program { path: unshare, args, ..program })
}

impl Server {
    /// A file of its state directory, in its mount namespace.
    fn in_state(&self, name: &str) -> Result<PathBuf, Failure> {
        let state =
            self.program.env.get("STATE_DIR").ok_or_else(|| Failure::harness("a server without a STATE_DIR"))?;
        let root = format!("/proc/{}/root", self.pid());
        Ok(PathBuf::from(root).join(state.trim_start_matches('/')).join(name))
    }

    /// Fills its state directory to the last byte.
    ///
    /// # Errors
    /// If the directory is not on a separate file system, or more fits into it than expected.
    pub fn fill_state(&self) -> Result<(), Failure> {
        let mut file = File::create(self.in_state(FILL)?)?;
        // In ever smaller pieces, until not a single byte is left.
        for piece in [1 << 20, 1 << 12, 1] {
            let zeros = vec![0; piece];
            for _ in 0..4096 {
                match file.write_all(&zeros) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        match file.write_all(&[0]) {
            Err(error) if error.kind() == ErrorKind::StorageFull => Ok(()),
            other => Err(Failure::harness(format!("the state directory is not full: {other:?}"))),
        }
    }

    /// Frees the space again.
    ///
    /// # Errors
    /// [`Server::fill_state`] was not called before.
    pub fn empty_state(&self) -> Result<(), Failure> {
        Ok(std::fs::remove_file(self.in_state(FILL)?)?)
    }
}
