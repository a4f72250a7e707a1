//! Schemathesis, a program that makes requests out of an API's description and compares the answers with it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::process::Program;
use crate::harness::environment;
use crate::harness::failure::Failure;

/// The path of the program: by the variable, else on the search path.
///
/// # Errors
/// It is not installed.
pub fn find() -> Result<PathBuf, String> {
    if let Some(named) = environment::named(environment::SCHEMATHESIS).map(PathBuf::from) {
        return match named.is_file() {
            true => Ok(named),
            false => Err(format!("{}={} is not a file", environment::SCHEMATHESIS, named.display())),
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).map(|dir| dir.join("schemathesis"));
    places.find(|path| path.is_file()).ok_or_else(|| {
        let variable = environment::SCHEMATHESIS;
        format!("schemathesis is not on the search path; install it with pip, or name it in {variable}")
    })
}

/// The result of a run of Schemathesis.
#[derive(Debug)]
pub struct Outcome {
    /// Whether it found no error.
    pub passed: bool,
    /// Its output.
    pub report: String,
}

/// Tests the API described at `url`, with the configuration in the folder `dir`.
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
        // Sufficient, because every bound of every field is tried in addition.
        "--max-examples=5".to_owned(),
        "--generation-database=none".to_owned(),
        "--request-timeout=30".to_owned(),
    ];
    let mut program = Program::new(&program, args);
    program.env.insert("HOME".to_owned(), dir.display().to_string());
    program.env.insert("PATH".to_owned(), std::env::var("PATH").unwrap_or_default());
    program.env.insert("PYTHONDONTWRITEBYTECODE".to_owned(), "1".to_owned());
    // It leaves a cache in its working directory.
    program.dir = Some(dir.to_owned());
    let output = program.output(run, limit).await?;
    let report = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(0) => Ok(Outcome { passed: true, report }),
        Some(1) => Ok(Outcome { passed: false, report }),
        other => Err(Failure::harness(format!("schemathesis ended with {other:?}: {report}"))),
    }
}
