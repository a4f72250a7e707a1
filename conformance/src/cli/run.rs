//! `run`

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nagaya_conformance::client::http::Api;
use nagaya_conformance::description::Description;
use nagaya_conformance::harness::capabilities::Capabilities;
use nagaya_conformance::harness::environment::WORKSPACE_IMAGE;
use nagaya_conformance::harness::exchanges::{Exchanges, Secrets};
use nagaya_conformance::harness::options::{AgentSocket, LaunchAs, Options};
use nagaya_conformance::harness::outcome::{Exit, Verdict};
use nagaya_conformance::harness::rounds::{self, Rounds};
use nagaya_conformance::harness::run::Run as SuiteRun;
use nagaya_conformance::harness::runner::{Plan, Report};
use nagaya_conformance::harness::vocabulary::Capability;
use nagaya_conformance::report::{RunReport, terminal};
use nagaya_conformance::scenarios::identity;
use nagaya_conformance::target::stress::Stress;
use nagaya_conformance::target::watch::Watch;
use nagaya_conformance::{gc, scenarios};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::fault::Fault;
use super::selection::Selection;

#[derive(Debug, clap::Args)]
pub(super) struct Run {
    /// Base URL of an existing deployment; without it the suite launches its own.
    #[arg(long, value_name = "URL")]
    target: Option<String>,
    /// What the target is like, in TOML: how it is launched, what its settings, routes and containers are called. Without it, as
    /// the contract says. `describe` writes a first one.
    #[arg(long, value_name = "FILE")]
    target_file: Option<PathBuf>,
    /// How the suite launches deployments: the server as a process of this machine, or as a container of its image, with
    /// PostgreSQL and Redis in containers too.
    #[arg(long, value_name = "HOW", value_enum, default_value = "process", conflicts_with = "target")]
    launch: LaunchAs,
    /// Docker socket of the engine that runs the workspaces.
    #[arg(long, value_name = "SOCK")]
    docker: Option<String>,
    /// An operator's key for the API.
    #[arg(long, value_name = "KEY", env = "NAGAYA_CONFORMANCE_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// Value of the label with the deployment's id on the target's containers, `nagaya.deployment` unless the target file says otherwise.
    #[arg(long, value_name = "ID", requires = "target")]
    deployment: Option<String>,
    /// Workspace image: of launched deployments, or the target's. By default this project's, workspace-base:latest; for another target
    /// or another server it must be named, or scenarios that need it could not run.
    #[arg(long, value_name = "IMAGE", env = WORKSPACE_IMAGE)]
    image: Option<String>,
    /// Who listens on a workspace's agent.sock; the other side connects to it. By default the server, or as the target file says.
    #[arg(long, value_name = "WHO", value_enum, requires = "target")]
    agent_socket: Option<AgentSocket>,
    /// PEM file with the certificate authority of an https:// target, in addition to those of this machine.
    #[arg(long, value_name = "FILE", requires = "target")]
    ca: Option<PathBuf>,
    #[command(flatten)]
    selection: Selection,
    /// Counts every outcome other than a pass as a failure: known failures, and scenarios that do not apply or could not run.
    #[arg(long)]
    strict: bool,
    /// Allows scenarios to break or remove things in the target that they did not create.
    #[arg(long)]
    allow_destructive: bool,
    /// Allows scenarios to call the target's model, which may cost money and answers differently each time.
    #[arg(long)]
    allow_model_calls: bool,
    /// Optional parts that the deployment lacks, for example `admin,resume`; scenarios that need them could then not run.
    #[arg(long, value_name = "CAPABILITY", value_enum, value_delimiter = ',')]
    without: Vec<Capability>,
    /// Begins no other scenario after the first failure.
    #[arg(long)]
    fail_fast: bool,
    /// Runs the selection so many times; each scenario has its worst result, and a note if it did not always end alike.
    #[arg(long, value_name = "N", conflicts_with = "until_failure", value_parser = clap::value_parser!(u16).range(1..))]
    repeat: Option<u16>,
    /// Runs the selection again and again, until something fails or the time limit is reached.
    #[arg(long)]
    until_failure: bool,
    /// Number of scenarios that run at the same time; by default one for each processor, at most 4.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: Option<u16>,
    /// Writes report.json, junit.xml, report.html and summary.md (for the summary of a CI job) into this folder.
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// File with the ids of scenarios that are known to fail, one per line; `#` starts a comment. They still run, and one
    /// that passes is a failure.
    #[arg(long, value_name = "FILE")]
    known_failures: Option<PathBuf>,
    /// Multiplies every deadline of the suite, for a slow machine; with less than 1 scenarios keep their own time limits.
    /// By default 1, and 3 with --stress.
    #[arg(long, value_name = "FACTOR", value_parser = patience)]
    patience: Option<f64>,
    /// Loads this machine while scenarios run: a busy process for each processor, and one that writes to the disk.
    #[arg(long)]
    stress: bool,
    /// Seed of all random choices.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Seconds after which the run is stopped; its report is still written.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    time_limit: u64,
    /// Also prints the evidence of failures: requests and responses, logs, containers.
    #[arg(long, short)]
    verbose: bool,
}

