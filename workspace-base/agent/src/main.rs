//! The agent inside a room: first process, bridge to the way out, and driver of the Claude Code CLI.

use std::process::ExitCode;

use clap::Parser;
use nagaya_agent::{Cli, run};

fn main() -> ExitCode {
    run(Cli::parse())
}
