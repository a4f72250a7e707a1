//! The agent's own account of its health, for `HEALTHCHECK`.
//!
//! It is told on a socket in Linux's abstract namespace (unix(7)): that needs no file, so it works where every directory is
//! read-only, and it is private to the container, which has a network namespace of its own.

use std::io::{self, Read};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener as StdListener, UnixStream as StdStream};
use std::path::Path;
use std::time::Duration;

use nagaya_protocol::{Health, PROTOCOL};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use crate::claude_code;
use crate::execution::Executions;

/// How long [`ask`] waits for an answer.
const DEADLINE: Duration = Duration::from_secs(2);
/// Longest answer, in bytes.
const LONGEST: u64 = 64 * 1024;
/// Pause after a connection could not be accepted or answered.
const PAUSE: Duration = Duration::from_millis(50);

pub(crate) fn health(executions: &Executions) -> Health {
    let (execution, parked) = executions.running();
    Health {
        status: "ok".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        driver: claude_code::NAME.into(),
        cli_version: executions.cli().version.clone(),
        protocol: PROTOCOL,
        execution,
        parked,
    }
}

/// The name is that of the sockets' directory, because agents outside a container share one namespace.
fn address(sockets: &Path) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("nagaya-agent:{}", sockets.display()))
}

/// Begins to listen.
pub(crate) fn bind(sockets: &Path) -> io::Result<UnixListener> {
    let listener = StdListener::bind_addr(&address(sockets)?)?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Answers every connection with the agent's health as JSON, until `stop` is cancelled.
pub(crate) async fn serve(listener: UnixListener, executions: &Executions, stop: &CancellationToken) {
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let told = async {
            let answer = serde_json::to_vec(&health(executions))?;
            // A new connection's buffer holds all of it, so the client cannot make this wait.
            tokio::time::timeout(PAUSE, accepted?.0.write_all(&answer)).await?
        };
        if let Err(error) = told.await {
            tracing::debug!(%error, "a health check was not answered");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Asks the agent that serves `sockets` whether it is ready, and returns its answer.
pub(crate) fn ask(sockets: &Path) -> io::Result<String> {
    let stream = StdStream::connect_addr(&address(sockets)?)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    let mut answer = String::new();
    stream.take(LONGEST).read_to_string(&mut answer)?;
    match serde_json::from_str::<Health>(&answer) {
        Ok(health) if health.status == "ok" => Ok(answer),
        Ok(health) => Err(io::Error::other(format!("its status is {:?}", health.status))),
        Err(error) => Err(io::Error::other(format!("it answered {answer:?}: {error}"))),
    }
}
