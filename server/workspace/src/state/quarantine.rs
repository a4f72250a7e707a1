//! Counts and reports the records that could not be decoded.

use parking_lot::Mutex;

/// The number of records moved aside, and a description of the last one.
#[derive(Debug, Default)]
pub(super) struct Quarantine(Mutex<Option<(usize, String)>>);

impl Quarantine {
    /// Reports a record that has been moved to `place`.
    pub(super) fn report(&self, workspace: &str, why: &str, place: &str) {
        tracing::error!(workspace, why, place, "a workspace record could not be decoded and was moved aside");
        let mut reported = self.0.lock();
        let count = reported.as_ref().map_or(0, |(count, _)| *count) + 1;
        *reported = Some((count, format!("{workspace} ({why}), now in {place}")));
    }

    /// The message of [`super::State::quarantined`].
    pub(super) fn message(&self) -> Option<String> {
        let reported = self.0.lock();
        reported.as_ref().map(|(count, last)| format!("corrupt records moved aside: {count}, the last of {last}"))
    }
}
