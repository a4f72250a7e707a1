//! Finds the programs that the suite starts.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::sync::OnceLock;

use rustix::fs::{MemfdFlags, memfd_create};

use super::contained::on_path;
use crate::description::Description;
use crate::harness::environment;

/// The program beside this executable, or in the folder above it: a test's executable is in `target/debug/deps`, the program in
/// `target/debug`.
#[must_use]
pub fn beside(program: &str) -> Option<PathBuf> {
    let here = std::env::current_exe().ok()?;
    here.ancestors().skip(1).take(2).map(|dir| dir.join(program)).find(|path| path.is_file())
}

/// Finds a program: by an environment variable, else [`beside`] this executable.
///
/// # Errors
/// Where the program was looked for, and how to name it.
pub fn find(program: &str, variable: &str) -> Result<PathBuf, String> {
    if let Some(named) = environment::named(variable) {
        let named = PathBuf::from(named);
        return if named.is_file() { Ok(named) } else { Err(format!("{variable}={} is not a file", named.display())) };
    }
    let here = || std::env::current_exe().map_or_else(|error| error.to_string(), |path| path.display().to_string());
    beside(program).ok_or_else(|| format!("no {program} beside {}; build it, or name it in {variable}", here()))
}

/// The name of the program with the scripted model and the other peers.
const FIXTURES: &str = "nagaya-fixtures";
/// That program, in a release of the suite, which is a single file. Empty in other builds (build.rs).
static INSIDE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/fixtures"));

/// Finds the fixtures' program: by its environment variable, beside this executable, or inside it.
///
/// # Errors
/// Where it was looked for, and how to name it.
pub fn fixtures() -> Result<PathBuf, String> {
    static IN_MEMORY: OnceLock<Result<(File, PathBuf), String>> = OnceLock::new();
    if INSIDE.is_empty() || environment::named(environment::FIXTURES).is_some() || beside(FIXTURES).is_some() {
        return find(FIXTURES, environment::FIXTURES);
    }
    let made = IN_MEMORY
        .get_or_init(|| in_memory(INSIDE).map_err(|error| format!("the fixtures inside the suite's program: {error}")));
    made.as_ref().map(|(_, path)| path.clone()).map_err(Clone::clone)
}

/// A program as a file in memory, and the path that any process of this user can start it by while the file is open (proc(5),
/// `/proc/<pid>/fd`). Nothing has to be removed, and a file system without programs (`noexec`) is no obstacle.
fn in_memory(program: &[u8]) -> std::io::Result<(File, PathBuf)> {
    let path = |file: &File| PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()));
    let mut file = File::from(memfd_create(FIXTURES, MemfdFlags::CLOEXEC)?);
    file.write_all(program)?;
    // Linux starts no program that is open for writing (execve(2), ETXTBSY).
    let readable = File::open(path(&file))?;
    let path = path(&readable);
    Ok((readable, path))
}

/// Finds the server's program: as the target file says; without one, by its environment variable or beside this executable.
///
/// # Errors
/// Where it was looked for, and how to name it.
pub fn server(description: &Description) -> Result<PathBuf, String> {
    let Some(program) = &description.launch.program else {
        return Err("the target file has no launch.program: add it, or give --target".to_owned());
    };
    let named = program.to_string_lossy();
    // A file on the command line says more about this run than a variable.
    if description.file.is_some() {
        if named.contains('/') {
            return if program.is_file() {
                Ok(program.clone())
            } else {
                Err(format!("launch.program: {named} is not a file"))
            };
        }
        let found = beside(&named).or_else(|| on_path(&named));
        return found
            .ok_or_else(|| format!("launch.program: {named} is neither beside the suite nor on the search path"));
    }
    find(&named, environment::SERVER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_in_memory_can_be_started_again_and_again() {
        let (_file, path) = in_memory(b"#!/bin/sh\necho \"started with $1\"\n").expect("memory");
        for argument in ["a", "b"] {
            let output = std::process::Command::new(&path).arg(argument).output().expect("started");
            assert_eq!(String::from_utf8_lossy(&output.stdout), format!("started with {argument}\n"));
        }
    }
}
