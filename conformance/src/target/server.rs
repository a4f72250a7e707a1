//! A server that the suite launched.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;

use super::fixtures::{Credentials, address};
use super::memory::Memory;
use super::process::{Process, Program};
use super::serving::arguments;
use crate::client::http::Api;
use crate::description::{Act, Description};
use crate::harness::context::Context;
use crate::harness::engine::Room;
use crate::harness::failure::Failure;
use crate::harness::poll::eventually;

/// A server that this suite launched.
#[derive(Debug)]
pub struct Server {
    /// The program that starts it.
    pub program: Program,
    /// The server's container, if it runs in one.
    pub container: Option<Room>,
    /// The server's process id on the host; in a container, that of the container's first process.
    pub(super) pid: u32,
    /// The server's own program, if another one starts it, for example in a container.
    pub(super) bare: Option<Program>,
    /// The running process.
    pub process: Process,
    /// The server's socket base directory.
    pub sockets: PathBuf,
    /// Credentials that its workspaces must never see.
    pub credentials: Credentials,
    pub(super) description: Arc<Description>,
    /// Its address, if the suite has chosen it.
    pub(super) chosen: Option<String>,
    pub(super) addr_file: PathBuf,
    pub(super) log: PathBuf,
    pub(super) run: String,
    /// The memory of its defects.
    pub(super) memory: Memory,
}

impl Server {
    /// The server's log so far, across restarts.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.printed()
    }

    /// The server's process id on the host.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The same program with the same settings, for something else; never in a container.
    ///
    /// # Errors
    /// Could not run: the target's program cannot do it.
    pub fn command(&self, act: Act) -> Result<Program, Failure> {
        let address = self.chosen.as_deref().unwrap_or_default();
        Ok(self.with_arguments(arguments(&self.description, act, None, address)?))
    }

    /// The same program with the same settings and these arguments; never in a container.
    pub(super) fn with_arguments(&self, args: Vec<OsString>) -> Program {
        Program { args, ..self.bare.as_ref().unwrap_or(&self.program).clone() }
    }

    /// Starts it again with its state; the previous process must have exited.
    pub(super) fn start_again(&mut self) -> Result<(), Failure> {
        remove_if_there(&self.addr_file)?;
        let (address, mut program) = (self.chosen.as_deref().unwrap_or_default(), self.program.clone());
        let of = |act| arguments(&self.description, act, Some(&self.addr_file), address);
        let (serve, restart) = (of(Act::Serve)?, of(Act::Restart)?);
        // The server's own arguments stand behind its starter's, and before those that a scenario has added.
        if serve != restart
            && let Some(at) = program.args.windows(serve.len()).rposition(|words| words == serve)
        {
            program.args.splice(at..at + serve.len(), restart);
        }
        let process = Process::start(&program, &self.run, &self.log)?;
        self.process = process.stopping(self.description.launch.stop_signal, self.description.limits.stop);
        Ok(())
    }

    /// Tells it to open its files and to read its settings again.
    ///
    /// # Errors
    /// Could not run: it has no signal for that. Or the signal cannot be sent.
    pub async fn reload(&self) -> Result<(), Failure> {
        let signal = self.description.launch.reload_signal;
        let signal = signal.ok_or_else(|| Failure::could_not_run("the target file has no launch.reload_signal"))?;
        self.process.signal(signal).await
    }

    /// The number of its open file descriptors.
    ///
    /// # Errors
    /// If the process has exited or belongs to another user.
    pub fn descriptors(&self) -> Result<usize, Failure> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.pid))?.count())
    }

    /// The targets of its file descriptors, for a message.
    #[must_use]
    pub fn descriptor_targets(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(format!("/proc/{}/fd", self.pid)) else {
            return Vec::new();
        };
        let target = |entry: std::fs::DirEntry| std::fs::read_link(entry.path()).ok();
        let mut targets: Vec<String> =
            entries.flatten().filter_map(target).map(|path| path.display().to_string()).collect();
        targets.sort();
        targets
    }
}

impl Server {
    /// Waits until it listens.
    pub(super) async fn listening(&mut self, context: &Context) -> Result<Api, Failure> {
        let limit = self.description.limits.start;
        let address = match &self.chosen {
            Some(chosen) => accepts(&self.process, chosen, limit).await,
            None => address(&self.process, &self.addr_file, limit).await,
        }
        .map_err(|failure| failure.during("the server's start"))?;
        self.pid = match &self.container {
            Some(container) => first_process(container).await?,
            None => self.process.pid(),
        };
        let address = context.relay_to_server(&address, &self.memory).await?;
        Api::new(&format!("http://{address}"), None, context.exchanges().clone())?.speaking(&self.description.speech)
    }
}

/// The id of a container's first process on the host.
async fn first_process(container: &Room) -> Result<u32, Failure> {
    let pid = container.inspect().await?.state.and_then(|state| state.pid).and_then(|pid| u32::try_from(pid).ok());
    pid.filter(|pid| *pid > 0).ok_or_else(|| Failure::assertion(format!("container {} does not run", container.id)))
}

fn remove_if_there(path: &Path) -> Result<(), Failure> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Waits until something accepts connections at the address that the process was told.
async fn accepts(process: &Process, address: &str, limit: Duration) -> Result<String, Failure> {
    let found = eventually(limit, format!("a server at {address}"), async || {
        match (TcpStream::connect(address).await, process.ended().await) {
            (_, Some(status)) => {
                let printed = process.printed();
                let why = format!("the process ended ({status}) before it listened; it printed: {printed}");
                Ok(Err(Failure::assertion(why)))
            }
            (Ok(_), None) => Ok(Ok(address.to_owned())),
            (Err(error), None) => Err(format!("{error}, and this was printed: {}", process.printed())),
        }
    });
    found.await?
}
