//! Drives the Claude Code CLI over its stream-json protocol, with one process per execution.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nagaya_protocol::{AgentEvent, ErrorKind, ExecuteRequest, WORKSPACE_DIR};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::buffer::Buffer;
use crate::mapping;
use crate::memory;
use crate::output::{Lines, Tail};
use crate::outputs::Outputs;
use crate::process::{self, Awaited};
use crate::repair;
use crate::usage::Counted;
use crate::version::Cli;

/// Time limit for the CLI to exit after it has printed its result.
const EXIT_DEADLINE: Duration = Duration::from_secs(10);
/// Time limit for reading the rest of the output after all processes of an execution have exited.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);
/// Interval at which it is checked whether a reader is connected.
const LISTENER_CHECK: Duration = Duration::from_secs(1);

/// Tools of the CLI that promise something for a time after the run, when no process of it is left.
const TOOLS_FOR_LATER: &str = "CronCreate,CronDelete,CronList,Monitor,PushNotification,RemoteTrigger,ScheduleWakeup";
/// What the CLI says when it does not find the session to continue, or no message in its file.
const SESSION_LOST: &str = "No conversation found with session ID";
/// How often the CLI may announce that it repeats a call whose credentials were refused. Not never: the egress proxy fetches
/// credentials anew after a refusal, so the first repetition may succeed.
const REFUSALS: u32 = 1;

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
    /// How long an execution continues without a connected reader.
    pub(crate) abandoned_after: Duration,
    /// Where outputs of tools that are too long are to be found by clients.
    pub(crate) outputs: Outputs,
}

impl Driver {
    /// Runs one execution and returns its last event without writing it: the caller writes it once all processes of the execution have
    /// exited.
    pub(crate) async fn drive(
        &self,
        request: &ExecuteRequest,
        events: &Buffer,
        cancel: &CancellationToken,
    ) -> AgentEvent {
        let cwd = Path::new(request.cwd.as_deref().unwrap_or(WORKSPACE_DIR));
        repair::before_an_execution(cwd);
        if !cwd.is_dir() {
            return refused(format!("the working directory {} does not exist", cwd.display()));
        }
        let (mut child, output) = match self.start(request, cwd) {
            Ok(started) => started,
            Err(error) => return self.not_started(&error),
        };
        let awaited = child.id().map(Awaited::new);
        let killed_before = memory::kills();
        let ending = tokio::select! {
            ending = self.converse(&mut child, output, request, events) => ending,
            () = cancel.cancelled() => cancelled("cancelled".into()),
            () = self.abandoned(events) => cancelled(format!("no reader was connected for {:?}", self.abandoned_after)),
        };
        drop(awaited);
        match ending {
            AgentEvent::Error { error_type: ErrorKind::ExecutionError, message } if memory::kills() > killed_before => {
                AgentEvent::Error {
                    error_type: ErrorKind::OutOfMemory,
                    message: format!("{} ({message})", memory::used_up()),
                }
            }
            ending => ending,
        }
    }

    async fn abandoned(&self, events: &Buffer) {
        let mut check = tokio::time::interval(LISTENER_CHECK);
        while events.alone_for() < self.abandoned_after {
            check.tick().await;
        }
    }

    fn not_started(&self, error: &io::Error) -> AgentEvent {
        let program = self.cli.program.display();
        match error.kind() {
            io::ErrorKind::NotFound => AgentEvent::Error {
                error_type: ErrorKind::SdkNotInstalled,
                message: format!("{program} is not in the image"),
            },
            // An option contains a NUL, or the arguments are too long (execve(2)).
            io::ErrorKind::InvalidInput | io::ErrorKind::ArgumentListTooLong => {
                refused(format!("{program} does not accept these options: {error}"))
            }
            _ => failed(format!("{program} cannot be started: {error}")),
        }
    }

    /// Starts the CLI; returns it with its standard output.
    ///
    /// The output is a socket: other processes of the room could open a pipe by its name in /proc and write a forged result into
    /// it, but a socket cannot be opened (proc_pid_fd(5)).
    fn start(&self, request: &ExecuteRequest, cwd: &Path) -> io::Result<(Child, UnixStream)> {
        let (output, end) = std::os::unix::net::UnixStream::pair()?;
        output.set_nonblocking(true)?;
        let output = UnixStream::from_std(output)?;
        let _first = memory::KilledFirst::begin();
        let child = self.command(request, cwd).stdout(Stdio::from(OwnedFd::from(end))).spawn()?;
        Ok((child, output))
    }

