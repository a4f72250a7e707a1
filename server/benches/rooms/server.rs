//! The real program, as a process of the run's.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(1);
/// How long it may take to be ready, and to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server of the run's; killed if it is not stopped.
pub(crate) struct Server(Child);

impl Server {
    /// Starts it with settings as they are by default, but for where it keeps things, and for `settings`.
    pub(crate) fn start(
        deployment: &str,
        dir: &Path,
        address: SocketAddr,
        settings: &[(&str, String)],
    ) -> Result<Self> {
        let kept = ["PATH", "HOME", "DOCKER_SOCKET_PATH", "CONTAINER_IMAGE"];
        let kept = kept.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
        let child = Command::new(env!("CARGO_BIN_EXE_nagaya"))
            .arg("serve")
            .env_clear()
            .envs(kept)
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

    /// Its process.
    #[allow(dead_code, reason = "only one of the two benchmarks looks at its memory")]
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Waits until `/health/ready` answers 200.
    pub(crate) fn ready(&mut self, address: SocketAddr) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if let Ok(stream) = TcpStream::connect(address)
                && is_ready(stream)?
            {
                return Ok(());
            }
            if let Some(status) = self.0.try_wait()? {
                bail!("the server ended: {status}");
            }
            std::thread::sleep(LOOK);
        }
        bail!("not ready within {PATIENCE:?}")
    }

    /// Tells it to stop, and waits.
    pub(crate) fn stop(mut self) -> Result<()> {
        kill_process(Pid::from_child(&self.0), Signal::TERM)?;
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.0.try_wait()? {
                ensure!(status.success(), "the server ended badly: {status}");
                return Ok(());
            }
            ensure!(Instant::now() < until, "the server does not end within {PATIENCE:?}");
            std::thread::sleep(LOOK);
        }
    }
}

fn is_ready(mut stream: TcpStream) -> Result<bool> {
    stream.set_read_timeout(Some(PATIENCE))?;
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
                eprintln!("a server of this run may go on: {error}");
            }
        }
    }
}
