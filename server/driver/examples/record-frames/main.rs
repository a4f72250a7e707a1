//! Records what a CLI and the server say to each other, as fixtures for tests: `record-frames CLI MODEL DIRECTORY`. The CLI runs on this
//! host, with a home of its own, and calls a scripted model at the address MODEL. scripts/record-frames.sh prepares all that.
//!
//! Each line of a file is `{"start": [arguments]}`, `{"server": line}` or `{"cli": line}`. What differs from time to time is replaced.

#[path = "../../tests/frames/situations.rs"]
mod situations;
mod volatile;

use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use nagaya_driver::{Access, Answer, AskKind, Driver, Event, Kind, Options, Place};
use serde_json::{Value, json};

use situations::{At, Situation, Turn};
use volatile::Volatile;

/// Longest wait for a line of the CLI's.
const PATIENCE: Duration = Duration::from_secs(60);

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [cli, model, directory] = &arguments[..] else { return Err("usage: record-frames CLI MODEL DIRECTORY".into()) };
    let cli = &fs::canonicalize(cli)?;
    let version = Command::new(cli).arg("--version").output()?;
    let version = String::from_utf8(version.stdout)?;
    let version = version.split_whitespace().next().ok_or("the CLI tells no version")?;
    let directory = Path::new(directory).join(version);
    fs::create_dir_all(&directory)?;
    for situation in situations::all() {
        let lines = record(cli, model, &situation).map_err(|error| format!("{}: {error}", situation.name))?;
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        fs::write(directory.join(format!("{}.jsonl", situation.name)), text)?;
        println!("{version} {}: {} lines", situation.name, lines.len());
    }
    Ok(())
}

/// A CLI that runs, and what was said.
struct Running {
    driver: std::sync::Arc<dyn Driver>,
    process: Child,
    heard: Receiver<String>,
    said: Vec<Value>,
}

fn record(cli: &Path, model: &str, situation: &Situation) -> Result<Vec<Value>> {
    let room = std::env::temp_dir().join(format!("record-frames-{:010}", std::process::id()));
    let [home, workspace, temporary] = ["home", "workspace", "tmp"].map(|name| room.join(name));
    for directory in [&home, &workspace, &temporary] {
        fs::create_dir_all(directory)?;
    }
    let driver = Kind::ClaudeCode.driver();
    let access = Access {
        place: Place::Messages { url: format!("http://{model}"), is_anthropics: true },
        idle: Duration::from_secs(30),
    };
    let options = Options { model: "claude-test".into(), access: Some(access.clone()), ..situation.options.clone() };
    // As in a workspace of the pool: what it can be told later, it is told before its first turn.
    let request = driver.start(&driver.fixed(&options));
    let mut command = Command::new(cli);
    command.args(&request.arguments).current_dir(&workspace).env_clear();
    command.env("PATH", "/usr/bin:/bin").env("HOME", &home).env("LANG", "C.UTF-8");
    command.env("TMPDIR", &temporary).env("CLAUDE_CODE_TMPDIR", &temporary);
    // It refuses to run as root otherwise.
    command.env("IS_SANDBOX", "1").envs(driver.by_hand(&access));
    command.envs(request.environment.iter().filter_map(|(name, value)| Some((name, value.as_ref()?))));
    let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let output = process.stdout.take().ok_or("no output")?;
    let (hear, heard) = channel();
    let listener = std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(std::result::Result::ok) {
            if hear.send(line).is_err() {
                return;
            }
        }
    });
    let mut running = Running { driver, process, heard, said: vec![json!({"start": request.arguments})] };
    let done = converse(&mut running, &options, situation);
    drop(running.process.stdin.take());
    if done.is_err() {
        running.process.kill()?;
    }
    while let Ok(line) = running.heard.recv_timeout(PATIENCE) {
        running.said.push(json!({"cli": parsed(&line)}));
    }
    running.process.wait()?;
    listener.join().map_err(|_| "the listener has panicked")?;
    let names = [
        (home.as_path(), "/home/appuser"),
        (workspace.as_path(), "/workspace"),
        (temporary.as_path(), "/tmp"),
        (Path::new(model), "model.example"),
    ];
    let mut volatile = Volatile::new(&names);
    fs::remove_dir_all(&room)?;
    done.map(|()| running.said.into_iter().map(|line| volatile.replaced(line)).collect())
}

fn converse(running: &mut Running, options: &Options, situation: &Situation) -> Result<()> {
    let lines = running.driver.introduce(options);
    running.say(&lines)?;
    for (number, turn) in situation.turns.iter().enumerate() {
        let id = format!("11111111-1111-4111-8111-{number:012}");
        let lines = running.driver.prompt(&id, &turn.prompt);
        running.say(&lines)?;
        follow(running, options, (number > 0).then_some(&id), turn)?;
    }
    Ok(())
}

/// Follows a turn to its end.
fn follow(running: &mut Running, options: &Options, after_others: Option<&String>, turn: &Turn) -> Result<()> {
    let mut dialogue = running.driver.dialogue(options, after_others.map(String::as_str));
    let mut interrupt = turn.interrupt;
    loop {
        let line = running.heard.recv_timeout(PATIENCE).map_err(|_| "the CLI says nothing, or has ended")?;
        running.said.push(json!({"cli": parsed(&line)}));
        for event in dialogue.read(&line)? {
            match event {
                Event::Result(_) | Event::Failed(_) => return Ok(()),
                Event::Reply { lines, .. } => running.say(&lines)?,
                Event::ToolUse { .. } if interrupt == Some(At::Call) => {
                    interrupt = None;
                    let lines = running.driver.interrupt("interrupt-1");
                    running.say(&lines)?;
                }
                Event::Ask(_) if interrupt == Some(At::Question) => {
                    interrupt = None;
                    let lines = running.driver.interrupt("interrupt-1");
                    running.say(&lines)?;
                }
                Event::Ask(ask) => {
                    let answer = match ask.kind {
                        AskKind::Approval if turn.allow => Answer::Allow { updated_input: None },
                        AskKind::Approval => Answer::Deny { message: "Not this.".into() },
                        AskKind::Question => running.driver.answers(&ask, &|_| Some("Red".into())),
                        AskKind::ClientTool => Answer::Result { content: "3".into(), is_error: false },
                    };
                    let lines = running.driver.answer(&ask, &answer);
                    running.say(&lines)?;
                }
                _ => {}
            }
        }
    }
}

impl Running {
    fn say(&mut self, lines: &[String]) -> Result<()> {
        let input = self.process.stdin.as_mut().ok_or("no input")?;
        for line in lines {
            writeln!(input, "{line}")?;
            self.said.push(json!({"server": parsed(line)}));
        }
        Ok(())
    }
}

/// A line as JSON; as a text where it is none.
fn parsed(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|_| line.into())
}