impl Run {
    pub(super) async fn execute(self) -> Result<Exit, Fault> {
        let selected = self.selection.select()?;
        let known = self.known_failures.as_deref().map(known_failures).transpose()?.unwrap_or_default();
        if let Some(dir) = &self.report {
            // A folder that cannot be created is reported before the run, not after it.
            std::fs::create_dir_all(dir)
                .map_err(|error| Fault::Internal(format!("--report {}: {error}", dir.display())))?;
        }
        let run = Arc::new(self.begin().await?);
        if let Err(failure) = identity::check_deployment(&run).await {
            gc::end(&run).await.map_err(|error| Fault::Internal(format!("{error:#}")))?;
            return Err(Fault::Setup(failure.message));
        }
        let interrupt = interrupt(&run.cancel)?;

        let (started, started_at) = (Instant::now(), jiff::Timestamp::now());
        let jobs = self.jobs.map_or_else(default_jobs, usize::from);
        let deadline = started + Duration::from_secs(self.time_limit);
        let rounds = match (self.until_failure, self.repeat) {
            (true, _) => Rounds::UntilFailure,
            (false, times) => Rounds::Times(times.map_or(1, usize::from)),
        };
        let is_known = |report: &Report| known.contains(report.scenario.id);
        let fails = |report: &Report| {
            let outcome = if is_known(report) { report.outcome.known_to_fail() } else { report.outcome };
            Verdict::over(&[outcome], 0, self.strict) == Verdict::NonConformant
        };
        let plan = Plan { jobs, deadline, fails: &fails, fail_fast: self.fail_fast };
        let watch = self.watch(&run).await?;
        let internal = |error: anyhow::Error| Fault::Internal(format!("{error:#}"));
        let load = self.stress.then(|| Stress::begin(&run)).transpose().map_err(internal)?;
        let mut progress = terminal::Progress::new(&selected.scenarios, rounds, jobs);
        let ended = rounds::execute_rounds(&run, &selected.scenarios, rounds, &plan, &mut progress).await;
        drop(progress);
        if let Some(load) = load {
            load.end().await.map_err(internal)?;
        }
        if let Some(watch) = watch {
            run.target_has_changed(watch.end().await);
        }
        interrupt.abort();

        let judged = |report: Report| if is_known(&report) { report.known_to_fail() } else { report };
        let report = RunReport {
            run: &run,
            reports: ended.reports.into_iter().map(judged).collect(),
            rounds: ended.rounds,
            missing: selected.left_out,
            strict: self.strict,
            profile: self.selection.profile.as_ref().map(<&str>::from),
            filter: self.selection.filter.clone(),
            started_at,
            took: started.elapsed(),
        };
        if self.verbose {
            report.reports.iter().for_each(|one| eprint!("{}", terminal::evidence(one)));
        }
        eprint!("{}", terminal::summary(&report, terminal::is_interactive()));
        if let Some(dir) = &self.report {
            let paths =
                report.write(dir).map_err(|error| Fault::Internal(format!("--report {}: {error}", dir.display())))?;
            paths.iter().for_each(|path| eprintln!("report: {}", path.display()));
        }
        gc::end(&run).await.map_err(internal)?;
        Ok(report.verdict().exit())
    }

