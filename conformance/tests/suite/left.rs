//! A run that ends while it has workspaces: interrupted, it leaves nothing; killed, it leaves nothing that `gc` does not find.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use rustix::process::Signal;

use crate::fixture::{kill, status_and_output, suite, wait};
use crate::slow_engine::SlowEngine;

/// The id and the directory of the only run below `dir`.
fn the_run(dir: &Path) -> Option<(String, PathBuf)> {
    let runs = dir.join(format!("nagaya-conformance-{}", rustix::process::getuid().as_raw()));
    let path = std::fs::read_dir(runs).ok()?.flatten().next()?.path();
    Some((path.file_name()?.to_str()?.to_owned(), path))
}

/// Lines of a list of the engine that name a run.
fn listed(run: &str, list: &[&str]) -> Vec<String> {
    let output = Command::new("docker").args(list).output().expect("docker");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mark = format!("conf-{run}-");
    String::from_utf8_lossy(&output.stdout).lines().filter(|line| line.contains(&mark)).map(str::to_owned).collect()
}

/// All containers of a run, in any state, with their names.
fn containers(run: &str) -> Vec<String> {
    listed(run, &["ps", "--all", "--format", "{{.Names}} {{.Label \"nagaya.deployment\"}}"])
}

/// The tags of a run's images.
fn images(run: &str) -> Vec<String> {
    listed(run, &["images", "--format", "{{.Repository}}:{{.Tag}}"])
}

/// Socket directories of a run.
fn socket_dirs(run: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir("/tmp").expect("/tmp").flatten().map(|entry| entry.path());
    entries.filter(|path| path.display().to_string().starts_with(&format!("/tmp/ng-{run}-"))).collect()
}

/// Processes that carry a run's mark.
pub fn processes(run: &str) -> Vec<String> {
    let mark = format!("NAGAYA_CONFORMANCE_RUN={run}");
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    let marked = |environment: Vec<u8>| environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes());
    let names = entries.filter(|entry| std::fs::read(entry.path().join("environ")).is_ok_and(marked));
    names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// A run in the middle of a scenario that has a workspace.
struct Running {
    child: Child,
    dir: tempfile::TempDir,
    run: String,
}

fn begin(scenario: &str, more: &[&str]) -> Running {
    let dir = tempfile::tempdir().expect("a directory");
    let log = File::create(dir.path().join("log")).expect("made");
    let filter = format!("id(={scenario})");
    let mut command = suite(["run", "--filter", &filter].into_iter().chain(more.iter().copied()));
    let child = command.env("TMPDIR", dir.path()).stderr(log).spawn().expect("started");
    let mut run = String::new();
    wait("a run", || {
        run = the_run(dir.path()).map(|(run, _)| run).filter(|run| !run.starts_with('.')).unwrap_or_default();
        !run.is_empty()
    });
    Running { child, dir, run }
}

fn running() -> Running {
    let it = begin("LIFE-002", &[]);
    wait("a room of the run", || !containers(&it.run).is_empty());
    assert!(!socket_dirs(&it.run).is_empty() && !processes(&it.run).is_empty(), "nothing is there that could be left");
    it
}

impl Running {
    fn assert_nothing_left(&self, after: &str) {
        assert_eq!(images(&self.run), Vec::<String>::new(), "images after {after}");
        assert_eq!(containers(&self.run), Vec::<String>::new(), "containers after {after}");
        assert_eq!(socket_dirs(&self.run), Vec::<PathBuf>::new(), "directories after {after}");
        assert_eq!(processes(&self.run), Vec::<String>::new(), "processes after {after}");
        assert!(the_run(self.dir.path()).is_none(), "its own directory after {after}");
    }

    /// Interrupts it, and waits until it has cleaned up.
    fn interrupt(&mut self) {
        kill(&self.child, Signal::INT);
        let status = self.child.wait().expect("ended");
        let text = std::fs::read_to_string(self.dir.path().join("log")).expect("a log");
        assert_eq!(status.code(), Some(2), "{text}");
    }

