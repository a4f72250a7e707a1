//! `selftest`

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use nagaya_conformance::filter::Filter;
use nagaya_conformance::harness::capabilities::Capabilities;
use nagaya_conformance::harness::environment::WORKSPACE_IMAGE;
use nagaya_conformance::harness::options::Options;
use nagaya_conformance::harness::outcome::{Exit, Outcome};
use nagaya_conformance::harness::runner::Report;
use nagaya_conformance::harness::vocabulary::Capability;
use nagaya_conformance::mutants::Mutant;
use nagaya_conformance::report::{terminal, write_whole};
use nagaya_conformance::selftest::{Catch, Proof, Trial};
use nagaya_conformance::{mutants, selftest};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::fault::{Fault, print};
use super::run;

#[derive(Debug, clap::Args)]
pub(super) struct Selftest {
    /// Only broken deployments that must fail a scenario matching this expression; syntax as for `run`.
    #[arg(long, value_name = "EXPR")]
    filter: Option<String>,
    /// Only this broken deployment; may be given several times.
    #[arg(long, value_name = "ID")]
    mutant: Vec<String>,
    /// Lists broken deployments and runs nothing.
    #[arg(long)]
    list: bool,
    /// Number of broken deployments at the same time; by default one for each processor, at most 4.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: Option<u16>,
    /// Workspace image; by default this project's, workspace-base:latest.
    #[arg(long, value_name = "IMAGE", env = WORKSPACE_IMAGE)]
    image: Option<String>,
    /// Writes selftest.json into this folder.
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// Also prints the evidence where a defect was not caught: requests and responses, logs, containers.
    #[arg(long, short)]
    verbose: bool,
}

impl Selftest {
    pub(super) async fn execute(self) -> Result<Exit, Fault> {
        let chosen = self.chosen()?;
        if self.list {
            let lines = chosen.iter().fold(String::new(), |mut out, one| {
                let reds: Vec<&str> = one.red.iter().map(|red| red.scenario).collect();
                let _ = writeln!(out, "{:<28} {:<8} {:<30} {}", one.id, one.places(), reds.join(" "), one.title);
                out
            });
            return print(&lines);
        }
        if let Some(dir) = &self.report {
            std::fs::create_dir_all(dir)
                .map_err(|error| Fault::Internal(format!("--report {}: {error}", dir.display())))?;
        }
        let options = Options { image: self.image.clone(), ..Options::default() };
        let setup = |error: anyhow::Error| Fault::Setup(format!("{error:#}"));
        let capabilities = Capabilities::probe(&options).await.map_err(setup)?;
        if let Err(why) = capabilities.check(&[Capability::Launch]) {
            return Err(Fault::Setup(format!("nothing to break: build the server ({why})")));
        }
        let cancel = CancellationToken::new();
        let interrupt = run::interrupt(&cancel)?;
        let jobs = self.jobs.map_or_else(run::default_jobs, usize::from);
        let progress = Progress::new(&chosen);
        let proof = selftest::prove(&options, &capabilities, &chosen, jobs, &cancel, &progress).await.map_err(setup)?;
        interrupt.abort();
        if self.verbose {
            let uncaught = proof.trials.iter().filter(|trial| trial.catch != Catch::Caught);
            let bad = proof.good.iter().filter(|report| report.outcome != Outcome::Pass);
            let reports = uncaught.filter_map(|trial| trial.report.as_ref()).chain(bad);
            reports.for_each(|report| eprint!("{}{}", terminal::details(report), terminal::evidence(report)));
        }
        eprint!("{}", summary(&proof));
        if let Some(dir) = &self.report {
            let text =
                serde_json::to_string_pretty(&document(&proof)).map_err(|error| Fault::Internal(error.to_string()))?;
            let path = write_whole(dir, "selftest.json", &text)
                .map_err(|error| Fault::Internal(format!("--report {}: {error}", dir.display())))?;
            eprintln!("report: {}", path.display());
        }
        Ok(proof.exit())
    }

