//! Drives the Claude Code CLI: one process per execution, spoken to over its stream-json protocol.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nagaya_protocol::{AgentEvent, ErrorKind, ExecuteRequest, WORKSPACE_DIR};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::buffer::Buffer;
use crate::mapping;
use crate::process::{self, Awaited};
use crate::version::Cli;

/// Longest line of the CLI that is read, in bytes; the rest of a longer one is skipped with it.
const LONGEST_LINE: usize = 32 * 1024 * 1024;
/// How much of the end of the CLI's standard error is told.
const STDERR_TAIL: usize = 8 * 1024;
/// How long the CLI may take to end after it has said its result.
const EXIT_DEADLINE: Duration = Duration::from_secs(10);
/// How long, once nothing of an execution runs, its output may take to be read.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);
/// How often it is looked whether anybody still listens.
const LISTENER_CHECK: Duration = Duration::from_secs(1);

/// What is the same for every execution in this room.
#[derive(Debug)]
pub(crate) struct Driver {
    /// What is driven.
    pub(crate) cli: Cli,
    /// The way out, for whatever looks at proxy variables.
    pub(crate) bridge: SocketAddr,
    /// How long an execution goes on while nobody listens.
    pub(crate) abandoned_after: Duration,
}

impl Driver {
    /// Runs one execution to its last event, which is returned and not yet written: it is for whoever has made sure that
    /// nothing of the execution runs any more.
    pub(crate) async fn drive(
        &self,
        request: &ExecuteRequest,
        events: &Buffer,
        cancel: &CancellationToken,
    ) -> AgentEvent {
        let cwd = Path::new(request.cwd.as_deref().unwrap_or(WORKSPACE_DIR));
        if !cwd.is_dir() {
            return refused(format!("the working directory {} is not there", cwd.display()));
        }
        let mut child = match self.command(request, cwd).spawn() {
            Ok(child) => child,
            Err(error) => return self.not_started(&error),
        };
        let awaited = child.id().map(Awaited::new);
        let ending = tokio::select! {
            ending = converse(&mut child, request, events) => ending,
            () = cancel.cancelled() => cancelled("cancelled".into()),
            () = self.abandoned(events) => cancelled(format!("nobody listened for {:?}", self.abandoned_after)),
        };
        drop(awaited);
        ending
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
            // An option holds a NUL, or more than a program can be given (execve(2)).
            io::ErrorKind::InvalidInput | io::ErrorKind::ArgumentListTooLong => {
                refused(format!("{program} cannot be given these options: {error}"))
            }
            _ => failed(format!("{program} does not start: {error}")),
        }
    }

    /// The prompt goes in over standard input: it may be long, and may begin with a dash.
    fn command(&self, request: &ExecuteRequest, cwd: &Path) -> Command {
        let mut command = Command::new(&self.cli.program);
        command.args(["-p", "--output-format", "stream-json", "--verbose", "--include-partial-messages"]);
        // The room is the sandbox: nobody is there to ask for permission.
        command.args(["--permission-mode", "bypassPermissions"]);
        let mut option = |name: &str, value: Option<&str>| {
            if let Some(value) = value {
                // As one word, so that a value that begins with a dash stays a value.
                command.arg(format!("{name}={value}"));
            }
        };
        option("--model", request.model.as_deref());
        option("--resume", request.session_id.as_deref());
        option("--append-system-prompt", request.system_prompt.as_deref().filter(|prompt| !prompt.is_empty()));
        option("--max-turns", request.max_turns.map(|turns| turns.to_string()).as_deref());
        // Not --allowedTools, which only says what needs no permission: here nothing does.
        option("--tools", request.allowed_tools.as_ref().map(|tools| tools.join(",")).as_deref());
        if let Some(region) = &request.region {
            command.env("AWS_REGION", region);
            command.env("ANTHROPIC_BEDROCK_BASE_URL", format!("http://bedrock-runtime.{region}.amazonaws.com"));
        }
        let bridge = format!("http://{}", self.bridge);
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"] {
            command.env(name, &bridge);
        }
        command.current_dir(cwd);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }
}

fn refused(message: String) -> AgentEvent {
    AgentEvent::Error { error_type: ErrorKind::OptionsError, message }
}

fn failed(message: String) -> AgentEvent {
    AgentEvent::Error { error_type: ErrorKind::ExecutionError, message }
}

