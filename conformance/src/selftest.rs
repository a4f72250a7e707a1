//! Tests that the suite detects defects: each broken deployment of [`crate::mutants`] must fail its named scenarios by an assertion
//! with the expected message; without the defect, the same scenarios must pass.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream;
use futures::stream::StreamExt;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::filter::Filter;
use crate::harness::capabilities::Capabilities;
use crate::harness::failure::{Failure, Kind};
use crate::harness::ledger::Made;
use crate::harness::options::Options;
use crate::harness::outcome::{Exit, Outcome};
use crate::harness::run::Run;
use crate::harness::runner;
use crate::harness::runner::Report;
use crate::harness::scenario::Scenario;
use crate::mutants::{Mutant, Red};
use crate::target::defects::{Defect, Defects};
use crate::target::image;
use crate::{gc, mutants, scenarios};

/// Whether a scenario detected the defect of a broken deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Catch {
    /// It failed with the expected message.
    Caught,
    /// It passed: the defect would go unnoticed.
    Missed,
    /// It failed with another message.
    OtherReason,
    /// It ended with an error or a timeout, which proves nothing.
    Unclear,
    /// Something it needs is missing.
    CouldNotRun,
}

impl Catch {
    /// The catch for a report.
    #[must_use]
    pub fn of(red: &Red, report: &Report) -> Self {
        match report.outcome {
            Outcome::Fail if said(report).contains(red.says) => Self::Caught,
            Outcome::Fail => Self::OtherReason,
            Outcome::Pass => Self::Missed,
            Outcome::CouldNotRun | Outcome::NotApplicable => Self::CouldNotRun,
            Outcome::Error | Outcome::Timeout | Outcome::KnownFailure => Self::Unclear,
        }
    }

    /// Its name in the output.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Caught => "caught",
            Self::Missed => "MISSED",
            Self::OtherReason => "OTHER REASON",
            Self::Unclear => "UNCLEAR",
            Self::CouldNotRun => "could not run",
        }
    }
}

/// The text of a failure: message, expected and actual value.
#[must_use]
pub fn said(report: &Report) -> String {
    let texts = [&report.message, &report.expected, &report.actual].into_iter().flatten();
    texts.map(String::as_str).collect::<Vec<_>>().join("\n")
}

/// One broken deployment against one scenario.
#[derive(Debug, Clone)]
pub struct Trial {
    /// The deployment.
    pub mutant: &'static Mutant,
    /// The expected failure.
    pub red: &'static Red,
    /// Whether the defect was detected.
    pub catch: Catch,
    /// The result of the scenario; none if the deployment could not be prepared.
    pub report: Option<Report>,
    /// Why it could not be prepared.
    pub fault: Option<String>,
}

/// The result of all trials.
#[derive(Debug, Clone)]
pub struct Proof {
    /// The results of the scenarios against the good deployment.
    pub good: Vec<Report>,
    /// Every trial, in order of the catalogue.
    pub trials: Vec<Trial>,
    /// How long it took.
    pub took: Duration,
    /// Whether it was interrupted.
    pub interrupted: bool,
}

impl Proof {
    /// 0: every defect was caught, and every scenario passes against the good deployment. 1: one was not. 2: something could not run.
    #[must_use]
    pub fn exit(&self) -> Exit {
        let catches = self.trials.iter().map(|trial| trial.catch);
        let excused =
            |one: &Report| one.outcome == Outcome::CouldNotRun || (self.interrupted && one.outcome == Outcome::Error);
        let good_is_broken = self.good.iter().any(|one| one.outcome != Outcome::Pass && !excused(one));
        if good_is_broken || catches.clone().any(|catch| !matches!(catch, Catch::Caught | Catch::CouldNotRun)) {
            Exit::NonConformant
        } else if catches.clone().all(|catch| catch == Catch::Caught) && !self.trials.is_empty() {
            Exit::Conformant
        } else {
            Exit::Incomplete
        }
    }

    /// How many broken deployments failed all their scenarios, and how many there are.
    #[must_use]
    pub fn caught(&self) -> (usize, usize) {
        let all: BTreeSet<&str> = self.trials.iter().map(|trial| trial.mutant.id).collect();
        let missed: BTreeSet<&str> =
            self.trials.iter().filter(|trial| trial.catch != Catch::Caught).map(|trial| trial.mutant.id).collect();
        (all.len() - missed.len(), all.len())
    }
}

/// The broken deployments that a filter selects: those with a scenario that matches it.
#[must_use]
pub fn select(filter: &Filter) -> Vec<&'static Mutant> {
    let meant = |red: &Red| scenarios::find(red.scenario).is_some_and(|scenario| filter.matches(scenario));
    mutants::all().into_iter().filter(|mutant| mutant.red.iter().any(meant)).collect()
}

/// Is notified of results as they arrive.
pub trait Observer: Send + Sync {
    /// A scenario has ended against the good deployment.
    fn good(&self, report: &Report);
    /// A trial has ended.
    fn ended(&self, trial: &Trial);
}

/// A broken deployment that is ready to be launched.
struct Prepared {
    mutant: &'static Mutant,
    run: Arc<Run>,
    /// The tag of its own image, if it has one, and the image that this one is made from.
    image: Option<(String, String)>,
}

