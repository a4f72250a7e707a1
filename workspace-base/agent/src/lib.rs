//! The agent inside a room: its first process, the bridge to the egress proxy, and the driver of the Claude Code CLI.
//!
//! It serves the server over a connection that it dials itself, and trusts nothing the CLI prints.

mod bridge;
mod buffer;
mod claude_code;
mod connection;
mod driver;
mod execution;
mod files;
mod health;
mod http;
mod input;
mod memory;
mod output;
mod process;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use nagaya_protocol::{ABANDONED_AFTER_SECS, AGENT_SOCKET, BRIDGE_ADDR, PROXY_SOCKET, ROOM_SOCKET_DIR, WORKSPACE_DIR};

/// The agent inside a workspace container.
#[derive(Debug, Parser)]
#[command(name = "nagaya-agent", version)]
pub struct Cli {
    /// Directory of agent.sock and proxy.sock, on which the server listens.
    #[arg(long, global = true, default_value = ROOM_SOCKET_DIR)]
    socket_dir: PathBuf,
    /// Where the loopback bridge to proxy.sock listens.
    #[arg(long, global = true, default_value = BRIDGE_ADDR)]
    bridge: SocketAddr,
    /// Seconds after which an execution that is not parked is cancelled if no reader is connected.
    #[arg(long, global = true, default_value_t = ABANDONED_AFTER_SECS)]
    abandoned_after: u64,
    /// Directory of the conversation's files.
    #[arg(long, global = true, default_value = WORKSPACE_DIR)]
    workspace: PathBuf,
    /// What to do; default is to serve.
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until a signal ends the agent.
    Serve,
    /// Ask a running agent whether it is ready; exit with status 0 if so.
    Health,
}

/// Runs the command of the command line.
#[must_use]
pub fn run(cli: Cli) -> ExitCode {
    // One thread: the agent shares its room's CPUs and memory with the execution, and mostly waits.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed("the runtime does not start", &error),
    };
    match cli.command {
        Some(Command::Health) => match health::ask(&cli.socket_dir) {
            Ok(health) => {
                println!("{health}");
                ExitCode::SUCCESS
            }
            Err(error) => failed("not healthy", &error),
        },
        Some(Command::Serve) | None => match runtime.block_on(serve(&cli)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed("the agent does not start", &error),
        },
    }
}

fn failed(what: &str, error: &dyn std::error::Error) -> ExitCode {
    eprintln!("nagaya-agent: {what}: {error}");
    ExitCode::FAILURE
}

async fn serve(cli: &Cli) -> io::Result<()> {
    tracing_subscriber::fmt().with_writer(io::stderr).with_target(false).without_time().init();
    process::adopt_orphans()?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let reaper = process::Reaper::start()?;
    let stop = CancellationToken::new();
    let bridge = bridge::Bridge::bind(cli.bridge, cli.socket_dir.join(PROXY_SOCKET)).await?;
    let bridge = tokio::spawn(bridge.run(stop.clone()));
    let entrance = connection::Entrance::find(&cli.socket_dir.join(AGENT_SOCKET)).await?;
    let checks = health::bind(&cli.socket_dir)?;
    let executions = Arc::new(execution::Executions::new(driver::Driver {
        cli: claude_code::version::Cli::find(),
        bridge: cli.bridge,
        abandoned_after: Duration::from_secs(cli.abandoned_after),
        outputs: claude_code::outputs::Outputs::new(&std::env::home_dir().unwrap_or_default(), &cli.workspace),
    }));
    let interface = http::Interface::new(executions.clone(), &cli.workspace);
    let server = tokio::spawn(entrance.serve(interface, stop.clone()));
    let health = {
        let (executions, stop) = (executions.clone(), stop.clone());
        tokio::spawn(async move { health::serve(checks, &executions, &stop).await })
    };
    tracing::info!(sockets = %cli.socket_dir.display(), bridge = %cli.bridge, "ready");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    executions.shutdown().await;
    stop.cancel();
    // They end when the token is cancelled; their errors have been logged where they occurred.
    let _ = tokio::join!(bridge, server, health);
    reaper.stop();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_options_the_agent_serves_what_the_image_has() {
        let cli = Cli::try_parse_from(["nagaya-agent"]).expect("parses");
        assert_eq!(cli.socket_dir, PathBuf::from("/var/run/ws"));
        assert_eq!(cli.bridge.to_string(), "127.0.0.1:8080");
        assert_eq!(cli.abandoned_after, 60);
        assert_eq!(cli.workspace, PathBuf::from("/workspace"));
        assert!(cli.command.is_none());
    }
}
