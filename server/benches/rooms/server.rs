//! The real server as a child process.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// Pause between two polls.
const POLL: Duration = Duration::from_millis(1);
/// Time limit for becoming ready, and for stopping.
const DEADLINE: Duration = Duration::from_secs(60);

/// A server of this run; killed on drop unless it was stopped.
pub(crate) struct Server(Child);

impl Server {
    /// Starts a server with default settings, except for its paths and `settings`.
    pub(crate) fn start(
        deployment: &str,
        dir: &Path,
        address: SocketAddr,
        settings: &[(&str, String)],
    ) -> Result<Self> {
        let inherited = ["PATH", "HOME", "DOCKER_SOCKET_PATH", "CONTAINER_IMAGE"];
        let inherited = inherited.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
        let child = Command::new(env!("CARGO_BIN_EXE_nagaya"))
            .arg("serve")
            .env_clear()
            .envs(inherited)
            .env("BIND_ADDR", address.to_string())
            .env("STATE_DIR", dir.join("state"))
            .env("WORKSPACE_SOCKET_BASE_PATH", dir.join("s"))
            .env("DEPLOYMENT_ID", deployment)
            .env("SHUTDOWN_WORKSPACES", "destroy")
            .env("LOG_LEVEL", "error")
            .envs(settings.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start the server")?;
        Ok(Self(child))
    }

    /// Id of the server's process.
    #[allow(dead_code, reason = "only one of the two benchmarks measures its memory")]
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Waits until `/health/ready` answers 200.
    pub(crate) fn ready(&mut self, address: SocketAddr) -> Result<()> {
        let until = Instant::now() + DEADLINE;
        while Instant::now() < until {
            if let Ok(stream) = TcpStream::connect(address)
                && is_ready(stream)?
            {
                return Ok(());
            }
            if let Some(status) = self.0.try_wait()? {
                bail!("the server exited: {status}");
            }
            std::thread::sleep(POLL);
        }
        bail!("not ready within {DEADLINE:?}")
    }

    /// Sends SIGTERM and waits for the process to exit.
    pub(crate) fn stop(mut self) -> Result<()> {
        kill_process(Pid::from_child(&self.0), Signal::TERM)?;
        let until = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.0.try_wait()? {
                ensure!(status.success(), "the server failed: {status}");
                return Ok(());
            }
            ensure!(Instant::now() < until, "the server did not exit within {DEADLINE:?}");
            std::thread::sleep(POLL);
        }
    }
}

fn is_ready(mut stream: TcpStream) -> Result<bool> {
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(b"GET /health/ready HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer.starts_with(b"HTTP/1.1 200 "))
}

impl Drop for Server {
    fn drop(&mut self) {
        if !matches!(self.0.try_wait(), Ok(Some(_))) {
            let ended = self.0.kill().and_then(|()| self.0.wait());
            if let Err(error) = ended {
                eprintln!("a server of this run may still be running: {error}");
            }
        }
    }
}