    /// The command without the prompt, which is written to standard input as [`prompt`] gives it.
    fn command(&self, request: &ExecuteRequest, cwd: &Path) -> Command {
        let mut command = Command::new(&self.cli.program);
        command.args(["-p", "--input-format", "stream-json", "--output-format", "stream-json"]);
        command.args(["--verbose", "--include-partial-messages"]);
        // The container is the sandbox, and no user is present to grant permissions.
        command.args(["--permission-mode", "bypassPermissions"]);
        // Nothing that an earlier run left in the room's files changes the driver: no settings with hooks or plugins, no MCP servers.
        command.args(["--setting-sources=", "--strict-mcp-config"]);
        command.arg(format!("--disallowedTools={TOOLS_FOR_LATER}"));
        for (name, value) in &request.environment {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.env("PATH", SEARCH_PATH);
        let mut option = |name: &str, value: Option<&str>| {
            if let Some(value) = value {
                // Name and value in one argument, so that a value that begins with a dash is not parsed as an option.
                command.arg(format!("{name}={value}"));
            }
        };
        option("--model", request.model.as_deref());
        option("--resume", request.session_id.as_deref());
        option("--append-system-prompt", request.system_prompt.as_deref().filter(|prompt| !prompt.is_empty()));
        option("--max-turns", request.max_turns.map(|turns| turns.to_string()).as_deref());
        // Not --allowedTools, which only lists tools that need no permission; in this mode none does.
        option("--tools", request.allowed_tools.as_ref().map(|tools| tools.join(",")).as_deref());
        let bridge = format!("http://{}", self.bridge);
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"] {
            command.env(name, &bridge);
        }
        command.current_dir(cwd);
        command.stdin(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    /// Writes the prompt to the CLI and the CLI's events to `events`; returns the last event.
    async fn converse(
        &self,
        child: &mut Child,
        output: UnixStream,
        request: &ExecuteRequest,
        events: &Buffer,
    ) -> AgentEvent {
        let (Some(mut stdin), Some(stderr)) = (child.stdin.take(), child.stderr.take()) else {
            return failed("the CLI has no standard streams".into());
        };
        let prompt = async move {
            // A CLI that exits without reading the prompt reports the reason in its output.
            if let Err(error) = stdin.write_all(prompt(&request.user_input).as_bytes()).await {
                tracing::warn!(%error, "the CLI did not read the whole prompt");
            }
            drop(stdin);
        };
        let mut tail = Tail::default();
        let mut result = None;
        let (refusal_sender, mut refusal) = watch::channel(());
        let (result_sender, result_seen) = watch::channel(());
        let talk = async {
            tokio::join!(
                self.listen(output, events, &mut result, (result_sender, refusal_sender)),
                prompt,
                tail.fill(stderr)
            );
        };
        let end = async {
            let exit = exit(child, result_seen).await;
            // Processes that it left running may hold its output open; they are killed in any case.
            clean_up().await;
            exit
        };
        let both = async {
            tokio::pin!(talk, end);
            tokio::select! {
                () = &mut talk => {
                    let ended = tokio::time::timeout(EXIT_DEADLINE, end).await;
                    ended.unwrap_or_else(|_| Exit::Unfinished("it closed its output and did not exit".into()))
                }
                exit = &mut end => {
                    if tokio::time::timeout(DRAIN_DEADLINE, talk).await.is_err() {
                        tracing::warn!("the CLI's output is still open after all its processes have exited");
                    }
                    exit
                }
            }
        };
        let exit = tokio::select! {
            exit = both => exit,
            // The sender is gone once the output has ended; then the other branch completes.
            true = async { refusal.changed().await.is_ok() } => return credentials_refused(),
        };
        conclude(result, &exit, &tail.text())
    }

    /// Reads the CLI's output to its end; signals when the result has been read, and when the credentials were refused too often.
    async fn listen(
        &self,
        stdout: impl AsyncRead + Unpin,
        events: &Buffer,
        result: &mut Option<AgentEvent>,
        (result_sender, refusal_sender): (watch::Sender<()>, watch::Sender<()>),
    ) {
        let (mut counted, mut refusals) = (Counted::default(), 0);
        let mut lines = Lines::of(stdout);
        loop {
            match lines.next().await {
                Ok(Some(line)) => {
                    for event in mapping::map(line, &mut counted) {
                        if matches!(event, AgentEvent::Retry { status: Some(401 | 403), .. }) {
                            refusals += 1;
                            if refusals > REFUSALS {
                                refusal_sender.send_replace(());
                                continue;
                            }
                        }
                        if event.is_last() {
                            *result = Some(event);
                            result_sender.send_replace(());
                        } else {
                            events.write(&self.outputs.reachable(event)).await;
                        }
                    }
                }
                Ok(None) => return,
                Err(error) => return tracing::warn!(%error, "the CLI's output cannot be read"),
            }
        }
    }
}

/// The user's message as a line of the CLI's input. `client_composed` makes it plain text: without it, `/clear` and the like are
/// carried out as commands, and `@path` is replaced by the content of a file.
fn prompt(user_input: &str) -> String {
    let content = json!([{"type": "text", "text": user_input}]);
    let message = json!({"type": "user", "message": {"role": "user", "content": content}, "parent_tool_use_id": null,
        "session_id": "", "client_composed": true});
    format!("{message}\n")
}

fn refused(message: String) -> AgentEvent {
    AgentEvent::Error { error_type: ErrorKind::OptionsError, message }
}

fn failed(message: String) -> AgentEvent {
    AgentEvent::Error { error_type: ErrorKind::ExecutionError, message }
}

fn credentials_refused() -> AgentEvent {
    let message = "the model's endpoint refuses the credentials; the call was repeated once".into();
    AgentEvent::Error { error_type: ErrorKind::ModelCredentials, message }
}

/// How the CLI ended.
#[derive(Debug, PartialEq, Eq)]
enum Exit {
    /// It exited with status 0.
    Orderly,
    /// It was killed, or exited with another status; the text describes it.
    Failed(String),
    /// It did not exit by itself, or it is not known how; the text describes it.
    Unfinished(String),
}

/// The last event. The CLI's result alone does not say how the execution ended: a CLI that reports success and is then killed, or
/// exits with an error, has not succeeded.
fn conclude(result: Option<AgentEvent>, exit: &Exit, stderr: &str) -> AgentEvent {
    match (result, exit) {
        (Some(AgentEvent::Result { is_error: true, result, .. }), _) if result.starts_with(SESSION_LOST) => {
            AgentEvent::Error { error_type: ErrorKind::SessionLost, message: result }
        }
        (Some(AgentEvent::Result { is_error: false, .. }), Exit::Failed(how)) => {
            failed(format!("the CLI reported success and then ended with an error ({how}): {}", told(stderr)))
        }
        (Some(result), _) => result,
        (None, Exit::Orderly) => without_result("exit status: 0", stderr),
        (None, Exit::Failed(how) | Exit::Unfinished(how)) => without_result(how, stderr),
    }
}

fn cancelled(message: String) -> AgentEvent {
    AgentEvent::Error { error_type: ErrorKind::Cancelled, message }
}

/// Waits for the CLI to exit, with a time limit once it has printed its result.
async fn exit(child: &mut Child, mut result_seen: watch::Receiver<()>) -> Exit {
    let overdue = async {
        match result_seen.changed().await {
            Ok(()) => tokio::time::sleep(EXIT_DEADLINE).await,
            // Its output ended without a result, so there is no limit.
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        status = child.wait() => match status {
            Ok(status) if status.success() => Exit::Orderly,
            Ok(status) => Exit::Failed(status.to_string()),
            Err(error) => Exit::Unfinished(format!("its exit status is unknown: {error}")),
        },
        () = overdue => {
            tracing::warn!("the CLI has printed its result and does not exit");
            Exit::Unfinished("it did not exit".into())
        }
    }
}

fn without_result(status: &str, stderr: &str) -> AgentEvent {
    let stderr = stderr.trim();
    // The CLI's argument parser begins its messages like this.
    if stderr.starts_with("error: ") {
        return refused(stderr.to_owned());
    }
    failed(format!("the CLI exited without a result ({status}): {}", told(stderr)))
}

/// The end of standard error, or that there is none.
fn told(stderr: &str) -> &str {
    match stderr.trim() {
        "" => "nothing on standard error",
        text => text,
    }
}

/// Kills the processes that an execution has left running.
pub(crate) async fn clean_up() {
    if let Err(error) = process::kill_descendants().await {
        tracing::error!(%error, "processes of an execution could not be killed");
    }
}
