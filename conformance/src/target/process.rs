//! Programs that the suite starts and stops.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::sync::Mutex;

use crate::description::settings::Settings;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check};
use crate::harness::pace::within;
use crate::harness::pending;
use crate::harness::run::Run;

/// Environment variable that marks every process of a run, so that `gc` finds those that a killed run left.
pub const RUN_MARK: &str = "NAGAYA_CONFORMANCE_RUN";

/// How long a program may take to stop at the end of a scenario, unless its description says otherwise.
const RETIRE_LIMIT: Duration = Duration::from_secs(25);

/// A program with its arguments and environment.
#[derive(Debug, Clone)]
pub struct Program {
    /// The executable.
    pub path: PathBuf,
    /// Arguments of the program.
    pub args: Vec<OsString>,
    /// Whole environment of the process, except [`RUN_MARK`] and what `settings` adds; settings have the contract's names.
    pub env: BTreeMap<String, String>,
    /// What the program calls the settings in `env`.
    pub settings: Settings,
    /// Working directory; `None` for that of the suite.
    pub dir: Option<PathBuf>,
}

impl Program {
    /// A program with arguments and an empty environment.
    pub fn new<A: Into<OsString>>(path: &Path, args: impl IntoIterator<Item = A>) -> Self {
        Self {
            path: path.to_owned(),
            args: args.into_iter().map(Into::into).collect(),
            env: BTreeMap::new(),
            settings: Settings::default(),
            dir: None,
        }
    }

    /// The same program with a limit of file descriptors.
    #[must_use]
    pub fn limited_to(self, descriptors: u32) -> Self {
        let script = format!("ulimit -n {descriptors} && exec \"$0\" \"$@\"");
        let mut args: Vec<OsString> = vec!["-c".into(), script.into(), self.path.into()];
        args.extend(self.args);
        Self { path: "/bin/sh".into(), args, ..self }
    }

    fn command(&self, run: &str) -> Command {
        let mut command = Command::new(&self.path);
        command.args(&self.args).env_clear().envs(self.settings.environment(&self.env)).env(RUN_MARK, run);
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        // A process group of its own: a SIGINT from the terminal must reach only the suite, which then stops everything in order.
        command.stdin(Stdio::null()).process_group(0).kill_on_drop(true);
        command
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// If the program cannot be started, or has not ended within `limit` and was killed.
    pub async fn output(&self, run: &str, limit: Duration) -> Result<std::process::Output, Failure> {
        let name = self.path.display();
        match within(limit, self.command(run).output()).await {
            Ok(output) => Ok(output.with_context(|| format!("cannot start {name}"))?),
            Err(_) => {
                Err(Failure::mismatch(format!("{name} {:?}", self.args), format!("an end within {limit:?}"), "none"))
            }
        }
    }

    /// Runs it to its end, even if the caller is cancelled: it makes the engine create `name`, and the engine completes that anyway.
    ///
    /// # Errors
    /// As [`Program::output`], or it was killed.
    pub async fn makes(self, run: &Run, name: &str, limit: Duration) -> Result<std::process::Output, Failure> {
        let of = run.id.clone();
        let to_its_end = async move {
            let output = self.output(&of, limit).await?;
            let killed = |signal| Failure::harness(format!("{} was ended by signal {signal}", self.path.display()));
            output.status.signal().map(killed).map_or(Ok(output), Err)
        };
        pending::complete(run.ledger(), name, to_its_end).await
    }
}

/// A running program; [`Process::printed`] returns its output.
#[derive(Debug, Clone)]
pub struct Process {
    name: String,
    pid: u32,
    log: PathBuf,
    stop_signal: Signal,
    stop_limit: Duration,
    child: Arc<Mutex<Child>>,
    /// A caller has waited for its end, so the end is expected.
    end_was_seen: Arc<AtomicBool>,
}

impl Process {
    /// Starts `program`; its output is appended to the file `log`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(program: &Program, run: &str, log: &Path) -> anyhow::Result<Self> {
        let name = program.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let out = File::options().create(true).append(true).open(log).with_context(|| log.display().to_string())?;
        let child = program
            .command(run)
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("cannot start {}", program.path.display()))?;
        let pid = child.id().context("the process ended at once")?;
        Ok(Self {
            name,
            pid,
            log: log.to_owned(),
            stop_signal: Signal::TERM,
            stop_limit: RETIRE_LIMIT,
            child: Arc::new(Mutex::new(child)),
            end_was_seen: Arc::default(),
        })
    }

    /// The same process, which stops on this signal and in this time.
    #[must_use]
    pub fn stopping(self, signal: Signal, limit: Duration) -> Self {
        Self { stop_signal: signal, stop_limit: limit, ..self }
    }

    /// Sends the signal that stops it.
    ///
    /// # Errors
    /// As [`Process::signal`].
    pub async fn ask_to_stop(&self) -> Result<(), Failure> {
        self.signal(self.stop_signal).await
    }

    /// The process id, which another process may get once this one has exited.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The output so far.
    #[must_use]
    pub fn printed(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The exit status, if the process has exited.
    pub async fn ended(&self) -> Option<ExitStatus> {
        self.child.lock().await.try_wait().ok().flatten()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If the process still runs after `limit`.
    pub async fn wait(&self, limit: Duration) -> Result<ExitStatus, Failure> {
        let mut child = self.child.lock().await;
        match within(limit, child.wait()).await {
            Ok(status) => {
                self.end_was_seen.store(true, Ordering::Relaxed);
                Ok(status?)
            }
            Err(_) => Err(Failure::mismatch(
                format!("{} (pid {})", self.name, self.pid),
                format!("an end within {limit:?}"),
                "it goes on",
            )),
        }
    }

    /// Sends a signal; does nothing if it has exited already.
    ///
    /// # Errors
    /// The signal cannot be sent.
    pub async fn signal(&self, signal: Signal) -> Result<(), Failure> {
        // The pid is not reused until the process has been waited for, and the lock prevents that meanwhile.
        let mut child = self.child.lock().await;
        if child.try_wait()?.is_some() {
            return Ok(());
        }
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| Failure::harness(format!("{} is not a process id", self.pid)))?;
        kill_process(pid, signal).map_err(|error| Failure::harness(format!("{signal:?} to {}: {error}", self.name)))
    }

    /// Sends the signal that stops it, usually SIGTERM, and SIGKILL after `limit`.
    ///
    /// # Errors
    /// If the process had to be killed.
    pub async fn stop(&self, limit: Duration) -> Result<ExitStatus, Failure> {
        self.ask_to_stop().await?;
        let stopped = self.wait(limit).await;
        if stopped.is_err() {
            self.kill().await?;
        }
        stopped.map_err(|failure| failure.during("after it was told to stop"))
    }

    /// Sends SIGKILL, and waits.
    ///
    /// # Errors
    /// If the process cannot be killed.
    pub async fn kill(&self) -> Result<(), Failure> {
        self.end_was_seen.store(true, Ordering::Relaxed);
        Ok(self.child.lock().await.kill().await?)
    }
}

