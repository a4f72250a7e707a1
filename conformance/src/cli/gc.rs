//! `gc`

use std::fmt::Write as _;

use nagaya_conformance::gc;
use nagaya_conformance::harness::outcome::Exit;

use super::fault::{Fault, print};

#[derive(Debug, clap::Args)]
pub(super) struct Gc {
    /// Docker socket that the runs used.
    #[arg(long, value_name = "SOCK", default_value = gc::USUAL_SOCKET)]
    docker: String,
}

impl Gc {
    pub(super) async fn execute(self) -> Result<Exit, Fault> {
        let collected = gc::collect(&self.docker, &|what| eprintln!("{what}"))
            .await
            .map_err(|error| Fault::Setup(format!("{error:#}")))?;
        let mut text = String::new();
        for run in &collected {
            let _ = writeln!(text, "run {}:", run.run);
            run.removed.iter().for_each(|what| _ = writeln!(text, "  removed {what}"));
            run.failed.iter().for_each(|what| _ = writeln!(text, "  could not remove {what}"));
        }
        if collected.is_empty() {
            text.push_str("no killed run left anything behind\n");
        }
        print(&text)?;
        if collected.iter().any(|run| !run.failed.is_empty()) {
            return Err(Fault::Setup(
                "some objects could not be removed; they stay in the ledger for the next attempt".to_owned(),
            ));
        }
        Ok(Exit::Conformant)
    }
}
