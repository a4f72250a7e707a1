//! The model of a report: one run, in the order of its scenarios.

use std::time::Duration;

use crate::harness::outcome::{Outcome, Verdict};
use crate::harness::run::Run;
use crate::harness::runner::Report;
use crate::scenarios::Family;

/// A whole run.
#[derive(Debug)]
pub struct RunReport<'r> {
    /// The run.
    pub run: &'r Run,
    /// The result of each scenario, in their order.
    pub reports: Vec<Report>,
    /// Ids of scenarios that belong to the claimed profile and were left out of the run.
    pub missing: Vec<&'static str>,
    /// How often the selection was run.
    pub rounds: usize,
    /// Whether every outcome other than a pass counts as a failure.
    pub strict: bool,
    /// The claimed profile, if there is one.
    pub profile: Option<&'static str>,
    /// The filter expression.
    pub filter: Option<String>,
    /// When the run began.
    pub started_at: jiff::Timestamp,
    /// How long it took.
    pub took: Duration,
}

impl RunReport<'_> {
    /// The verdict on the deployment. There is none on a target that has changed under the run: it is incomplete, whatever was seen.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        if !self.run.target_changes().is_empty() {
            return if self.strict { Verdict::NonConformant } else { Verdict::Incomplete };
        }
        let outcomes: Vec<Outcome> = self.reports.iter().map(|report| report.outcome).collect();
        Verdict::over(&outcomes, self.missing.len(), self.strict)
    }

    /// The number of scenarios with this outcome.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> usize {
        self.reports.iter().filter(|report| report.outcome == outcome).count()
    }

    /// The scenarios of a family.
    pub(super) fn members<'s>(&'s self, family: &'s Family) -> impl Iterator<Item = &'s Report> {
        self.reports.iter().filter(|one| one.scenario.family() == family.name)
    }
}
