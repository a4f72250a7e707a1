//! Commands, and the exit status of everything that can go wrong with one.

mod badge;
mod compare;
mod describe;
mod explain;
mod fault;
mod fixtures;
mod gc;
mod list;
mod run;
mod selection;
mod selftest;

use nagaya_conformance::harness::outcome::Exit;

pub(crate) use self::fault::Fault;

/// Tests a Nagaya deployment from the outside against its contract.
///
/// Exit status: 0 conformant, 1 non-conformant, 2 incomplete, 3 target unreachable or set-up failed, 4 nothing selected,
/// 64 invalid command line, 70 the suite itself failed.
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
    /// Runs scenarios, by default against deployments that the suite launches itself.
    Run(Box<run::Run>),
    /// Shows what has changed between two reports; exit status 1 if something is worse.
    Compare(compare::Compare),
    /// Makes a badge of a report's verdict.
    Badge(badge::Badge),
    /// Writes a first target file for `run --target-file`, by asking a running deployment.
    Describe(describe::Describe),
    /// Explains a scenario: what it tests, what it needs, and where its source is.
    Explain(explain::Explain),
    /// Runs the program of the scripted model and the other peers, for trying a deployment by hand.
    Fixtures(fixtures::Fixtures),
    /// Removes what killed runs of this user left behind.
    Gc(gc::Gc),
    /// Tests the suite: launches broken deployments, each of which must fail a named scenario.
    Selftest(selftest::Selftest),
}

impl Line {
    /// Executes the command.
    pub(crate) async fn execute(self) -> Result<Exit, Fault> {
        match self.command {
            Command::List(list) => list.execute(),
            Command::Run(run) => run.execute().await,
            Command::Compare(compare) => compare.execute(),
            Command::Badge(badge) => badge.execute(),
            Command::Describe(describe) => describe.execute().await,
            Command::Explain(explain) => explain.execute(),
            Command::Fixtures(fixtures) => fixtures.execute(),
            Command::Gc(gc) => gc.execute().await,
            Command::Selftest(selftest) => selftest.execute().await,
        }
    }
}
