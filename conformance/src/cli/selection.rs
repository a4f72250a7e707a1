//! Options that select scenarios.

use nagaya_conformance::filter::Filter;
use nagaya_conformance::harness::scenario::Scenario;
use nagaya_conformance::harness::vocabulary::Profile;
use nagaya_conformance::scenarios;

use super::fault::Fault;

/// Options that select scenarios.
#[derive(Debug, clap::Args)]
pub(super) struct Selection {
    /// Only scenarios of this profile.
    #[arg(long, value_enum)]
    pub(super) profile: Option<Profile>,
    /// Only scenarios that match this expression, for example 'family(RUN) and not severity(low)'. Predicates: id, family,
    /// severity, requires, profile. Matchers: glob, =exact, ~substring. Combine them with and, or, not and parentheses.
    #[arg(long, value_name = "EXPR")]
    pub(super) filter: Option<String>,
}

/// The selected scenarios, and those of the profile that the filter excludes.
pub(super) struct Selected {
    pub(super) scenarios: Vec<&'static Scenario>,
    pub(super) left_out: Vec<&'static str>,
}

impl Selection {
    pub(super) fn select(&self) -> Result<Selected, Fault> {
        let filter = self.filter.as_deref().map_or(Ok(Filter::All), Filter::parse);
        let filter = filter.map_err(|error| Fault::Usage(format!("--filter: {error}")))?;
        let in_profile = |scenario: &&Scenario| self.profile.is_none_or(|profile| scenario.profile <= profile);
        let (scenarios, others): (Vec<&Scenario>, Vec<&Scenario>) =
            scenarios::all().into_iter().filter(in_profile).partition(|scenario| filter.matches(scenario));
        if scenarios.is_empty() {
            let filter = self.filter.as_deref().unwrap_or("none");
            return Err(Fault::NothingSelected(format!(
                "the filter {filter:?} matches no scenario; `nagaya-conformance list` shows all of them"
            )));
        }
        // Only a run that claims a profile must include all its scenarios; otherwise the verdict covers the selection alone.
        let left_out = if self.profile.is_some() { others.iter().map(|one| one.id).collect() } else { Vec::new() };
        Ok(Selected { scenarios, left_out })
    }
}
