//! The CLI at its own standard input and output, in a container of the same image and limits, started as the server starts it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nagaya_driver::{Driver, Kind, Options, Permissions, Prompt};
use serde_json::Value;

/// Time limit for a line.
const DEADLINE: Duration = Duration::from_secs(30);
/// Number of the next container.
static NUMBER: AtomicUsize = AtomicUsize::new(0);
/// The model's name.
const MODEL: &str = "bench";

/// A running CLI.
pub(crate) struct Cli {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<(Instant, String)>,
    driver: Arc<dyn Driver>,
    options: Options,
    /// Name of its container.
    name: String,
}

impl Cli {
    /// Starts one that asks the model at this address, as the server starts a driver.
    pub(crate) fn start(model: std::net::SocketAddr, permissions: Permissions) -> Result<Self> {
        let options = Options {
            model: MODEL.into(),
            system_prompt: "Write files that are meant for the user to /workspace/outputs.".into(),
            permissions,
            ..Options::default()
        };
        let driver = Kind::ClaudeCode.driver();
        let request = driver.start(&driver.fixed(&options));
        let name = format!("nagaya-bench-cli-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let image = std::env::var("CONTAINER_IMAGE").unwrap_or_else(|_| "workspace-base:latest".into());
        let mut command = Command::new("docker");
        command.args(["run", "-i", "--rm", "--network=host", "--cpus=2", "--memory=2g", "--user=50000:50000"]);
        command.args(["--tmpfs=/workspace:rw,exec,mode=0777", "--tmpfs=/home/appuser:rw,exec,mode=0777"]);
        command.args([format!("--name={name}"), format!("--env=ANTHROPIC_BASE_URL=http://{model}")]);
        for variable in [
            "HOME=/home/appuser",
            "ANTHROPIC_AUTH_TOKEN=none",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1",
            "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS=1",
            "DISABLE_AUTOUPDATER=1",
        ] {
            command.arg("--env").arg(variable);
        }
        let mut child = command
            .args(["--workdir=/workspace", "--entrypoint=claude", &image])
            .args(&request.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("docker does not start")?;
        let stdin = child.stdin.take().context("no input")?;
        let stdout = child.stdout.take().context("no output")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send((Instant::now(), line)).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, stdin, lines, driver, options, name })
    }

    fn send(&mut self, lines: &[String]) -> Result<Instant> {
        let at = Instant::now();
        self.stdin.write_all(lines.iter().map(|line| format!("{line}\n")).collect::<String>().as_bytes())?;
        self.stdin.flush()?;
        Ok(at)
    }

    fn until(&self, fits: impl Fn(&Value) -> bool) -> Result<(Instant, Value)> {
        loop {
            let (at, line) = self.lines.recv_timeout(DEADLINE).context("the CLI is silent")?;
            let Ok(line) = serde_json::from_str(&line) else { continue };
            if fits(&line) {
                return Ok((at, line));
            }
        }
    }

    /// A turn; returns the time until its first text, in milliseconds. The first one is preceded by what the driver is told of its options.
    pub(crate) fn turn(&mut self, first: bool) -> Result<f64> {
        let told = if first { self.driver.introduce(&self.options) } else { Vec::new() };
        let prompt = Prompt { text: "@say hello".into(), ..Prompt::default() };
        let lines = [told, self.driver.prompt(&uuid::Uuid::new_v4().to_string(), &prompt)].concat();
        let sent = self.send(&lines)?;
        let (text, _) = self.until(|line| line["event"]["delta"]["type"] == "text_delta")?;
        self.until(|line| line["type"] == "result")?;
        Ok(text.duration_since(sent).as_secs_f64() * 1e3)
    }

    /// A turn whose tool needs consent; returns the time from the consent until the tool runs, in milliseconds. The tool prints the time.
    pub(crate) fn consent(&mut self) -> Result<f64> {
        let prompt = Prompt { text: super::turns::ASKS.into(), ..Prompt::default() };
        self.send(&self.driver.prompt(&uuid::Uuid::new_v4().to_string(), &prompt))?;
        let (_, asked) = self.until(|line| line["request"]["subtype"] == "can_use_tool")?;
        let events = self.driver.dialogue(&self.options, None).read(&asked.to_string()).map_err(anyhow::Error::msg)?;
        let ask = events.into_iter().find_map(|event| match event {
            nagaya_driver::Event::Ask(ask) => Some(ask),
            _ => None,
        });
        let answer = nagaya_driver::Answer::Allow { updated_input: None };
        let lines = self.driver.answer(&ask.context("it asks nothing")?, &answer);
        let sent = super::turns::now();
        self.send(&lines)?;
        let (_, result) = self.until(|line| line["type"] == "user" && line.to_string().contains("tool_result"))?;
        self.until(|line| line["type"] == "result")?;
        super::turns::ran(&result.to_string(), sent)
    }
}

impl Drop for Cli {
    fn drop(&mut self) {
        let removed = Command::new("docker").args(["rm", "--force", &self.name]).stdout(Stdio::null()).status();
        if let Err(error) = removed.and_then(|_| self.child.wait()) {
            eprintln!("the container {} of this run may still be running: {error}", self.name);
        }
    }
}
