//! Commands, and the exit status of everything that can go wrong with one.

mod explain;
mod gc;
mod list;
mod run;
mod selftest;

use std::fmt;

use nagaya_conformance::filter::Filter;
use nagaya_conformance::outcome::Exit;
use nagaya_conformance::scenario::{Profile, Scenario};
use nagaya_conformance::scenarios;

/// Shows, from outside, whether a deployment keeps its contract.
///
/// Exit status: 0 conformant, 1 non-conformant, 2 incomplete, 3 target unreachable or set-up failed, 4 nothing selected,
/// 64 wrong usage, 70 the suite itself failed.
#[derive(Debug, clap::Parser)]
#[command(name = "nagaya-conformance", version)]
pub(crate) struct Line {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Lists scenarios.
    List(list::List),
    /// Runs scenarios; without --target against a deployment that it launches itself.
    Run(run::Run),
    /// Tells what a scenario is about.
    Explain(explain::Explain),
    /// Removes what a killed run left; only its own.
    Gc(gc::Gc),
    /// Shows that the suite bites: launches broken deployments, each of which must turn a named scenario red.
    Selftest(selftest::Selftest),
}

impl Line {
    /// Does what was asked.
    pub(crate) async fn execute(self) -> Result<Exit, Fault> {
        match self.command {
            Command::List(list) => list.execute(),
            Command::Run(run) => run.execute().await,
            Command::Explain(explain) => explain.execute(),
            Command::Gc(gc) => gc.execute().await,
            Command::Selftest(selftest) => selftest.execute().await,
        }
    }
}

/// Which scenarios are meant.
#[derive(Debug, clap::Args)]
struct Selection {
    /// Only scenarios of this profile.
    #[arg(long, value_enum)]
    profile: Option<Profile>,
    /// Only scenarios that this expression means, as 'family(RUN) and not severity(low)'. Predicates: id, family, severity,
    /// requires, profile; matchers: glob, =exact, ~part; joined by and, or, not and parentheses.
    #[arg(long, value_name = "EXPR")]
    filter: Option<String>,
}

/// The scenarios of a selection, and those of its profile that its filter leaves out.
struct Selected {
    scenarios: Vec<&'static Scenario>,
    left_out: Vec<&'static str>,
}

impl Selection {
    fn select(&self) -> Result<Selected, Fault> {
        let filter = self.filter.as_deref().map_or(Ok(Filter::All), Filter::parse);
        let filter = filter.map_err(|error| Fault::Usage(format!("--filter: {error}")))?;
        let in_profile = |scenario: &&Scenario| self.profile.is_none_or(|profile| scenario.profile <= profile);
        let (scenarios, others): (Vec<&Scenario>, Vec<&Scenario>) =
            scenarios::all().into_iter().filter(in_profile).partition(|scenario| filter.matches(scenario));
        if scenarios.is_empty() {
            let filter = self.filter.as_deref().unwrap_or("none");
            return Err(Fault::NothingSelected(format!(
                "no scenario is meant by the filter {filter:?}; `nagaya-conformance list` shows all there are"
            )));
        }
        // Only a claimed profile pins its scenarios; without one the verdict is about the selection.
        let left_out = if self.profile.is_some() { others.iter().map(|one| one.id).collect() } else { Vec::new() };
        Ok(Selected { scenarios, left_out })
    }
}

/// What keeps a command from being done.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The command line is wrong.
    Usage(String),
    /// Nothing is meant.
    NothingSelected(String),
    /// The target, or what the run needs, is not there.
    Setup(String),
    /// The suite failed.
    Internal(String),
}

impl Fault {
    /// The status to end with.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => Exit::Usage,
            Self::NothingSelected(_) => Exit::NothingSelected,
            Self::Setup(_) => Exit::Setup,
            Self::Internal(_) => Exit::Internal,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) | Self::NothingSelected(text) | Self::Setup(text) | Self::Internal(text) => {
                f.write_str(text)
            }
        }
    }
}

/// Prints to standard output; a reader that has gone (`| head`) ends the command well.
fn print(text: &str) -> Result<Exit, Fault> {
    use std::io::Write as _;
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Fault::Internal(format!("output: {error}")))
        }
        _ => Ok(Exit::Conformant),
    }
}
