//! The registry as tests of `cargo nextest`: each scenario by its id, in a process of its own.
//!
//! A scenario that could not run fails here, and so does one that saw a deviation from the contract's shapes.

use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};
use nagaya_conformance::harness::capabilities::Capabilities;
use nagaya_conformance::harness::environment;
use nagaya_conformance::harness::options::Options;
use nagaya_conformance::harness::outcome::Outcome;
use nagaya_conformance::harness::run::Run;
use nagaya_conformance::harness::runner::{self, SHAPE_NOTE};
use nagaya_conformance::harness::scenario::Scenario;
use nagaya_conformance::report::terminal;
use nagaya_conformance::{gc, scenarios};
use tokio::signal::unix::{SignalKind, signal};

/// Environment variable with the seed of random choices.
const SEED_VARIABLE: &str = "NAGAYA_CONFORMANCE_SEED";
/// The seed otherwise: a test that fails for one change must not have passed by luck for the one before. `nagaya-conformance run`
/// chooses others.
const SEED: u64 = 1;

fn main() {
    let trials = scenarios::all().into_iter().map(|scenario| Trial::test(scenario.id, move || run(scenario))).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn run(scenario: &'static Scenario) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(execute(scenario))
}

async fn execute(scenario: &'static Scenario) -> Result<(), Failed> {
    let image = environment::named(environment::WORKSPACE_IMAGE);
    let mut options = Options { image, seed: SEED, ..Options::default() };
    if let Ok(seed) = std::env::var(SEED_VARIABLE) {
        options.seed = seed.parse().map_err(|_| format!("{SEED_VARIABLE}={seed:?} is not a number"))?;
    }
    let capabilities = Capabilities::probe(&options).await.map_err(|error| format!("{error:#}"))?;
    let run = Arc::new(Run::begin(options, capabilities).map_err(|error| format!("{error:#}"))?);
    // nextest sends SIGTERM to a test that takes too long, and gives it time to clean up.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut execution = std::pin::pin!(runner::execute(&run, scenario));
    let report = loop {
        tokio::select! {
            report = &mut execution => break report,
            _ = terminate.recv() => run.cancel.cancel(),
            _ = interrupt.recv() => run.cancel.cancel(),
        }
    };
    let ended = gc::end(&run).await;
    report.notes.iter().for_each(|note| eprintln!("note: {note}"));
    // This project's own server has no excuse.
    if let Some(deviation) = report.notes.iter().find(|note| note.starts_with(SHAPE_NOTE)) {
        return Err(Failed::from(format!("{deviation}\n{}", terminal::details(&report))));
    }
    if report.outcome != Outcome::Pass {
        let (details, evidence) = (terminal::details(&report), terminal::evidence(&report));
        return Err(Failed::from(format!("{}\n{details}\n{evidence}", report.outcome)));
    }
    ended.map_err(|error| format!("{error:#}").into())
}
