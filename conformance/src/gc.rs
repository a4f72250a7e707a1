//! Removes what a killed run left behind: exactly what its ledger names, and processes that carry its mark. A run whose process
//! still exists is not touched.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

use crate::description::{Containers, Description};
use crate::harness::engine::Engine;
use crate::harness::failure::Failure;
use crate::harness::ledger::{LEDGER_FILE, Made, OWNER_FILE, runs_dir, start_time};
use crate::harness::pending::{ENGINE_LIMIT, unanswered};
use crate::harness::poll::eventually;
use crate::harness::run::{Run, TARGET_FILE};
use crate::harness::tree;
use crate::target::launch::remove_rooms;
use crate::target::process::RUN_MARK;
use crate::target::{build, cgroup, compose, image};

/// Default path of the Docker socket.
pub const USUAL_SOCKET: &str = "/var/run/docker.sock";

/// How long killed processes may take to exit.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// What was removed for one dead run.
#[derive(Debug)]
pub struct Collected {
    /// The run's id.
    pub run: String,
    /// What was removed.
    pub removed: Vec<String>,
    /// What could not be removed; the run's ledger is kept for another attempt.
    pub failed: Vec<String>,
}

/// Removes what dead runs of this user left behind. `tell` is called with a message before a longer wait.
///
/// # Errors
/// The directory of runs cannot be read.
pub async fn collect(docker: &str, tell: &dyn Fn(&str)) -> anyhow::Result<Vec<Collected>> {
    let mut collected = Vec::new();
    for dir in dead_runs(&runs_dir())? {
        collected.push(collect_run(&dir, docker, tell).await);
    }
    Ok(collected)
}

/// Ends a run of this process. What its scenarios could not remove is removed as for a killed run.
///
/// # Errors
/// Something cannot be removed; the ledger is kept then.
pub async fn end(run: &Run) -> anyhow::Result<()> {
    if !run.left_something() {
        return run.end().with_context(|| run.dir().display().to_string());
    }
    let docker = run.options.docker.as_deref().unwrap_or(USUAL_SOCKET);
    let collected = collect_run(run.dir(), docker, &|_| ()).await;
    anyhow::ensure!(
        collected.failed.is_empty(),
        "left behind; `nagaya-conformance gc` tries again: {}",
        collected.failed.join("; ")
    );
    Ok(())
}

/// The directories of runs whose process has exited.
fn dead_runs(runs: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(runs) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| runs.display().to_string())?,
    };
    let mut dead = Vec::new();
    for entry in entries {
        let entry = entry?;
        // A name that begins with a dot belongs to a run that is just starting and has made nothing yet.
        let begun = !entry.file_name().as_encoded_bytes().starts_with(b".");
        if begun && !owner_lives(&entry.path()) {
            dead.push(entry.path());
        }
    }
    dead.sort();
    Ok(dead)
}

fn owner_lives(dir: &Path) -> bool {
    let owner = std::fs::read_to_string(dir.join(OWNER_FILE)).unwrap_or_default();
    let mut words = owner.split_ascii_whitespace();
    let pid = words.next().and_then(|word| word.parse::<u32>().ok());
    let started = words.next().and_then(|word| word.parse::<u64>().ok());
    pid.and_then(start_time).is_some_and(|now| Some(now) == started)
}

/// The contents of a ledger, and how long the engine may still take to complete its requests.
struct Left<'l> {
    made: Vec<Made>,
    unanswered: HashSet<&'l str>,
    until: Instant,
    /// What workspaces of its deployments look like.
    containers: Arc<Containers>,
    tell: &'l dyn Fn(&str),
}

impl<'l> Left<'l> {
    fn read(ledger: &'l str, containers: Arc<Containers>, tell: &'l dyn Fn(&str)) -> Self {
        // The latest first, except that containers and projects which could create workspaces go before the workspaces.
        let mut made: Vec<Made> = ledger.lines().rev().filter_map(Made::parse).collect();
        made.sort_by_key(|made| match made {
            Made::Container(_) | Made::Project(_) => 0,
            Made::Deployment(_) => 1,
            _ => 2,
        });
        Self { made, unanswered: unanswered(ledger), until: Instant::now() + ENGINE_LIMIT, containers, tell }
    }

