//! Runs the driver, by default the image's CLI, with one process per execution, and carries lines to and from it. What the lines mean, the
//! server and the driver know.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nagaya_protocol::{AgentEvent, Ended, ExecuteRequest, How, WORKSPACE_DIR};
use tokio::io::AsyncRead;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use crate::buffer::Buffer;
use crate::claude_code::outputs::Outputs;
use crate::claude_code::repair;
use crate::claude_code::version::Cli;
use crate::execution::Execution;
use crate::memory;
use crate::output::{Lines, Tail};
use crate::process::{self, Awaited};

/// Time limit for the driver to exit after it has closed its output, or its input was closed.
const EXIT_DEADLINE: Duration = Duration::from_secs(10);
/// Time limit for reading the rest of the output after all processes of an execution have exited.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);
/// Interval at which it is checked whether a reader is connected.
const LISTENER_CHECK: Duration = Duration::from_secs(1);

/// `PATH` of the CLI and its tools. The image's programs come first, so that no program of the room's replaces one of them; those that
/// a run has installed for its user are found after them.
const SEARCH_PATH: &str = "/usr/local/bin:/usr/bin:/bin:/home/appuser/.local/bin";

/// Settings common to all executions.
#[derive(Debug)]
pub(crate) struct Driver {
    /// The CLI to start.
    pub(crate) cli: Cli,
    /// Address of the bridge to the egress proxy, for the proxy variables.
    pub(crate) bridge: SocketAddr,
    /// How long a turn continues without a connected reader.
    pub(crate) abandoned_after: Duration,
    /// Where outputs of tools that are too long are to be found by clients.
    pub(crate) outputs: Outputs,
}

impl Driver {
    /// Runs one execution and returns how it ended.
    pub(crate) async fn drive(&self, request: &ExecuteRequest, execution: &Execution) -> Ended {
        let cwd = Path::new(request.cwd.as_deref().unwrap_or(WORKSPACE_DIR));
        repair::before_an_execution(cwd);
        if !cwd.is_dir() {
            return ended(How::Refused, format!("the working directory {} does not exist", cwd.display()));
        }
        let program = request.program.as_ref().map_or(self.cli.program.as_path(), Path::new);
        // Not by its name alone: a run can put programs of its own into a directory of `PATH`.
        if !program.is_absolute() && request.program.is_some() {
            return ended(How::Refused, format!("{} is not the whole path of a program", program.display()));
        }
        if execution.write("", &request.input).is_err() {
            return ended(How::Refused, "the input is too long".into());
        }
        let (mut child, output) = match self.start(program, request, cwd) {
            Ok(started) => started,
            Err(error) => return not_started(program, &error),
        };
        let awaited = child.id().map(Awaited::new);
        if let Some(process) = child.id().and_then(|id| i32::try_from(id).ok()) {
            execution.runs_as(process);
        }
        execution.turn_begins();
        let mut ended = tokio::select! {
            ended = self.converse(&mut child, output, execution) => ended,
            () = execution.cancelled.cancelled() => ended(How::Cancelled, "cancelled".into()),
            () = self.abandoned(execution) => {
                ended(How::Cancelled, format!("no reader was connected for {:?}", self.abandoned_after))
            }
            why = told_to_exit(execution) => why,
        };
        drop(awaited);
        if execution.has_lost_processes() {
            ended.out_of_memory = Some(format!("{}; delete files, or ask for a new workspace", memory::used_up()));
        }
        ended
    }

    /// Waits until a turn has had no reader for too long.
    async fn abandoned(&self, execution: &Execution) {
        let mut check = tokio::time::interval(LISTENER_CHECK);
        while execution.is_parked() || execution.events.alone_for() < self.abandoned_after {
            check.tick().await;
        }
    }

    /// Starts the program; returns it with its standard output.
    ///
    /// The output is a socket: other processes of the room could open a pipe by its name in /proc and write a forged result into
    /// it, but a socket cannot be opened (proc_pid_fd(5)).
    fn start(&self, program: &Path, request: &ExecuteRequest, cwd: &Path) -> io::Result<(Child, UnixStream)> {
        let (output, end) = std::os::unix::net::UnixStream::pair()?;
        output.set_nonblocking(true)?;
        let output = UnixStream::from_std(output)?;
        let _first = memory::KilledFirst::begin();
        let child = self.command(program, request, cwd).stdout(Stdio::from(OwnedFd::from(end))).spawn()?;
        Ok((child, output))
    }

