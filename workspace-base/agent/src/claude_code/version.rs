//! Finds the agent CLI in the image, and its version.

use std::path::PathBuf;

/// The CLI in the image. Its whole path, because a run can put programs of its own into a directory of `PATH`.
const PROGRAM: &str = "/usr/local/bin/claude";
/// Environment variable that names a program to run instead.
const PROGRAM_VARIABLE: &str = "NAGAYA_CLI";
/// File into which the image's build writes the output of `claude --version`. Running the CLI would delay a room's start.
const VERSION_FILE: &str = "/usr/local/share/nagaya/cli-version";

/// The agent CLI that executions run.
#[derive(Debug, Clone)]
pub(crate) struct Cli {
    /// Path of the program.
    pub(crate) program: PathBuf,
    /// Its version, recorded when the image was built; `None` if there is no CLI or another program is configured.
    pub(crate) version: Option<String>,
}

impl Cli {
    /// The image's CLI, unless `NAGAYA_CLI` names another program.
    pub(crate) fn find() -> Self {
        if let Some(other) = std::env::var_os(PROGRAM_VARIABLE) {
            // The version file describes `claude` only.
            return Self { program: other.into(), version: None };
        }
        let program = PathBuf::from(PROGRAM);
        let version = program.is_file().then(|| std::fs::read_to_string(VERSION_FILE).ok()).flatten();
        Self { program, version: version.map(|text| text.trim().to_owned()) }
    }
}