/// Runs the scenarios against the good deployment, and then against each broken deployment in `chosen`, `jobs` at a time.
///
/// # Errors
/// The runs cannot be begun.
pub async fn prove(
    options: &Options,
    capabilities: &Capabilities,
    chosen: &[&'static Mutant],
    jobs: usize,
    cancel: &CancellationToken,
    observer: &dyn Observer,
) -> anyhow::Result<Proof> {
    let started = Instant::now();
    // All scripts are written before the first program is started: executing a file that a child process holds open for writing fails
    // with ETXTBSY.
    let mut waiting = Vec::new();
    for mutant in chosen {
        waiting.push(prepare(options, capabilities, mutant, cancel)?);
    }
    let mut good_run = Run::begin(options.clone(), capabilities.clone())?;
    good_run.cancel = cancel.child_token();
    let good_run = Arc::new(good_run);
    let named: BTreeSet<&str> = chosen.iter().flat_map(|mutant| mutant.red).map(|red| red.scenario).collect();
    let named: Vec<&'static Scenario> =
        scenarios::all().into_iter().filter(|scenario| named.contains(scenario.id)).collect();
    let runs = stream::iter(named).map(async |scenario| {
        let report = runner::execute(&good_run, scenario).await;
        observer.good(&report);
        report
    });
    let good = runs.buffered(jobs.max(1)).collect().await;
    gc::end(&good_run).await?;
    let trials: Vec<Vec<Trial>> =
        stream::iter(waiting).map(|one| attempt(one, observer)).buffered(jobs.max(1)).collect().await;
    Ok(Proof {
        good,
        trials: trials.into_iter().flatten().collect(),
        took: started.elapsed(),
        interrupted: cancel.is_cancelled(),
    })
}

fn prepare(
    options: &Options,
    capabilities: &Capabilities,
    mutant: &'static Mutant,
    cancel: &CancellationToken,
) -> anyhow::Result<Prepared> {
    let mut run = Run::begin(options.clone(), capabilities.clone())?;
    run.extensions.insert(Defects(mutant.defects));
    run.cancel = cancel.child_token();
    let lines: Vec<&str> = mutant
        .defects
        .iter()
        .filter_map(|one| if let Defect::Start(lines) = one { Some(*lines) } else { None })
        .collect();
    if !lines.is_empty() {
        let path = run.dir().join("nagaya");
        let good = capabilities.server.display().to_string().replace('\'', r"'\''");
        std::fs::write(&path, format!("#!/bin/sh\nSERVER='{good}'\n{}\nexec \"$SERVER\" \"$@\"\n", lines.join("\n")))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        run.capabilities.server = path;
    }
    let needs_image = mutant.defects.iter().any(|defect| matches!(defect, Defect::Image(..)));
    let image = needs_image.then(|| (format!("conf-{}-mutant:test", run.id), run.capabilities.image.clone()));
    if let Some((tag, _)) = &image {
        run.capabilities.image.clone_from(tag);
    }
    Ok(Prepared { mutant, run: Arc::new(run), image })
}

async fn attempt(prepared: Prepared, observer: &dyn Observer) -> Vec<Trial> {
    let Prepared { mutant, run, image } = prepared;
    let made = match &image {
        _ if run.cancel.is_cancelled() => Err(Failure::could_not_run("interrupted before its turn")),
        Some((tag, base)) => make_image(&run, mutant, tag, base).await,
        None => Ok(()),
    };
    let mut trials = Vec::new();
    for red in mutant.red {
        let scenario = scenarios::find(red.scenario);
        let trial = match (&made, scenario) {
            (Ok(()), Some(scenario)) => {
                let report = runner::execute(&run, scenario).await;
                // An interrupted scenario proves nothing.
                let broken_off = report.outcome == Outcome::Error && run.cancel.is_cancelled();
                let catch = if broken_off { Catch::CouldNotRun } else { Catch::of(red, &report) };
                Trial { mutant, red, catch, report: Some(report), fault: None }
            }
            (Err(failure), _) => {
                let there = failure.kind != Kind::CouldNotRun;
                let catch = if there { Catch::Unclear } else { Catch::CouldNotRun };
                Trial { mutant, red, catch, report: None, fault: Some(failure.to_string()) }
            }
            (Ok(()), None) => {
                let fault = Some(format!("there is no scenario {}", red.scenario));
                Trial { mutant, red, catch: Catch::Unclear, report: None, fault }
            }
        };
        trials.push(trial);
    }
    let removed = match (&image, &run.capabilities.engine) {
        (Some((tag, _)), Some(engine)) => match engine.container(&maker(&run)).remove().await {
            Ok(()) => image::remove(engine, tag).await,
            failed => failed,
        },
        _ => Ok(()),
    };
    let ended = match removed {
        Ok(()) => gc::end(&run).await,
        Err(failure) => Err(anyhow::anyhow!("{failure}")),
    };
    if let (Err(failure), Some(last)) = (ended, trials.last_mut()) {
        last.catch = Catch::Unclear;
        last.fault = Some(format!("left behind: {failure}"));
    }
    trials.iter().for_each(|trial| observer.ended(trial));
    trials
}

/// The container that an image is made in.
fn maker(run: &Run) -> String {
    format!("conf-{}-mutant", run.id)
}

async fn make_image(run: &Run, mutant: &Mutant, tag: &str, base: &str) -> Result<(), Failure> {
    let engine = run.capabilities.engine.as_ref().ok_or_else(|| Failure::could_not_run("no Docker engine"))?;
    let (mut change, mut settings) = (Vec::new(), Vec::new());
    for defect in mutant.defects {
        if let Defect::Image(lines, more) = defect {
            change.push(*lines);
            settings.push(*more);
        }
    }
    let container = maker(run);
    run.will_make(&Made::Image(tag.to_owned()))?;
    run.will_make(&Made::Container(container.clone()))?;
    image::derive(engine, run, tag, base, &container, &change.join("\n"), &settings.join("\n")).await
}
