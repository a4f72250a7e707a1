//! What is told of records that could not be read.

use parking_lot::Mutex;

/// How many, and the last of them.
#[derive(Debug, Default)]
pub(super) struct Quarantine(Mutex<Option<(usize, String)>>);

impl Quarantine {
    /// Tells of a record that has been moved to `place`.
    pub(super) fn tell(&self, workspace: &str, why: &str, place: &str) {
        tracing::error!(workspace, why, place, "a workspace record could not be read and was moved aside");
        let mut told = self.0.lock();
        let count = told.as_ref().map_or(0, |(count, _)| *count) + 1;
        *told = Some((count, format!("{workspace} ({why}), now in {place}")));
    }

    /// For a person.
    pub(super) fn message(&self) -> Option<String> {
        let told = self.0.lock();
        told.as_ref().map(|(count, last)| format!("corrupt records moved aside: {count}, the last of {last}"))
    }
}
