//! Finds the programs that the suite starts.

use std::path::PathBuf;

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
