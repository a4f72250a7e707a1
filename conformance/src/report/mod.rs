//! Reports of a run: one model, several formats.

pub mod badge;
pub mod compare;
mod forecast;
pub mod html;
pub mod json;
pub mod junit;
pub mod markdown;
mod model;
pub mod terminal;

use std::path::{Path, PathBuf};

pub use model::RunReport;

impl RunReport<'_> {
    /// Writes `report.json`, `junit.xml`, `report.html` and `summary.md` into `dir`, which is created if necessary, and returns their paths.
    ///
    /// # Errors
    /// One of them cannot be written.
    pub fn write(&self, dir: &Path) -> std::io::Result<Vec<PathBuf>> {
        std::fs::create_dir_all(dir)?;
        let json = serde_json::to_string_pretty(&json::document(self)).map_err(std::io::Error::other)?;
        let files = [
            ("report.json", json),
            ("junit.xml", junit::document(self)?),
            ("report.html", html::document(self)),
            ("summary.md", markdown::document(self)),
        ];
        files.into_iter().map(|(name, text)| write_whole(dir, name, &text)).collect()
    }
}

/// Writes a file atomically, so that a reader never sees half a report.
///
/// # Errors
/// It cannot be written.
pub fn write_whole(dir: &Path, name: &str, text: &str) -> std::io::Result<PathBuf> {
    let (path, unfinished) = (dir.join(name), dir.join(format!(".{name}.unfinished")));
    std::fs::write(&unfinished, text)?;
    std::fs::rename(&unfinished, &path)?;
    Ok(path)
}
