//! `badge`

use std::path::PathBuf;

use nagaya_conformance::harness::outcome::Exit;
use nagaya_conformance::report::badge::document;

use super::compare::read;
use super::fault::{Fault, print};

#[derive(Debug, clap::Args)]
pub(super) struct Badge {
    /// A report.json.
    report: PathBuf,
    /// Writes the SVG document to this file; by default to standard output.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Badge {
    pub(super) fn execute(self) -> Result<Exit, Fault> {
        let badge = document(&read(&self.report)?);
        let Some(path) = self.output else { return print(&format!("{badge}\n")) };
        std::fs::write(&path, badge).map_err(|error| Fault::Internal(format!("{}: {error}", path.display())))?;
        Ok(Exit::Conformant)
    }
}