    /// Watches the target, if there is one.
    async fn watch(&self, run: &SuiteRun) -> Result<Option<Watch>, Fault> {
        let Some(target) = &run.options.target else { return Ok(None) };
        let exchanges = Exchanges::new(Secrets::default());
        let api = Api::trusting(&run.capabilities.trust, target, self.api_key.as_deref(), exchanges);
        let api = api.and_then(|api| api.speaking(&run.options.description.speech));
        Ok(Some(Watch::begin(api.map_err(|failure| Fault::Internal(failure.to_string()))?).await))
    }

    async fn begin(&self) -> Result<SuiteRun, Fault> {
        let setup = |error: anyhow::Error| Fault::Setup(format!("{error:#}"));
        let description = match &self.target_file {
            Some(path) => Arc::new(Description::load(path).map_err(setup)?),
            None => Description::own(),
        };
        let described = if description.containers.agent_listens { AgentSocket::Agent } else { AgentSocket::Server };
        let defaults = Options::default();
        let options = Options {
            target: self.target.as_ref().map(|target| target.trim_end_matches('/').to_owned()),
            launch: self.launch,
            docker: self.docker.clone(),
            ca: self.ca.clone(),
            api_key: self.api_key.clone(),
            deployment: self.deployment.clone(),
            image: self.image.clone(),
            agent_socket: self.agent_socket.unwrap_or(described),
            description,
            allow_destructive: self.allow_destructive,
            allow_model_calls: self.allow_model_calls,
            without: self.without.clone(),
            patience: self.patience.unwrap_or(if self.stress { Stress::PATIENCE } else { defaults.patience }),
            stress: self.stress,
            seed: self.seed.unwrap_or(defaults.seed),
        };
        let capabilities = Capabilities::probe(&options).await.map_err(setup)?;
        if options.target.is_none()
            && let Err(why) = capabilities.check(&[Capability::Launch])
        {
            return Err(Fault::Setup(format!("nothing to test: give --target, or build the server ({why})")));
        }
        for (capability, why) in capabilities.missing() {
            eprintln!("without {capability}: {why}");
        }
        SuiteRun::begin(options, capabilities).map_err(setup)
    }
}

/// A factor for deadlines.
fn patience(text: &str) -> Result<f64, String> {
    let factor = text.parse().ok().filter(|factor| (0.01..=100.0).contains(factor));
    factor.ok_or_else(|| "a number from 0.01 to 100 is accepted".to_owned())
}

/// One for each processor, but no more than the memory of a usual machine allows.
pub(super) fn default_jobs() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZero::get).min(4)
}

/// Ends all scenarios at the first SIGINT or SIGTERM. They still clean up, and their outcome is an error.
pub(super) fn interrupt(cancel: &CancellationToken) -> Result<tokio::task::JoinHandle<()>, Fault> {
    let internal = |error: std::io::Error| Fault::Internal(format!("signals: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(internal)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(internal)?;
    let cancel = cancel.clone();
    Ok(tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        eprintln!("\ninterrupted: cleaning up");
        cancel.cancel();
    }))
}

fn known_failures(path: &Path) -> Result<BTreeSet<&'static str>, Fault> {
    let usage = |why: String| Fault::Usage(format!("--known-failures {}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| usage(error.to_string()))?;
    let ids = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()).filter(|id| !id.is_empty());
    ids.map(|id| scenarios::find(id).map(|one| one.id).ok_or_else(|| usage(format!("no scenario has the id {id:?}"))))
        .collect()
}
