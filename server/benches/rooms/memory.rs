//! Memory of the server per room in the warm pool.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use nagaya_server::cluster::Cluster;
use nagaya_server::cluster::peers::Peers;
use nagaya_workspace::Workspaces;
use nagaya_workspace::engine::{Condition, ContainerSpec, Engine, EngineError, EngineInfo, ListedContainer};
use nagaya_workspace::state::PoolSize;
use parking_lot::{Mutex, MutexGuard};
use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout};

use crate::agent::socket;
use crate::deployment::{parts, pooled};
use crate::process::{raise_descriptors, status};
use crate::report::{Goal, Report, Table};
use crate::stage::{Stage, until};
use crate::stats::{Sample, rounds};

/// Argument that starts this program as the server whose memory is measured.
pub(crate) const ROLE: &str = "play-server";
/// Argument that starts this program as all agents of that server.
pub(crate) const AGENTS: &str = "play-agents";
/// Rooms built before the measurement, so that one-time allocations are not counted.
const FIRST: usize = 100;
const ROOMS: usize = 1_000;
/// Time limit for filling the pool.
const LONG: Duration = Duration::from_secs(120);

pub(crate) fn measure(_: &mut Stage, count: usize, report: &mut Report) {
    let series = rounds(count, vec![("ours", Ok(()))], |_, ()| {
        let output = Command::new(std::env::current_exe()?).arg(ROLE).stderr(Stdio::inherit()).output()?;
        ensure!(output.status.success(), "the measured server failed: {}", output.status);
        Ok(Sample { value: String::from_utf8(output.stdout)?.trim().parse()?, p99: None })
    });
    report.add(Table {
        id: "memory-room",
        title: "A room in the warm pool: resident memory of the server",
        unit: "KiB",
        more_is_better: false,
        note: "Growth of a process with workspaces, proxy and state file from 100 rooms in the pool to 1,100, each: entry, \
               directory, open proxy listener, record. The engine is a list of containers, which is counted in; agents answer \
               from another process."
            .into(),
        series,
        goals: vec![Goal::at_most(48.0)],
    });
}

/// Fills a pool and prints the growth of resident memory per room in KiB.
pub(crate) fn play() -> Result<bool> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    raise_descriptors()?;
    let dir = tempfile::Builder::new().prefix("nagaya-bench-").tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let each = runtime.block_on(async {
        let parts = parts(Arc::new(RemoteAgents::start()?), "memory", dir.path()).await?;
        let egress = parts.egress.clone();
        let cluster = Cluster::new(Workspaces::new(parts), Peers::alone("memory"));
        let workspaces = cluster.workspaces().clone();
        cluster.start();
        let size = |rooms| PoolSize { min: rooms, max: rooms };
        let full = async |rooms| -> Result<()> {
            let full = tokio::time::timeout(LONG, until(|| egress.open_listeners() >= rooms)).await;
            full.with_context(|| format!("no pool of {rooms} within {LONG:?}: {:?}", workspaces.pool_problem()))
        };
        workspaces.set_pool_size(size(FIRST));
        full(FIRST).await?;
        let before = status(std::process::id(), "VmRSS")?;
        workspaces.set_pool_size(size(FIRST + ROOMS));
        full(FIRST + ROOMS).await?;
        let grown = status(std::process::id(), "VmRSS")?.saturating_sub(before);
        // Checks that all counted rooms are in the pool. Not earlier, because the list of all rooms takes memory as well.
        let all = until(|| pooled(&workspaces).len() == FIRST + ROOMS);
        tokio::time::timeout(LONG, all).await.context("a counted room is not in the pool")?;
        #[allow(clippy::cast_precision_loss, reason = "kibibytes of one process")]
        anyhow::Ok(grown as f64 / ROOMS as f64)
    })?;
    println!("{each}");
    Ok(true)
}

/// Plays all agents: binds the socket named by each line of standard input and confirms it with an empty line.
pub(crate) fn play_agents() -> Result<bool> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    raise_descriptors()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut out = std::io::stdout();
    for path in std::io::stdin().lock().lines() {
        let listener = StdListener::bind(PathBuf::from(path?))?;
        listener.set_nonblocking(true)?;
        let _guard = runtime.enter();
        runtime.spawn(answer(tokio::net::UnixListener::from_std(listener)?));
        writeln!(out)?;
        out.flush()?;
    }
    Ok(true)
}

async fn answer(listener: tokio::net::UnixListener) {
    let body = r#"{"status":"ok","version":"0","driver":"none","cli_version":null}"#;
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
    while let Ok((mut client, _)) = listener.accept().await {
        let mut head = [0; 1024];
        let written = match client.read(&mut head).await {
            Ok(_) => client.write_all(answer.as_bytes()).await,
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            eprintln!("an agent could not respond: {error}");
        }
    }
}

/// An engine whose agents run in another process.
#[derive(Debug)]
struct RemoteAgents {
    agents: tokio::sync::Mutex<(ChildStdin, BufReader<ChildStdout>)>,
    containers: Mutex<BTreeMap<String, ListedContainer>>,
    _process: Child,
}

impl RemoteAgents {
    fn start() -> Result<Self> {
        let mut process = tokio::process::Command::new(std::env::current_exe()?)
            .arg(AGENTS)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdin = process.stdin.take().context("no input")?;
        let stdout = BufReader::new(process.stdout.take().context("no output")?);
        Ok(Self { agents: (stdin, stdout).into(), containers: Mutex::default(), _process: process })
    }

    async fn agent(&self, dir: &Path) -> std::io::Result<()> {
        let mut agents = self.agents.lock().await;
        agents.0.write_all(format!("{}\n", socket(dir).display()).as_bytes()).await?;
        let read = agents.1.read_line(&mut String::new()).await?;
        if read == 0 { Err(std::io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    fn containers(&self) -> MutexGuard<'_, BTreeMap<String, ListedContainer>> {
        self.containers.lock()
    }
}

#[async_trait]
impl Engine for RemoteAgents {
    async fn ping(&self) -> Result<(), EngineError> {
        Ok(())
    }

    async fn info(&self) -> Result<EngineInfo, EngineError> {
        Ok(EngineInfo { version: "remote agents".into(), api_version: "none".into(), missing_limits: Vec::new() })
    }

    async fn has_image(&self, _: &str) -> Result<bool, EngineError> {
        Ok(true)
    }

    async fn run(&self, spec: ContainerSpec) -> Result<String, EngineError> {
        let started = self.agent(&spec.mount.0).await;
        started.map_err(|error| EngineError::Refused { what: "start a container", why: error.to_string() })?;
        let listed =
            ListedContainer { id: spec.name.clone(), labels: spec.labels, running: true, paused: false, created: 0 };
        self.containers().insert(spec.name.clone(), listed);
        Ok(spec.name)
    }

    async fn list(&self, _: &str, _: &str) -> Result<Vec<ListedContainer>, EngineError> {
        Ok(self.containers().values().cloned().collect())
    }

    async fn condition(&self, name: &str) -> Result<Condition, EngineError> {
        Ok(if self.containers().contains_key(name) { Condition::Running } else { Condition::Missing })
    }

    async fn last_output(&self, _: &str) -> Result<String, EngineError> {
        Ok(String::new())
    }

    async fn remove(&self, name: &str, _: Duration) -> Result<(), EngineError> {
        self.containers().remove(name);
        Ok(())
    }
}