    /// Waits until the objects that were asked for exist. One never appears if the run was killed before it sent the request, or if
    /// the engine refused it: then there is nothing to remove. The number of parts of a Compose project is unknown.
    async fn arrives(&self, engine: &Engine) {
        let asked_for = |made: &&Made| match made {
            Made::Container(name) | Made::Image(name) | Made::Project(name) => self.unanswered.contains(name.as_str()),
            _ => false,
        };
        for made in self.made.iter().filter(asked_for) {
            let is_there = async || match made {
                Made::Container(name) => engine.container(name).inspect().await.is_ok(),
                Made::Image(tag) => engine.docker().inspect_image(tag).await.is_ok(),
                _ => false,
            };
            if !is_there().await {
                let left = self.waits_for(&format!("{made:?}"));
                let arrives = eventually(left, "it", async || if is_there().await { Ok(()) } else { Err("not there") });
                let _there_or_never = arrives.await;
            }
        }
    }

    fn waits_for(&self, what: &str) -> Duration {
        let left = self.until.saturating_duration_since(Instant::now());
        (self.tell)(&format!(
            "the engine may still be making {what}: waiting for it, for at most {} s",
            left.as_secs()
        ));
        left
    }

    /// Whether a directory of the run contains one for a workspace without a container: a server creates it before the container.
    async fn expects_rooms(&self, engine: &Engine) -> Result<bool, Failure> {
        let mounted = engine.mounted().await?;
        let dirs = self.made.iter().filter_map(|made| if let Made::Dir(dir) = made { Some(dir) } else { None });
        let inside = dirs.filter_map(|dir| std::fs::read_dir(dir).ok()).flatten().flatten().map(|entry| entry.path());
        Ok(inside.filter(|path| path.is_dir()).any(|path| !mounted.contains(&path)))
    }

    async fn remove_rooms(&self, engine: &Engine, deployment: &str) -> Result<Vec<String>, Failure> {
        let mut removed = remove_rooms(engine, deployment).await?;
        if self.expects_rooms(engine).await? {
            let left = self.waits_for("a workspace");
            let arrive = eventually(left, "a workspace", async || match self.expects_rooms(engine).await {
                Ok(true) => Err("none"),
                looked => Ok(looked),
            });
            if let Ok(looked) = arrive.await {
                looked?;
            }
            removed.extend(remove_rooms(engine, deployment).await?);
        }
        Ok(removed)
    }
}

/// Removes what a finished run left behind, according to the ledger in its directory.
async fn collect_run(dir: &Path, docker: &str, tell: &dyn Fn(&str)) -> Collected {
    let run = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut collected = Collected { run, removed: Vec::new(), failed: Vec::new() };
    kill_marked(&mut collected).await;
    let ledger = std::fs::read_to_string(dir.join(LEDGER_FILE)).unwrap_or_default();
    // Without a target file, or with one that this version does not understand, workspaces look like this project's.
    let described = Description::load(&dir.join(TARGET_FILE)).map_or_else(|_| Description::own(), Arc::new);
    let left = Left::read(&ledger, described.containers.clone(), tell);
    let mut engine = None;
    for made in &left.made {
        match remove(made, &left, docker, &mut engine).await {
            Ok(removed) => collected.removed.extend(removed),
            Err(error) => collected.failed.push(format!("{made:?}: {error:#}")),
        }
    }
    if collected.failed.is_empty() {
        match tree::remove(dir).await {
            Ok(()) => collected.removed.push(format!("directory {}", dir.display())),
            Err(error) => collected.failed.push(format!("{}: {error}", dir.display())),
        }
    }
    collected
}

async fn remove(
    made: &Made,
    left: &Left<'_>,
    docker: &str,
    engine: &mut Option<Engine>,
) -> anyhow::Result<Vec<String>> {
    if let Made::Dir(dir) = made {
        let there = dir.exists();
        tree::remove(dir).await?;
        return Ok(there.then(|| format!("directory {}", dir.display())).into_iter().collect());
    }
    if let Made::Cgroup(name) = made {
        let trees = cgroup::remove(name)?;
        return Ok((trees > 0).then(|| format!("control group {name}")).into_iter().collect());
    }
    let engine = match engine {
        Some(engine) => engine,
        None => {
            let engine = engine.insert(Engine::connect(docker).await?.with(&left.containers));
            // Before anything is removed: the engine may be making something from it.
            left.arrives(engine).await;
            engine
        }
    };
    let into_error = |failure: Failure| anyhow::anyhow!("{failure}");
    match made {
        Made::Deployment(id) => {
            let removed = left.remove_rooms(engine, id).await.map_err(into_error)?;
            Ok(removed.into_iter().map(|room| format!("container {room}")).collect())
        }
        Made::Container(name) => {
            let container = engine.container(name);
            let there = container.inspect().await.is_ok();
            container.remove().await.map_err(into_error)?;
            Ok(there.then(|| format!("container {name}")).into_iter().collect())
        }
        Made::Project(name) => compose::remove_project(engine, name).await.map_err(into_error),
        Made::Image(tag) => {
            let there = engine.docker().inspect_image(tag).await.is_ok();
            image::remove(engine, tag).await.map_err(into_error)?;
            Ok(there.then(|| format!("image {tag}")).into_iter().collect())
        }
        Made::Layers(run) => {
            let layers = build::remove_layers(engine, run).await.map_err(into_error)?;
            Ok((layers > 0).then(|| format!("{layers} layers of builds")).into_iter().collect())
        }
        Made::Dir(_) | Made::Cgroup(_) => unreachable!("these were dealt with above"),
    }
}

