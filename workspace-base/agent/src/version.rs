//! Finds the agent CLI in the image, and its version.

use std::path::{Path, PathBuf};

/// Environment variable that names a program to run instead of `claude`.
const PROGRAM_VARIABLE: &str = "NAGAYA_CLI";
/// File into which the image's build writes the output of `claude --version`. Running the CLI would delay a room's start.
const VERSION_FILE: &str = "/usr/local/share/nagaya/cli-version";

/// The agent CLI that executions run.
#[derive(Debug, Clone)]
pub(crate) struct Cli {
    /// Name or path of the program.
    pub(crate) program: PathBuf,
    /// Its version, recorded when the image was built; `None` if there is no CLI or another program is configured.
    pub(crate) version: Option<String>,
}

impl Cli {
    /// Looks for the CLI in `PATH`, unless `NAGAYA_CLI` names another program.
    pub(crate) fn find() -> Self {
        if let Some(other) = std::env::var_os(PROGRAM_VARIABLE) {
            // The version file describes `claude` only.
            return Self { program: other.into(), version: None };
        }
        let program = PathBuf::from("claude");
        let version = on_path(&program).then(|| std::fs::read_to_string(VERSION_FILE).ok()).flatten();
        Self { program, version: version.map(|text| text.trim().to_owned()) }
    }
}

fn on_path(program: &Path) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}
