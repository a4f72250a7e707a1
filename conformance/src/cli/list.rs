//! `list`

use std::fmt::Write as _;

use nagaya_conformance::harness::outcome::Exit;
use nagaya_conformance::harness::scenario::Listing;

use super::fault::{Fault, print};
use super::selection::Selection;

#[derive(Debug, clap::Args)]
pub(super) struct List {
    /// Prints a JSON array.
    #[arg(long)]
    json: bool,
    /// Prints the catalogue page of the documentation: all scenarios, and the broken deployments of `selftest`.
    #[arg(long, conflicts_with_all = ["json", "profile", "filter"])]
    markdown: bool,
    #[command(flatten)]
    selection: Selection,
}

impl List {
    pub(super) fn execute(self) -> Result<Exit, Fault> {
        if self.markdown {
            return print(&nagaya_conformance::catalogue::page());
        }
        let selected = self.selection.select()?.scenarios;
        if self.json {
            let all: Vec<Listing> = selected.into_iter().map(Listing::from).collect();
            let text = serde_json::to_string_pretty(&all).map_err(|error| Fault::Internal(error.to_string()))?;
            return print(&format!("{text}\n"));
        }
        let mut text = String::new();
        for scenario in selected {
            let _ = writeln!(
                text,
                "{:<18} {:<9} {:<5} {}",
                scenario.id, scenario.severity, scenario.profile, scenario.title
            );
        }
        print(&text)
    }
}