/// Processes whose environment carries the run's mark. The environments of other users' processes cannot be read.
fn marked(run: &str) -> Vec<i32> {
    let mark = format!("{RUN_MARK}={run}");
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())
    })
    .collect()
}

async fn kill_marked(collected: &mut Collected) {
    for pid in marked(&collected.run) {
        if let Some(process) = Pid::from_raw(pid)
            && kill_process(process, Signal::KILL).is_ok()
        {
            collected.removed.push(format!("process {pid}"));
        }
    }
    let gone = eventually(KILL_LIMIT, "no process of the run", || {
        let left = marked(&collected.run);
        std::future::ready(if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) })
    });
    if let Err(failure) = gone.await {
        collected.failed.push(failure.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::capabilities::Capabilities;
    use crate::harness::options::Options;

    #[test]
    fn only_runs_of_dead_processes_are_dead() {
        let runs = tempfile::tempdir().expect("a directory");
        let me = std::process::id();
        let started = start_time(me).expect("own start time");
        for (name, owner) in [
            ("alive", format!("{me} {started}\n")),
            ("reused", format!("{me} {}\n", started + 1)),
            ("torn", String::new()),
        ] {
            std::fs::create_dir(runs.path().join(name)).expect("made");
            std::fs::write(runs.path().join(name).join(OWNER_FILE), owner).expect("written");
        }
        let dead = dead_runs(runs.path()).expect("readable");
        assert_eq!(dead, [runs.path().join("reused"), runs.path().join("torn")]);
        assert!(dead_runs(&runs.path().join("none")).expect("not there is fine").is_empty());
    }

    #[tokio::test]
    async fn a_marked_process_and_a_listed_directory_go() {
        let base = tempfile::tempdir().expect("a directory");
        let dir = base.path().join(format!("gc-test-{}", std::process::id()));
        let left = base.path().join("left");
        std::fs::create_dir(&dir).expect("made");
        std::fs::create_dir(&left).expect("made");
        std::fs::write(dir.join(LEDGER_FILE), format!("dir {}\nnonsense\n", left.display())).expect("written");
        let run = dir.file_name().expect("a name").to_string_lossy().into_owned();
        let mut child = tokio::process::Command::new("sleep").arg("60").env(RUN_MARK, &run).spawn().expect("started");
        // Between fork and exec the process does not carry the mark yet.
        let there = eventually(KILL_LIMIT, "the marked process", || {
            std::future::ready(if marked(&run).is_empty() { Err("not there") } else { Ok(()) })
        });
        there.await.expect("started");
        // A killed process disappears from /proc only once its parent has waited for it.
        let (collected, status) = tokio::join!(collect_run(&dir, "/nowhere.sock", &|_| ()), child.wait());
        assert!(!status.expect("waited").success());
        assert!(collected.failed.is_empty(), "{collected:?}");
        assert_eq!(collected.removed.len(), 3, "{collected:?}");
        assert!(!dir.exists() && !left.exists());
    }

    #[tokio::test]
    async fn leftovers_of_a_scenario_are_removed_with_the_run_or_stay_on_its_ledger() {
        let base = tempfile::tempdir().expect("a directory");
        let left = base.path().join("left");
        std::fs::create_dir(&left).expect("made");
        let options = Options { docker: Some("/nowhere.sock".to_owned()), ..Options::default() };
        let run = Run::begin(options, Capabilities::default()).expect("begun");
        run.will_make(&Made::Dir(left.clone())).expect("written");
        run.has_left_something();
        end(&run).await.expect("all gone");
        assert!(!left.exists() && !run.dir().exists());

        let options = Options { docker: Some("/nowhere.sock".to_owned()), ..Options::default() };
        let run = Run::begin(options, Capabilities::default()).expect("begun");
        run.will_make(&Made::Container("left".to_owned())).expect("written");
        run.has_left_something();
        let into_error = end(&run).await.expect_err("no engine").to_string();
        assert!(into_error.contains("Container(\"left\")") && into_error.contains("gc"), "{into_error}");
        assert!(run.dir().join(LEDGER_FILE).exists(), "the ledger must still exist");
        run.end().expect("ended");
    }
}