    fn command(&self, program: &Path, request: &ExecuteRequest, cwd: &Path) -> Command {
        let mut command = Command::new(program);
        command.args(&request.arguments);
        for (name, value) in &request.environment {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.env("PATH", SEARCH_PATH);
        let bridge = format!("http://{}", self.bridge);
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"] {
            command.env(name, &bridge);
        }
        command.current_dir(cwd);
        command.stdin(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    /// Carries the lines until the CLI has exited.
    async fn converse(&self, child: &mut Child, output: UnixStream, execution: &Execution) -> Ended {
        let (Some(stdin), Some(stderr)) = (child.stdin.take(), child.stderr.take()) else {
            return ended(How::Failed, "the CLI has no standard streams".into());
        };
        let mut tail = Tail::default();
        let listen = async { tokio::join!(self.listen(output, execution), tail.fill(stderr)) };
        let talk = async {
            tokio::select! {
                _ = listen => {}
                () = async { execution.input.write(stdin).await; std::future::pending().await } => {}
            }
        };
        let end = async {
            let status = child.wait().await;
            // Processes that it left running may hold its output open; they are killed in any case.
            clean_up().await;
            exited(status)
        };
        let mut ending = {
            tokio::pin!(talk, end);
            tokio::select! {
                () = &mut talk => {
                    let exited = tokio::time::timeout(EXIT_DEADLINE, end).await;
                    exited.unwrap_or_else(|_| ended(How::Unfinished, "it closed its output and did not exit".into()))
                }
                ending = &mut end => {
                    if tokio::time::timeout(DRAIN_DEADLINE, talk).await.is_err() {
                        tracing::warn!("the CLI's output is still open after all its processes have exited");
                    }
                    ending
                }
            }
        };
        ending.stderr = tail.text();
        ending
    }

    /// Reads the CLI's output to its end.
    async fn listen(&self, stdout: impl AsyncRead + Unpin, execution: &Execution) {
        let events: &Buffer = &execution.events;
        let mut lines = Lines::of(stdout);
        loop {
            match lines.next().await {
                Ok(Some(line)) => {
                    // The kernel counts a process before it kills it, so the line that tells of its end comes later.
                    if execution.loses_processes() {
                        events.write(&AgentEvent::OutOfMemory { message: memory::used_up() }).await;
                    }
                    let line = String::from_utf8_lossy(line).into_owned();
                    events.write(&AgentEvent::Frame(self.outputs.reachable(line))).await;
                }
                Ok(None) => return,
                Err(error) => return tracing::warn!(%error, "the CLI's output cannot be read"),
            }
        }
    }
}

fn not_started(program: &Path, error: &io::Error) -> Ended {
    let program = program.display();
    match error.kind() {
        io::ErrorKind::NotFound => ended(How::Missing, format!("{program} is not in the image")),
        // An option contains a NUL, or the arguments are too long (execve(2)).
        io::ErrorKind::InvalidInput | io::ErrorKind::ArgumentListTooLong => {
            ended(How::Refused, format!("{program} does not accept these options: {error}"))
        }
        _ => ended(How::Failed, format!("{program} cannot be started: {error}")),
    }
}

/// Waits until the CLI has been told to exit, because its input was closed, and has not done so in time. One that is parked for too long
/// is told so here.
async fn told_to_exit(execution: &Execution) -> Ended {
    tokio::select! {
        () = execution.parked_in_vain() => execution.input.close(),
        () = execution.input.closed() => {}
    }
    tokio::time::sleep(EXIT_DEADLINE).await;
    tracing::warn!("the CLI's input is closed, and it does not exit");
    ended(How::Unfinished, "it did not exit".into())
}

fn exited(status: io::Result<ExitStatus>) -> Ended {
    match status {
        Ok(status) if status.success() => ended(How::Exited, status.to_string()),
        Ok(status) => ended(How::Failed, status.to_string()),
        Err(error) => ended(How::Unfinished, format!("its exit status is unknown: {error}")),
    }
}

fn ended(how: How, message: String) -> Ended {
    Ended { how, message, stderr: String::new(), out_of_memory: None }
}

/// Kills the processes that an execution has left running.
pub(crate) async fn clean_up() {
    if let Err(error) = process::kill_descendants_except(None).await {
        tracing::error!(%error, "processes of an execution could not be killed");
    }
}
