//! The command line: what can be said, and how it is answered.

use std::future::Future;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde::Serialize;

use crate::config::{Config, Setting};

/// How the program ends (sysexits(3)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All went well.
    Ok = 0,
    /// The thing failed.
    Failed = 1,
    /// The command line or the configuration is wrong (`EX_USAGE`).
    Usage = 64,
    /// Something that is depended on is not there (`EX_UNAVAILABLE`).
    Unavailable = 69,
    /// A bug of ours (`EX_SOFTWARE`).
    Bug = 70,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Every AI-agent conversation in a locked room of its own.
#[derive(Debug, Parser)]
#[command(name = "nagaya", version)]
pub struct Cli {
    /// TOML file with settings, in lower case; the environment wins over it.
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the server's program can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve until told to stop (SIGTERM, SIGINT).
    Serve {
        /// Write the address that was bound to this file.
        #[arg(long, value_name = "FILE")]
        addr_file: Option<PathBuf>,
    },
    /// Print every effective setting and where it came from; secrets are redacted.
    Config {
        /// For a program.
        #[arg(long)]
        json: bool,
    },
    /// Check what the server needs, and say what to do.
    Doctor,
    /// Ask the server on this machine whether a run could start; status 0 where it says so.
    Health,
    /// Print the OpenAPI description of the service.
    Openapi,
}

/// The settings for a program.
#[derive(Debug, Serialize)]
pub struct SettingsJson<'a> {
    settings: &'a [Setting],
}

impl<'a> From<&'a Config> for SettingsJson<'a> {
    fn from(config: &'a Config) -> Self {
        Self { settings: &config.settings }
    }
}

/// Answers a command line that was not understood, or asked for help.
#[must_use]
pub fn usage(error: &clap::Error) -> Exit {
    let printed = error.print();
    if error.use_stderr() || printed.is_err() { Exit::Usage } else { Exit::Ok }
}

/// Prints something as JSON.
#[must_use]
pub fn print_json(what: &impl Serialize) -> Exit {
    match serde_json::to_string_pretty(what) {
        Ok(text) => print(&format!("{text}\n")),
        Err(error) => {
            eprintln!("nagaya: {error}");
            Exit::Bug
        }
    }
}

/// Prints the settings for a person.
#[must_use]
pub fn print_settings(config: &Config) -> Exit {
    let width = config.settings.iter().map(|setting| setting.name.len()).max().unwrap_or(0);
    let lines = config.settings.iter().map(|Setting { name, value, source }| match value.as_str() {
        "" => format!("{name:width$}  (empty)  [{source}]\n"),
        value => format!("{name:width$}  {value}  [{source}]\n"),
    });
    print(&lines.collect::<String>())
}

/// Prints to standard output; a reader that has gone is no fault of ours to tell.
fn print(text: &str) -> Exit {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => Exit::Ok,
        Err(_) => Exit::Failed,
    }
}

/// Runs a command that waits for things.
pub fn run(command: impl Future<Output = Exit>) -> Exit {
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(command),
        Err(error) => {
            eprintln!("nagaya: the runtime does not start: {error}");
            Exit::Failed
        }
    }
}
