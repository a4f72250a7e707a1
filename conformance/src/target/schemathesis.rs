//! Schemathesis, a program that makes requests out of an API's description and compares the answers with it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::process::Program;
use crate::failure::Failure;

/// Names the program.
pub const SCHEMATHESIS_VARIABLE: &str = "SCHEMATHESIS_BIN";

/// Where the program is: the variable, else the search path.
///
/// # Errors
/// It is not there.
pub fn find() -> Result<PathBuf, String> {
    if let Some(named) = std::env::var_os(SCHEMATHESIS_VARIABLE).filter(|named| !named.is_empty()) {
        let named = PathBuf::from(named);
        return match named.is_file() {
            true => Ok(named),
            false => Err(format!("{SCHEMATHESIS_VARIABLE}={} is not a file", named.display())),
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).map(|dir| dir.join("schemathesis"));
    places.find(|path| path.is_file()).ok_or_else(|| {
        format!("schemathesis is not on the search path; install it with pip, or name it in {SCHEMATHESIS_VARIABLE}")
    })
}

/// What one run of it came to.
#[derive(Debug)]
pub struct Outcome {
    /// Whether nothing was found.
    pub passed: bool,
    /// What it printed.
    pub report: String,
}

/// Lets it test the API described at `url`, with its configuration in the folder `dir`.
///
/// # Errors
/// It cannot be started, or does not end within `limit`.
pub async fn run(run: &str, dir: &Path, url: &str, seed: u64, limit: Duration) -> Result<Outcome, Failure> {
    let program = find().map_err(Failure::harness)?;
    let config = dir.join("schemathesis.toml");
    let args = [
        format!("--config-file={}", config.display()),
        "--no-color".to_owned(),
        "run".to_owned(),
        format!("{url}/openapi.json"),
        format!("--seed={seed}"),
        // Enough for every bound of every field: those are tried one by one, whatever this number is.
        "--max-examples=5".to_owned(),
        "--generation-database=none".to_owned(),
        "--request-timeout=30".to_owned(),
    ];
    let mut program = Program::new(&program, args);
    program.env.insert("HOME".to_owned(), dir.display().to_string());
    program.env.insert("PATH".to_owned(), std::env::var("PATH").unwrap_or_default());
    program.env.insert("PYTHONDONTWRITEBYTECODE".to_owned(), "1".to_owned());
    // It leaves a cache where it is started.
    program.dir = Some(dir.to_owned());
    let output = program.output(run, limit).await?;
    let report = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(0) => Ok(Outcome { passed: true, report }),
        Some(1) => Ok(Outcome { passed: false, report }),
        other => Err(Failure::harness(format!("schemathesis ended with {other:?}: {report}"))),
    }
}