    /// Kills it, so that it cannot clean up.
    fn kill(&mut self) {
        kill(&self.child, Signal::KILL);
        self.child.wait().expect("ended");
    }

    /// Runs `gc` for what it left behind.
    fn collect(&self) {
        let (status, text) =
            status_and_output(&suite(["gc"]).env("TMPDIR", self.dir.path()).output().expect("started"));
        assert_eq!(status, 0, "{text}");
    }
}

#[test]
fn an_interrupted_run_leaves_nothing() {
    let mut it = running();
    it.interrupt();
    it.assert_nothing_left("SIGINT");
}

#[test]
fn gc_finds_everything_that_a_killed_run_left() {
    let mut it = running();
    it.kill();
    assert!(!containers(&it.run).is_empty(), "nothing was left to collect");
    it.collect();
    it.assert_nothing_left("gc");
}

/// How long a request to the engine is delayed.
const KEPT: Duration = Duration::from_secs(4);

/// Ends a run, by an interrupt and by a kill, while a request of its own or of its server's that makes something is in progress.
fn broken_off_during(scenario: &str, request: &'static str, kept: Duration) {
    for after in ["SIGINT", "gc"] {
        let dir = tempfile::tempdir().expect("a directory");
        let engine = SlowEngine::start(dir.path(), request, kept);
        let mut it = begin(scenario, &["--docker", engine.socket.to_str().expect("a path")]);
        wait("a request that is kept", || engine.kept() > 0);
        if after == "SIGINT" {
            it.interrupt();
        } else {
            it.kill();
            it.collect();
        }
        let kept = engine.kept();
        assert_eq!(engine.end(), kept, "requests answered of those kept");
        it.assert_nothing_left(after);
    }
}

#[test]
fn an_image_in_the_making_is_not_left_behind() {
    // Forwarded at once: the base must still exist, and a commit is slow enough.
    broken_off_during("BUG-10-EXIT", "/commit?", Duration::ZERO);
}

#[test]
fn a_container_in_the_making_is_not_left_behind() {
    broken_off_during("BUG-10-EXIT", "/containers/create?name=conf-", KEPT);
}

#[test]
fn gc_waits_for_a_workspace_that_a_killed_server_had_requested() {
    let dir = tempfile::tempdir().expect("a directory");
    // The leftovers of a run that is killed with its server after that has created a workspace's directory and requested its container.
    let run = format!("{:08x}", std::process::id());
    let own = dir.path().join(format!("nagaya-conformance-{}/{run}", rustix::process::getuid().as_raw()));
    let (deployment, sockets) = (format!("conf-{run}-d-1"), PathBuf::from(format!("/tmp/ng-{run}-2")));
    let room = sockets.join("a-workspace");
    std::fs::create_dir_all(&own).expect("made");
    std::fs::create_dir_all(&room).expect("made");
    std::fs::write(own.join("owner"), "").expect("written");
    let ledger = format!("deployment {deployment}\ndir {}\n", sockets.display());
    std::fs::write(own.join("ledger"), ledger).expect("written");

    let log = dir.path().join("log");
    let mut command = suite(["gc"]);
    let mut gc = command.env("TMPDIR", dir.path()).stderr(File::create(&log).expect("made")).spawn().expect("started");
    let log_text = || std::fs::read_to_string(&log).expect("readable");
    wait("a message about the wait", || log_text().contains("may still be making a workspace"));
    let name = format!("conf-{run}-late");
    let create = Command::new("docker")
        .args(["create", "--network=none", &format!("--name={name}")])
        .arg(format!("--label=nagaya.deployment={deployment}"))
        .arg("--label=nagaya.workspace=a-workspace")
        .arg(format!("--volume={}:/var/run/ws", room.display()))
        .args(["workspace-base:latest", "true"])
        .output()
        .expect("docker");
    assert!(create.status.success(), "{}", String::from_utf8_lossy(&create.stderr));
    let status = gc.wait().expect("ended");
    assert_eq!(status.code(), Some(0), "{}", log_text());
    Running { child: gc, dir, run }.assert_nothing_left("gc");
}
