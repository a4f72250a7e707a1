//! `explain`

use nagaya_conformance::outcome::Exit;
use nagaya_conformance::scenario::{Capability, Profile};
use nagaya_conformance::scenarios::{self, FAMILIES};

use super::{Fault, print};

#[derive(Debug, clap::Args)]
pub(super) struct Explain {
    /// A scenario's id, as BUG-06.
    id: String,
}

impl Explain {
    pub(super) fn execute(self) -> Result<Exit, Fault> {
        let Some(scenario) = scenarios::find(&self.id) else {
            let family = self.id.split('-').next().unwrap_or_default().to_ascii_uppercase();
            let near: Vec<&str> =
                scenarios::all().into_iter().filter(|one| one.family() == family).map(|one| one.id).collect();
            let hint =
                if near.is_empty() { String::new() } else { format!("; in this family there are {}", near.join(", ")) };
            return Err(Fault::Usage(format!("no scenario has the id {:?}{hint}", self.id)));
        };
        let about = FAMILIES.iter().find(|(family, _)| *family == scenario.family()).map_or("", |(_, about)| about);
        let names = |all: &[&str]| if all.is_empty() { "nothing but HTTP".to_owned() } else { all.join(", ") };
        let requires: Vec<&str> = scenario.requires.iter().copied().map(Capability::name).collect();
        let profiles: Vec<&str> = scenario.profiles().into_iter().map(Profile::name).collect();
        print(&format!(
            "{}  {}\n\n  requirement  {}\n  family       {} ({about})\n  severity     {}\n  needs        {}\n  profiles     {}\n  \
             destructive  {}\n  time limit   {} s\n\nRun it alone:\n  nagaya-conformance run --filter 'id(={})'\n",
            scenario.id,
            scenario.title,
            scenario.requirement,
            scenario.family(),
            scenario.severity,
            names(&requires),
            names(&profiles),
            if scenario.destructive { "yes: breaks or removes what it did not make" } else { "no" },
            scenario.limit.as_secs(),
            scenario.id,
        ))
    }
}
