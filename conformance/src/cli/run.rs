//! `run`

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nagaya_conformance::harness::capabilities::Capabilities;
use nagaya_conformance::harness::options::{AgentSocket, LaunchAs, Options};
use nagaya_conformance::harness::outcome::Exit;
use nagaya_conformance::harness::run::Run as SuiteRun;
use nagaya_conformance::harness::runner;
use nagaya_conformance::harness::runner::Report;
use nagaya_conformance::harness::vocabulary::Capability;
use nagaya_conformance::report::{RunReport, terminal};
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
    /// Value of the `nagaya.deployment` label of the target's containers.
    #[arg(long, value_name = "ID", requires = "target")]
    deployment: Option<String>,
    /// Workspace image of launched deployments.
    #[arg(long, value_name = "IMAGE", default_value = "workspace-base:latest")]
    image: String,
    /// Who listens on a workspace's agent.sock; the other side connects to it.
    #[arg(long, value_name = "WHO", value_enum, default_value = "server", requires = "target")]
    agent_socket: AgentSocket,
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
    /// Number of scenarios that run at the same time; by default one for each processor, at most 4.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: Option<u16>,
    /// Writes report.json, junit.xml and report.html into this folder.
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// File with the ids of scenarios that are known to fail, one per line; `#` starts a comment. They still run, and one
    /// that passes is a failure.
    #[arg(long, value_name = "FILE")]
    known_failures: Option<PathBuf>,
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
        let interrupt = interrupt(&run.cancel)?;

        let (started, started_at) = (Instant::now(), jiff::Timestamp::now());
        let jobs = self.jobs.map_or_else(default_jobs, usize::from);
        let deadline = started + Duration::from_secs(self.time_limit);
        let mut progress = terminal::Progress::new(selected.scenarios.len());
        let reports = runner::execute_all(&run, &selected.scenarios, jobs, deadline, &mut progress).await;
        drop(progress);
        interrupt.abort();

        let is_known = |report: &Report| known.contains(report.scenario.id);
        let reports = reports.into_iter().map(|report| if is_known(&report) { report.known_to_fail() } else { report });
        let report = RunReport {
            run: &run,
            reports: reports.collect(),
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
        gc::end(&run).await.map_err(|error| Fault::Internal(format!("{error:#}")))?;
        Ok(report.verdict().exit())
    }

    async fn begin(&self) -> Result<SuiteRun, Fault> {
        let defaults = Options::default();
        let options = Options {
            target: self.target.as_ref().map(|target| target.trim_end_matches('/').to_owned()),
            launch: self.launch,
            docker: self.docker.clone(),
            api_key: self.api_key.clone(),
            deployment: self.deployment.clone(),
            image: self.image.clone(),
            agent_socket: self.agent_socket,
            allow_destructive: self.allow_destructive,
            allow_model_calls: self.allow_model_calls,
            without: self.without.clone(),
            seed: self.seed.unwrap_or(defaults.seed),
        };
        let setup = |error: anyhow::Error| Fault::Setup(format!("{error:#}"));
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