impl Process {
    /// Ends the process at the end of a scenario: it must still run, unless the scenario itself has seen it exit, and must exit with
    /// status 0 on SIGTERM.
    ///
    /// # Errors
    /// If the process has exited early, does not exit, or exits with another status.
    pub async fn retire(&self) -> Result<(), Failure> {
        if self.end_was_seen.load(Ordering::Relaxed) {
            return Ok(());
        }
        if let Some(status) = self.ended().await {
            return Err(Failure::mismatch(
                "the process",
                "running until it is told to stop",
                format!("ended by itself, {status}"),
            ));
        }
        let status = self.stop(self.stop_limit).await?;
        check(status.success(), format!("told to stop, it ended with {status}"))
    }
}

/// A program that is stopped and restarted with its files.
#[derive(Debug, Clone)]
pub struct Restartable {
    program: Program,
    run: String,
    log: PathBuf,
    process: Arc<parking_lot::Mutex<Process>>,
}

impl Restartable {
    /// Starts it.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(program: Program, run: &str, log: PathBuf) -> anyhow::Result<Self> {
        let process = Arc::new(parking_lot::Mutex::new(Process::start(&program, run, &log)?));
        Ok(Self { program, run: run.to_owned(), log, process })
    }

    /// The process that was started last.
    #[must_use]
    pub fn process(&self) -> Process {
        self.process.lock().clone()
    }

    /// Starts it again; the previous process must have exited.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn restart(&self) -> anyhow::Result<()> {
        let process = Process::start(&self.program, &self.run, &self.log)?;
        *self.process.lock() = process;
        Ok(())
    }
}

/// The peak memory of a process in bytes (`VmHWM`, proc_pid_status(5)).
///
/// # Errors
/// If the process does not run.
pub fn peak_memory(pid: u32) -> Result<u64, Failure> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    line.map(|kib| kib << 10).ok_or_else(|| Failure::harness(format!("no VmHWM of process {pid}")))
}

impl Context {
    /// Registers a running server: it must exit when the scenario ends, and not before.
    pub fn register_server(&self, server: &Process) {
        let server = server.clone();
        self.resources.add(format!("server, pid {}", server.pid()), move || async move { server.retire().await });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::poll::eventually;

    async fn shell(line: &str, log: &Path) -> Process {
        let process = Process::start(&Program::new(Path::new("/bin/sh"), ["-c", line]), "test", log).expect("started");
        let ready = eventually(Duration::from_secs(5), "a first line", || {
            std::future::ready(if process.printed().contains('\n') { Ok(()) } else { Err(process.printed()) })
        });
        ready.await.expect("a first line");
        process
    }

    #[tokio::test]
    async fn retiring_tells_a_good_end_from_bad_ones() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = |name: &str| dir.path().join(name);
        let wait = "echo up; while :; do sleep 0.02; done";
        let good = shell(&format!("trap 'exit 0' TERM; {wait}"), &log("good")).await;
        good.retire().await.expect("a server that stops when told to");
        good.retire().await.expect("its end was seen");

        let bad = shell(&format!("trap 'exit 3' TERM; {wait}"), &log("bad")).await;
        assert!(bad.retire().await.expect_err("status 3").to_string().contains("exit status: 3"));

        let dead = shell("echo up", &log("dead")).await;
        let ended = eventually(Duration::from_secs(5), "its end", async || dead.ended().await.ok_or("running"));
        ended.await.expect("ended");
        assert!(dead.retire().await.expect_err("ended early").to_string().contains("by itself"));
    }

    #[tokio::test]
    async fn one_that_does_not_stop_is_killed() {
        let dir = tempfile::tempdir().expect("a directory");
        let deaf = shell("trap '' TERM; echo up; while :; do sleep 0.02; done", &dir.path().join("deaf")).await;
        assert!(deaf.stop(Duration::from_millis(100)).await.is_err());
        assert!(deaf.ended().await.is_some());
    }

    #[tokio::test]
    async fn a_command_that_hangs_is_ended() {
        let program = Program::new(Path::new("/bin/sleep"), ["60"]);
        assert!(program.output("test", Duration::from_millis(50)).await.is_err());
    }
}
