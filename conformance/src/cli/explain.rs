//! `explain`

use std::fmt::Write as _;

use nagaya_conformance::contract::{self, Clause, Tested};
use nagaya_conformance::harness::outcome::Exit;
use nagaya_conformance::scenarios;
use nagaya_conformance::scenarios::FAMILIES;

use super::fault::{Fault, print};

#[derive(Debug, clap::Args)]
pub(super) struct Explain {
    /// The id of a scenario, for example BUG-06, or the number of a clause of the contract, for example C-ROOM-006.
    id: String,
}

impl Explain {
    pub(super) fn execute(self) -> Result<Exit, Fault> {
        if let Some(clause) = contract::find(&self.id) {
            return print(&of_clause(clause));
        }
        let Some(scenario) = scenarios::find(&self.id) else {
            let family = self.id.split('-').next().unwrap_or_default().to_ascii_uppercase();
            let near: Vec<&str> =
                scenarios::all().into_iter().filter(|one| one.family() == family).map(|one| one.id).collect();
            let hint = if near.is_empty() { String::new() } else { format!("; this family has {}", near.join(", ")) };
            return Err(Fault::Usage(format!("no scenario has the id {:?}{hint}", self.id)));
        };
        let about = FAMILIES.iter().find(|family| family.name == scenario.family()).map_or("", |family| family.about);
        let names = |all: &[&str]| if all.is_empty() { "nothing but HTTP".to_owned() } else { all.join(", ") };
        let requires: Vec<&str> = scenario.requires.iter().map(<&str>::from).collect();
        let profiles: Vec<&str> = scenario.profiles().iter().map(<&str>::from).collect();
        let mut clauses = String::new();
        for clause in contract::tested_by(scenario.id) {
            let _ = write!(clauses, "\n  {}  {}", clause.number, clause.text);
        }
        print(&format!(
            "{}  {}\n\n  requirement  {}\n  family       {} ({about})\n  severity     {}\n  needs        {}\n  profiles     {}\n  \
             destructive  {}\n  time limit   {} s\n  source       {}:{}\n\nClauses of the contract (version {}, docs/contract):{clauses}\n\nRun it alone:\n  nagaya-conformance run --filter 'id(={})'\n",
            scenario.id,
            scenario.title,
            scenario.requirement,
            scenario.family(),
            scenario.severity,
            names(&requires),
            names(&profiles),
            if scenario.destructive { "yes: it breaks or removes things that it did not make" } else { "no" },
            scenario.limit.as_secs(),
            scenario.file(),
            scenario.line(),
            contract::version(),
            scenario.id,
        ))
    }
}

/// A clause, with the scenarios that test it.
fn of_clause(clause: &Clause) -> String {
    let tested = match &clause.tested {
        Tested::By(ids) => format!("tested by {}", ids.join(", ")),
        Tested::Not(why) => format!("not tested: {why}"),
    };
    let (number, text, page) = (clause.number, &clause.text, clause.page);
    format!("{number}  {text}\n\n  {tested}\n  docs/contract/{page}, version {}\n", contract::version())
}