    fn chosen(&self) -> Result<Vec<&'static Mutant>, Fault> {
        let filter = self.filter.as_deref().map_or(Ok(Filter::All), Filter::parse);
        let filter = filter.map_err(|error| Fault::Usage(format!("--filter: {error}")))?;
        if let Some(unknown) = self.mutant.iter().find(|id| mutants::find(id).is_none()) {
            let hint = "`nagaya-conformance selftest --list` shows all of them";
            return Err(Fault::Usage(format!("no broken deployment has the id {unknown:?}; {hint}")));
        }
        let named = |one: &&Mutant| self.mutant.is_empty() || self.mutant.iter().any(|id| id == one.id);
        let chosen: Vec<_> = selftest::select(&filter).into_iter().filter(named).collect();
        if chosen.is_empty() {
            return Err(Fault::NothingSelected("--filter and --mutant match no broken deployment".to_owned()));
        }
        Ok(chosen)
    }
}

/// Prints each result as it arrives.
struct Progress {
    started: Instant,
    total: usize,
    ended: Mutex<usize>,
}

impl Progress {
    fn new(chosen: &[&Mutant]) -> Self {
        let named: BTreeSet<&str> = chosen.iter().flat_map(|one| one.red).map(|red| red.scenario).collect();
        let trials: usize = chosen.iter().map(|one| one.red.len()).sum();
        eprintln!("{} broken deployments, {} scenarios", chosen.len(), named.len());
        Self { started: Instant::now(), total: named.len() + trials, ended: Mutex::new(0) }
    }

    fn line(&self, mark: &str, what: &str, report: Option<&Report>, why: Option<&str>) {
        let mut ended = self.ended.lock();
        *ended += 1;
        let took = report.map_or(0.0, |report| report.took.as_secs_f64());
        let clock = self.started.elapsed().as_secs();
        eprintln!("[{:3}/{}, {clock:4} s] {mark:>13}  {what} ({took:.1} s)", ended, self.total);
        if let Some(why) = why {
            eprintln!("                               {}", why.lines().next().unwrap_or_default());
        }
    }
}

impl selftest::Observer for Progress {
    fn good(&self, report: &Report) {
        let mark = if report.outcome == Outcome::Pass { "green" } else { report.outcome.into() };
        let what = format!("good server: {}", report.scenario.id);
        self.line(mark, &what, Some(report), report.message.as_deref());
    }

    fn ended(&self, trial: &Trial) {
        let what = format!("{} → {}", trial.mutant.id, trial.red.scenario);
        let message = trial.report.as_ref().and_then(|report| report.message.as_deref());
        let why = trial.fault.as_deref().or(message).filter(|_| trial.catch != Catch::Caught);
        self.line(trial.catch.name(), &what, trial.report.as_ref(), why);
    }
}

fn summary(proof: &Proof) -> String {
    let (caught, all) = proof.caught();
    let green = proof.good.iter().filter(|report| report.outcome == Outcome::Pass).count();
    let mut out = format!(
        "\ngood server: {green} of {} scenarios green\nbroken deployments: {caught} of {all} caught, in {:.0} s\n",
        proof.good.len(),
        proof.took.as_secs_f64()
    );
    for trial in proof.trials.iter().filter(|trial| trial.catch != Catch::Caught) {
        let _ = writeln!(
            out,
            "{}: {} ({}), by {}",
            trial.catch.name(),
            trial.mutant.id,
            trial.mutant.title,
            trial.red.scenario
        );
        let _ = writeln!(out, "  expected  {}", trial.red.says);
        let found = trial.report.as_ref().map_or_else(|| trial.fault.clone().unwrap_or_default(), selftest::said);
        let _ = writeln!(out, "  found     {}", found.replace('\n', "\n            "));
    }
    out
}

fn document(proof: &Proof) -> Value {
    let trial = |trial: &Trial| {
        let report = trial.report.as_ref();
        json!({
            "mutant": trial.mutant.id, "title": trial.mutant.title, "place": trial.mutant.places(),
            "scenario": trial.red.scenario, "says": trial.red.says, "catch": trial.catch,
            "outcome": report.map(|report| report.outcome), "message": report.map(selftest::said), "fault": trial.fault,
            "duration_seconds": report.map(|report| report.took.as_secs_f64()),
        })
    };
    let good = |report: &Report| {
        json!({
            "scenario": report.scenario.id, "outcome": report.outcome, "message": report.message,
            "duration_seconds": report.took.as_secs_f64(),
        })
    };
    let (caught, all) = proof.caught();
    json!({
        "schema": "nagaya-conformance-selftest/1", "exit_code": proof.exit() as u8, "caught": caught, "mutants": all,
        "duration_seconds": proof.took.as_secs_f64(),
        "good": proof.good.iter().map(good).collect::<Vec<_>>(),
        "trials": proof.trials.iter().map(trial).collect::<Vec<_>>(),
    })
}
