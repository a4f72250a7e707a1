//! A run that is broken off while it has rooms: told to end, it leaves nothing; killed, it leaves nothing that `gc` does not find.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::fixture::{kill, suite, told};

/// How long a room may take to be there, and a broken-off run to end.
const LIMIT: Duration = Duration::from_secs(60);

fn wait(what: &str, mut until: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !until() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The id of the one run below `dir`, and that run's directory.
fn the_run(dir: &Path) -> Option<(String, PathBuf)> {
    let runs = dir.join(format!("nagaya-conformance-{}", rustix::process::getuid().as_raw()));
    let path = std::fs::read_dir(runs).ok()?.flatten().next()?.path();
    Some((path.file_name()?.to_str()?.to_owned(), path))
}

/// All containers of a run, whatever their state, with their names.
fn containers(run: &str) -> Vec<String> {
    let output = Command::new("docker")
        .args(["ps", "--all", "--format", "{{.Names}} {{.Label \"nagaya.deployment\"}}"])
        .output()
        .expect("docker");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mark = format!("conf-{run}-");
    String::from_utf8_lossy(&output.stdout).lines().filter(|line| line.contains(&mark)).map(str::to_owned).collect()
}

/// Directories for sockets that a run has made.
fn socket_dirs(run: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir("/tmp").expect("/tmp").flatten().map(|entry| entry.path());
    entries.filter(|path| path.display().to_string().starts_with(&format!("/tmp/ng-{run}-"))).collect()
}

/// Processes that carry a run's mark.
fn processes(run: &str) -> Vec<String> {
    let mark = format!("NAGAYA_CONFORMANCE_RUN={run}");
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    let marked = |environment: Vec<u8>| environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes());
    let names = entries.filter(|entry| std::fs::read(entry.path().join("environ")).is_ok_and(marked));
    names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// A run in the middle of a scenario that has a room.
struct Running {
    child: Child,
    dir: tempfile::TempDir,
    run: String,
}

fn running() -> Running {
    let dir = tempfile::tempdir().expect("a directory");
    let log = File::create(dir.path().join("log")).expect("made");
    let mut command = suite(["run", "--filter", "id(=LIFE-002)"]);
    let child = command.env("TMPDIR", dir.path()).stderr(log).spawn().expect("started");
    let mut run = String::new();
    wait("a room of the run", || {
        run = the_run(dir.path()).map(|(run, _)| run).unwrap_or_default();
        !run.is_empty() && !containers(&run).is_empty()
    });
    assert!(!socket_dirs(&run).is_empty() && !processes(&run).is_empty(), "nothing is there that could be left");
    Running { child, dir, run }
}

impl Running {
    fn assert_nothing_left(&self, after: &str) {
        assert_eq!(containers(&self.run), Vec::<String>::new(), "containers after {after}");
        assert_eq!(socket_dirs(&self.run), Vec::<PathBuf>::new(), "directories after {after}");
        assert_eq!(processes(&self.run), Vec::<String>::new(), "processes after {after}");
        assert!(the_run(self.dir.path()).is_none(), "its own directory after {after}");
    }
}

#[test]
fn one_that_is_told_to_end_leaves_nothing() {
    let mut it = running();
    kill(&it.child, Signal::INT);
    let status = it.child.wait().expect("ended");
    let text = std::fs::read_to_string(it.dir.path().join("log")).expect("a log");
    assert_eq!(status.code(), Some(2), "{text}");
    it.assert_nothing_left("SIGINT");
}

#[test]
fn one_that_is_killed_leaves_nothing_that_gc_does_not_find() {
    let mut it = running();
    kill(&it.child, Signal::KILL);
    it.child.wait().expect("ended");
    assert!(!containers(&it.run).is_empty(), "nothing was left to collect");
    let (status, text) = told(&suite(["gc"]).env("TMPDIR", it.dir.path()).output().expect("started"));
    assert_eq!(status, 0, "{text}");
    it.assert_nothing_left("gc");
}
