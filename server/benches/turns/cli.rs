//! The CLI at its own standard input and output, started as the server starts it.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nagaya_driver::claude_code::ClaudeCode;
use nagaya_driver::{Driver, Options, Permissions, Prompt};
use serde_json::Value;

/// Time limit for a line.
const DEADLINE: Duration = Duration::from_secs(30);
/// The model's name.
const MODEL: &str = "bench";

/// A running CLI.
pub(crate) struct Cli {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<(Instant, String)>,
    options: Options,
    _home: tempfile::TempDir,
}

/// Path of the program: `CLAUDE_CLI`, else where `scripts/claude-cli.sh` puts it.
fn program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("CLAUDE_CLI").filter(|path| !path.is_empty()) {
        return Ok(std::path::absolute(path)?);
    }
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let found = Command::new("scripts/claude-cli.sh").arg("path").current_dir(root).output()?;
    let path = std::path::absolute(std::path::Path::new(root).join(String::from_utf8(found.stdout)?.trim()))?;
    anyhow::ensure!(path.exists(), "{} does not exist; scripts/claude-cli.sh fetch, or CLAUDE_CLI", path.display());
    Ok(path)
}

impl Cli {
    /// Starts one that asks the model at this address, as the server starts a driver.
    pub(crate) fn start(model: std::net::SocketAddr, permissions: Permissions) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("nagaya-bench-cli-").tempdir()?;
        let workspace = home.path().join("workspace");
        std::fs::create_dir(&workspace)?;
        let options = Options {
            model: MODEL.into(),
            system_prompt: "Write files that are meant for the user to /workspace/outputs.".into(),
            permissions,
            ..Options::default()
        };
        let request = ClaudeCode.start(&ClaudeCode.fixed(&options));
        let mut child = Command::new(program()?)
            .args(&request.arguments)
            .env_clear()
            .envs([
                ("PATH", "/usr/local/bin:/usr/bin:/bin"),
                ("LANG", "C.UTF-8"),
                ("ANTHROPIC_AUTH_TOKEN", "none"),
                ("IS_SANDBOX", "1"),
                ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
                ("CLAUDE_CODE_DISABLE_BACKGROUND_TASKS", "1"),
                ("DISABLE_AUTOUPDATER", "1"),
            ])
            .env("HOME", home.path())
            .env("ANTHROPIC_BASE_URL", format!("http://{model}"))
            .current_dir(&workspace)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("the CLI does not start")?;
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
        Ok(Self { child, stdin, lines, options, _home: home })
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
        let told = if first { ClaudeCode.introduce(&self.options) } else { Vec::new() };
        let prompt = Prompt { text: "@say hello".into(), ..Prompt::default() };
        let lines = [told, ClaudeCode.prompt(&uuid::Uuid::new_v4().to_string(), &prompt)].concat();
        let sent = self.send(&lines)?;
        let (text, _) = self.until(|line| line["event"]["delta"]["type"] == "text_delta")?;
        self.until(|line| line["type"] == "result")?;
        Ok(text.duration_since(sent).as_secs_f64() * 1e3)
    }

    /// A turn whose tool needs consent; returns the time from the consent until the tool runs, in milliseconds. The tool prints the time.
    pub(crate) fn consent(&mut self) -> Result<f64> {
        let prompt = Prompt { text: super::turns::ASKS.into(), ..Prompt::default() };
        self.send(&ClaudeCode.prompt(&uuid::Uuid::new_v4().to_string(), &prompt))?;
        let (_, asked) = self.until(|line| line["request"]["subtype"] == "can_use_tool")?;
        let events = ClaudeCode.dialogue(&self.options, None).read(&asked.to_string()).map_err(anyhow::Error::msg)?;
        let ask = events.into_iter().find_map(|event| match event {
            nagaya_driver::Event::Ask(ask) => Some(ask),
            _ => None,
        });
        let answer = nagaya_driver::Answer::Allow { updated_input: None };
        let lines = ClaudeCode.answer(&ask.context("it asks nothing")?, &answer);
        let sent = super::turns::now();
        self.send(&lines)?;
        let (_, result) = self.until(|line| line["type"] == "user" && line.to_string().contains("tool_result"))?;
        self.until(|line| line["type"] == "result")?;
        super::turns::ran(&result.to_string(), sent)
    }
}

impl Drop for Cli {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("a CLI of this run may still be running: {error}");
        }
    }
}
