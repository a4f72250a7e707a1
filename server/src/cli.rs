//! The command line: arguments, output and exit codes.

use std::future::Future;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use nagaya_workspace::state::PoolSize;
use serde::Serialize;

use crate::config::{Config, Setting};

/// Exit code of the program (sysexits(3)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The command succeeded.
    Ok = 0,
    /// The command failed.
    Failed = 1,
    /// The command line or the configuration is wrong (`EX_USAGE`).
    Usage = 64,
    /// A dependency does not work, or the address is in use (`EX_UNAVAILABLE`).
    Unavailable = 69,
    /// A bug in this program (`EX_SOFTWARE`).
    Bug = 70,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Gives every AI-agent conversation a locked workspace of its own.
#[derive(Debug, Parser)]
#[command(name = "nagaya", version)]
pub struct Cli {
    /// TOML file with settings, named in lower case; environment variables override it.
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Command to execute.
    #[command(subcommand)]
    pub command: Command,
}

/// The program's commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the server until it receives SIGTERM or SIGINT.
    Serve {
        /// File to write the bound address to, for example if BIND_ADDR has port 0.
        #[arg(long, value_name = "FILE")]
        addr_file: Option<PathBuf>,
    },
    /// Print every effective setting and its source; secrets are redacted.
    Config {
        /// Print JSON instead of text.
        #[arg(long)]
        json: bool,
    },
    /// Check everything the server depends on, and print what to do about each problem.
    Doctor,
    /// Ask the server on this machine whether a run could start; exit with status 0 if so.
    Health,
    /// Print the OpenAPI document of the service.
    Openapi,
}

/// The effective settings in the form that `nagaya config --json` prints.
#[derive(Debug, Serialize)]
pub struct SettingsJson<'a> {
    settings: &'a [Setting],
    /// The pool's size that was set by `PUT /api/admin/pool`, and is used instead of the configured one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pool_set_by_api: Option<PoolSize>,
}

/// Prints the effective settings as JSON.
pub async fn print_settings_json(config: Config) -> Exit {
    print_json(&SettingsJson { settings: &config.settings, pool_set_by_api: config.pool_set_by_api().await })
}

/// Prints help, version or a usage error, and returns the exit code for it.
#[must_use]
pub fn usage(error: &clap::Error) -> Exit {
    let printed = error.print();
    if error.use_stderr() || printed.is_err() { Exit::Usage } else { Exit::Ok }
}

/// Prints a value as JSON.
#[must_use]
pub fn print_json(value: &impl Serialize) -> Exit {
    match serde_json::to_string_pretty(value) {
        Ok(text) => print(&format!("{text}\n")),
        Err(error) => {
            eprintln!("nagaya: {error}");
            Exit::Bug
        }
    }
}

/// Prints the effective settings as a table.
pub async fn print_settings(config: Config) -> Exit {
    let width = config.settings.iter().map(|setting| setting.name.len()).max().unwrap_or(0);
    let lines = config.settings.iter().map(|Setting { name, value, source, .. }| match value.as_str() {
        "" => format!("{name:width$}  (empty)  [{source}]\n"),
        value => format!("{name:width$}  {value}  [{source}]\n"),
    });
    let mut text = lines.collect::<String>();
    if let Some(set) = config.pool_set_by_api().await {
        text += &format!(
            "\nPUT /api/admin/pool has set the warm pool to {} to {} workspaces, which takes precedence over WARM_POOL_MIN_SIZE and \
             WARM_POOL_MAX_SIZE\n",
            set.min, set.max
        );
    }
    print(&text)
}

/// Prints to standard output. A closed pipe fails without a message.
fn print(text: &str) -> Exit {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => Exit::Ok,
        Err(_) => Exit::Failed,
    }
}

/// Runs an asynchronous command to its end.
pub fn run(command: impl Future<Output = Exit>) -> Exit {
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(command),
        Err(error) => {
            eprintln!("nagaya: cannot start the async runtime: {error}");
            Exit::Failed
        }
    }
}