/// Hands the prompt over, writes the events the CLI tells, and returns the last.
async fn converse(child: &mut Child, request: &ExecuteRequest, events: &Buffer) -> AgentEvent {
    let (Some(mut stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return failed("the CLI has no standard streams".into());
    };
    let prompt = async move {
        // A CLI that ends without reading tells why by other means.
        if let Err(error) = stdin.write_all(request.user_input.as_bytes()).await {
            tracing::warn!(%error, "prompt not taken");
        }
        drop(stdin);
    };
    let mut tail = Tail::default();
    let mut result = None;
    let (told, heard) = watch::channel(());
    let talk = async {
        tokio::join!(listen(stdout, events, &mut result, told), prompt, tail.fill(stderr));
    };
    let end = async {
        let exit = exit(child, heard).await;
        // What it left running may hold its output open, and goes with it in any case.
        clean_up().await;
        exit
    };
    let both = async {
        tokio::pin!(talk, end);
        tokio::select! {
            () = &mut talk => {
                let ended = tokio::time::timeout(EXIT_DEADLINE, end).await;
                ended.unwrap_or_else(|_| "it closed its output and did not end".into())
            }
            exit = &mut end => {
                if tokio::time::timeout(DRAIN_DEADLINE, talk).await.is_err() {
                    tracing::warn!("the CLI's output stays open");
                }
                exit
            }
        }
    };
    let exit = both.await;
    result.unwrap_or_else(|| without_result(&exit, &tail.text()))
}

fn cancelled(message: String) -> AgentEvent {
    AgentEvent::Error { error_type: ErrorKind::Cancelled, message }
}

/// Waits for the CLI to end, but not for long once it has told its result; how it ended, in words.
async fn exit(child: &mut Child, mut heard: watch::Receiver<()>) -> String {
    let overdue = async {
        match heard.changed().await {
            Ok(()) => tokio::time::sleep(EXIT_DEADLINE).await,
            // It told none, so it may take as long as it likes.
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        status = child.wait() => match status {
            Ok(status) => status.to_string(),
            Err(error) => format!("its end is not known: {error}"),
        },
        () = overdue => {
            tracing::warn!("the CLI has told its result and does not end");
            "it did not end".into()
        }
    }
}

fn without_result(status: &str, stderr: &str) -> AgentEvent {
    let stderr = stderr.trim();
    // How the CLI's argument parser begins what it says.
    if stderr.starts_with("error: ") {
        return refused(stderr.to_owned());
    }
    let said = if stderr.is_empty() { "it said nothing on standard error".to_owned() } else { stderr.to_owned() };
    failed(format!("the CLI ended without a result ({status}): {said}"))
}

/// Reads what the CLI says until it closes its output; tells when its result was heard.
async fn listen(
    stdout: impl AsyncRead + Unpin,
    events: &Buffer,
    result: &mut Option<AgentEvent>,
    told: watch::Sender<()>,
) {
    let mut lines = Lines { reader: BufReader::with_capacity(64 * 1024, stdout), line: Vec::new() };
    loop {
        match lines.next().await {
            Ok(Some(line)) => {
                for event in mapping::map(line) {
                    if event.is_last() {
                        *result = Some(event);
                        told.send_replace(());
                    } else {
                        events.write(&event).await;
                    }
                }
            }
            Ok(None) => return,
            Err(error) => return tracing::warn!(%error, "the CLI's output broke"),
        }
    }
}

/// Lines of bounded length.
struct Lines<R> {
    reader: BufReader<R>,
    line: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    /// The next line that is not too long and not empty.
    async fn next(&mut self) -> io::Result<Option<&[u8]>> {
        loop {
            self.line.clear();
            let mut skipped = 0;
            let ended = loop {
                let chunk = self.reader.fill_buf().await?;
                if chunk.is_empty() {
                    break true;
                }
                let end = chunk.iter().position(|byte| *byte == b'\n');
                let part = &chunk[..end.unwrap_or(chunk.len())];
                if self.line.len() + part.len() > LONGEST_LINE {
                    skipped += part.len();
                } else {
                    self.line.extend_from_slice(part);
                }
                let used = part.len() + usize::from(end.is_some());
                self.reader.consume(used);
                if end.is_some() {
                    break false;
                }
            };
            if skipped > 0 {
                tracing::warn!(bytes = self.line.len() + skipped, "skipped a line that is too long");
            } else if !self.line.is_empty() {
                break;
            }
            if ended {
                return Ok(None);
            }
        }
        Ok(Some(&self.line))
    }
}

/// The end of a stream.
#[derive(Debug, Default)]
struct Tail(Vec<u8>);

impl Tail {
    async fn fill(&mut self, mut stream: impl AsyncRead + Unpin) {
        let mut chunk = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut chunk).await {
            self.0.extend_from_slice(&chunk[..count]);
            let beyond = self.0.len().saturating_sub(STDERR_TAIL);
            self.0.drain(..beyond);
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }
}

/// Ends whatever an execution left running.
pub(crate) async fn clean_up() {
    if let Err(error) = process::kill_descendants().await {
        tracing::error!(%error, "processes of an execution go on");
    }
}
