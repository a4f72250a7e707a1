//! `compare`

use std::path::{Path, PathBuf};

use nagaya_conformance::harness::outcome::Exit;
use nagaya_conformance::report::compare::{Comparison, Summary};

use super::fault::{Fault, print};

#[derive(Debug, clap::Args)]
pub(super) struct Compare {
    /// The earlier report.json.
    before: PathBuf,
    /// The later report.json.
    now: PathBuf,
}

impl Compare {
    pub(super) fn execute(self) -> Result<Exit, Fault> {
        let (before, now) = (read(&self.before)?, read(&self.now)?);
        let comparison = Comparison::of(&before, &now);
        print(&comparison.text())?;
        Ok(if comparison.is_worse() { Exit::NonConformant } else { Exit::Conformant })
    }
}

/// Reads a report.json.
pub(super) fn read(path: &Path) -> Result<Summary, Fault> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string());
    text.and_then(|text| Summary::read(&text)).map_err(|why| Fault::Usage(format!("{}: {why}", path.display())))
}
