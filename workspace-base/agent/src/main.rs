//! The agent inside a room: its first process, the bridge to the egress proxy, and the driver of the Claude Code CLI.

use std::process::ExitCode;

use clap::Parser;
use nagaya_agent::{Cli, run};

fn main() -> ExitCode {
    run(Cli::parse())
}
