//! Finds the programs that the suite starts.

use std::path::PathBuf;

/// Finds a program: by the variable `name_it`, else beside this executable or in a folder above it (a test's executable is in
/// `target/debug/deps`, the program in `target/debug`).
///
/// # Errors
/// Where the program was looked for, and how to name it.
pub fn find(program: &str, name_it: &str) -> Result<PathBuf, String> {
    if let Some(named) = std::env::var_os(name_it).filter(|named| !named.is_empty()) {
        let named = PathBuf::from(named);
        return if named.is_file() { Ok(named) } else { Err(format!("{name_it}={} is not a file", named.display())) };
    }
    let here = std::env::current_exe().map_err(|error| format!("own executable: {error}"))?;
    here.ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join(program))
        .find(|path| path.is_file())
        .ok_or_else(|| format!("no {program} beside {}; build it, or name it in {name_it}", here.display()))
}
