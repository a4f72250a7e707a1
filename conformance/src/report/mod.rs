//! What a run says in the end: one model, several forms.

mod escape;
pub mod html;
pub mod json;
pub mod junit;
pub mod terminal;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::outcome::{Outcome, Verdict};
use crate::run::Run;
use crate::runner::Report;

/// A whole run, ready to be told.
#[derive(Debug)]
pub struct RunReport<'r> {
    /// The run.
    pub run: &'r Run,
    /// What became of each scenario, in the order of their declaration.
    pub reports: Vec<Report>,
    /// Ids that the claimed profile holds and the run left out.
    pub missing: Vec<&'static str>,
    /// Whether nothing but a pass counts.
    pub strict: bool,
    /// The profile that is claimed, if one is.
    pub profile: Option<&'static str>,
    /// The filter, as it was given.
    pub filter: Option<String>,
    /// When the run began.
    pub started_at: jiff::Timestamp,
    /// How long it took.
    pub took: Duration,
}

impl RunReport<'_> {
    /// What the run says about the deployment.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let outcomes: Vec<Outcome> = self.reports.iter().map(|report| report.outcome).collect();
        Verdict::over(&outcomes, self.missing.len(), self.strict)
    }

    /// How many scenarios ended this way.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> usize {
        self.reports.iter().filter(|report| report.outcome == outcome).count()
    }

    /// Writes `report.json`, `junit.xml` and `report.html` into `dir`, which is made if need be, and tells their paths.
    ///
    /// # Errors
    /// One of them cannot be written.
    pub fn write(&self, dir: &Path) -> std::io::Result<Vec<PathBuf>> {
        std::fs::create_dir_all(dir)?;
        let json = serde_json::to_string_pretty(&json::document(self)).map_err(std::io::Error::other)?;
        let files =
            [("report.json", json), ("junit.xml", junit::document(self)), ("report.html", html::document(self))];
        files.into_iter().map(|(name, text)| write_whole(dir, name, &text)).collect()
    }
}

/// Writes a file whole or not at all: a reader never sees half a report.
///
/// # Errors
/// It cannot be written.
pub fn write_whole(dir: &Path, name: &str, text: &str) -> std::io::Result<PathBuf> {
    let (path, unfinished) = (dir.join(name), dir.join(format!(".{name}.unfinished")));
    std::fs::write(&unfinished, text)?;
    std::fs::rename(&unfinished, &path)?;
    Ok(path)
}
