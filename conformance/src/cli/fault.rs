//! Why a command could not be carried out, and the output of those that could.

use std::fmt;

use nagaya_conformance::harness::outcome::Exit;

/// Why a command could not be carried out.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The command line is invalid.
    Usage(String),
    /// The filter or the profile selects nothing.
    NothingSelected(String),
    /// The target cannot be reached, or something the run needs could not be set up.
    Setup(String),
    /// The suite itself failed.
    Internal(String),
}

impl Fault {
    /// The exit status for this fault.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => Exit::Usage,
            Self::NothingSelected(_) => Exit::NothingSelected,
            Self::Setup(_) => Exit::Setup,
            Self::Internal(_) => Exit::Internal,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) | Self::NothingSelected(text) | Self::Setup(text) | Self::Internal(text) => {
                f.write_str(text)
            }
        }
    }
}

/// Prints to standard output. A reader that closed the pipe early (`| head`) is not an error.
pub(super) fn print(text: &str) -> Result<Exit, Fault> {
    use std::io::Write as _;
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Fault::Internal(format!("output: {error}")))
        }
        _ => Ok(Exit::Conformant),
    }
}
