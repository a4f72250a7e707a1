//! Which CLI is in the image.

use std::path::{Path, PathBuf};

/// Names another program than `claude`.
const PROGRAM_VARIABLE: &str = "NAGAYA_CLI";
/// Where the image's build left what the CLI says of itself; asking takes longer than a room may take to start.
const VERSION_FILE: &str = "/usr/local/share/nagaya/cli-version";

/// The CLI.
#[derive(Debug, Clone)]
pub(crate) struct Cli {
    /// Name or path of its program.
    pub(crate) program: PathBuf,
    /// What it said of its version when the image was built; `None` where there is no CLI.
    pub(crate) version: Option<String>,
}

impl Cli {
    /// Looks for the CLI.
    pub(crate) fn find() -> Self {
        if let Some(other) = std::env::var_os(PROGRAM_VARIABLE) {
            // The file does not speak of this one.
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
