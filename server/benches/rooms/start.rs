//! The server: from its start until a run could begin.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::agent::get;
use crate::report::{Goal, Report, Table};
use crate::stage::{PATIENCE, Stage, until};
use crate::stats::{Sample, rounds};

/// Between two looks whether it is ready.
const LOOK: Duration = Duration::from_millis(1);

pub(crate) fn measure(stage: &mut Stage, count: usize, report: &mut Report) {
    let stage = &*stage;
    let series = rounds(count, vec![("ours", Ok(()))], |_, ()| {
        let dir = tempfile::Builder::new().prefix("nagaya-bench-start-").tempdir()?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let began = Instant::now();
        let mut server = Server::start(&stage.names[1], dir.path(), address)?;
        let ready = ready(stage, &mut server, address);
        let took = began.elapsed().as_secs_f64() * 1e3;
        server.stop(stage)?;
        ready?;
        Ok(Sample { value: took, p99: None })
    });
    report.add(Table {
        id: "start",
        title: "The server: from its start until /health/ready answers 200",
        unit: "ms",
        more_is_better: false,
        note: "The real program with settings as they are by default, an empty state directory, the image there; tried every \
               millisecond. The pool begins to fill meanwhile."
            .into(),
        series,
        goals: vec![Goal::at_most(150.0)],
    });
}

fn ready(stage: &Stage, server: &mut Server, address: SocketAddr) -> Result<()> {
    stage.within(PATIENCE, "a ready server", async {
        loop {
            if let Ok(stream) = TcpStream::connect(address) {
                stream.set_read_timeout(Some(PATIENCE))?;
                if get(stream, "/health/ready")? == 200 {
                    return Ok(());
                }
            }
            if let Some(status) = server.0.try_wait()? {
                bail!("the server ended: {status}");
            }
            tokio::time::sleep(LOOK).await;
        }
    })?
}

/// A server of the run's; killed if it is not stopped.
struct Server(Child);

impl Server {
    fn start(deployment: &str, dir: &Path, address: SocketAddr) -> Result<Self> {
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
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start the server")?;
        Ok(Self(child))
    }

    fn stop(mut self, stage: &Stage) -> Result<()> {
        let pid = Pid::from_child(&self.0);
        kill_process(pid, Signal::TERM)?;
        let mut ended = None;
        stage.within(
            PATIENCE,
            "the server's end",
            until(|| {
                ended = self.0.try_wait().ok().flatten();
                ended.is_some()
            }),
        )?;
        ensure!(ended.is_some_and(|status| status.success()), "the server ended badly: {ended:?}");
        Ok(())
    }
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
