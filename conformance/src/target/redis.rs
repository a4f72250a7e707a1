//! A real Redis server of the suite's own, and what can befall it.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use super::backing::Backing;
use super::fixtures::harness;
use super::process::{Program, Restartable};
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check};
use crate::harness::poll::eventually;

/// How long it may take to answer, and to exit.
const LIMIT: Duration = Duration::from_secs(10);

/// A Redis server on a port of the loopback interface that keeps nothing on disk.
#[derive(Debug, Clone)]
pub struct Redis {
    port: u16,
    run: String,
    server: Server,
}

/// How it runs.
#[derive(Debug, Clone)]
enum Server {
    Process(Restartable),
    Container(Backing),
}

impl Redis {
    /// The paths of the server's and the client's programs.
    ///
    /// # Errors
    /// One of them is missing.
    pub fn find() -> Result<(PathBuf, PathBuf), String> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let find = |name: &str| {
            let mut places = std::env::split_paths(&path).map(|dir| dir.join(name));
            places.find(|path| path.is_file()).ok_or_else(|| format!("{name} is not on the search path; install redis"))
        };
        Ok((find("redis-server")?, find("redis-cli")?))
    }

    /// Starts it as a process.
    pub(super) async fn start(run: &str, dir: &Path) -> Result<Self, Failure> {
        // The port is free now; if another process takes it first, the server reports it and exits.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let (binary, _) = Self::find().map_err(Failure::harness)?;
        let (port_text, dir_text) = (port.to_string(), dir.display().to_string());
        let args =
            ["--bind", "127.0.0.1", "--port", &port_text, "--save", "", "--appendonly", "no", "--dir", &dir_text];
        let server = Restartable::start(Program::new(&binary, args), run, dir.join("redis.log"))?;
        let redis = Self { port, run: run.to_owned(), server: Server::Process(server) };
        redis.answers().await?;
        Ok(redis)
    }

    /// Starts it in a container.
    pub(super) async fn start_in_container(context: &Context) -> Result<Self, Failure> {
        let server = Backing::redis(context).await?;
        let redis = Self { port: server.port, run: context.run.id.clone(), server: Server::Container(server) };
        redis.answers().await?;
        Ok(redis)
    }

    /// The value for `REDIS_URL`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    fn printed(&self) -> String {
        match &self.server {
            Server::Process(server) => server.process().printed(),
            Server::Container(_) => "(see its container)".to_owned(),
        }
    }

    async fn answers(&self) -> Result<(), Failure> {
        let answers = eventually(LIMIT, "an answer of redis-server", async || {
            let pong = self.command(["PING"]).await?;
            check(pong.trim() == "PONG", format!("{pong:?}; it printed: {}", self.printed()))
        });
        answers.await.map_err(harness)
    }

    /// Runs one command with `redis-cli`, and returns its output.
    ///
    /// # Errors
    /// It does not answer, or refuses.
    pub async fn command<A: Into<std::ffi::OsString>>(
        &self,
        args: impl IntoIterator<Item = A>,
    ) -> Result<String, Failure> {
        let args = args.into_iter().map(Into::into);
        if let Server::Container(server) = &self.server {
            let args = args.map(|arg: std::ffi::OsString| arg.to_string_lossy().into_owned());
            return server.exec(["redis-cli", "-e"].map(str::to_owned).into_iter().chain(args)).await;
        }
        let (_, cli) = Self::find().map_err(Failure::harness)?;
        let port = self.port.to_string();
        let first = ["-e", "-p", &port].map(std::ffi::OsString::from);
        let program = Program::new(&cli, first.into_iter().chain(args));
        let output = program.output(&self.run, LIMIT).await?;
        let reply = String::from_utf8_lossy(&output.stdout).into_owned();
        check(output.status.success(), format!("redis-cli: {reply}{}", String::from_utf8_lossy(&output.stderr)))?;
        Ok(reply)
    }

    /// Kills it; a stopped one is no error.
    ///
    /// # Errors
    /// It cannot be ended.
    pub async fn kill(&self) -> Result<(), Failure> {
        match &self.server {
            Server::Process(server) => server.process().kill().await,
            Server::Container(server) => server.kill().await,
        }
    }

    /// Restarts it after [`Redis::kill`], on the same port and empty.
    ///
    /// # Errors
    /// It does not start.
    pub async fn restart(&self) -> Result<(), Failure> {
        match &self.server {
            Server::Process(server) => server.restart()?,
            Server::Container(server) => server.restart().await?,
        }
        self.answers().await
    }

    /// Freezes it: connections are accepted, nothing is answered.
    ///
    /// # Errors
    /// It does not run.
    pub async fn pause(&self) -> Result<(), Failure> {
        match &self.server {
            Server::Process(server) => server.process().signal(Signal::STOP).await,
            Server::Container(server) => server.pause().await,
        }
    }

    /// Unfreezes it.
    ///
    /// # Errors
    /// It does not run.
    pub async fn resume(&self) -> Result<(), Failure> {
        match &self.server {
            Server::Process(server) => server.process().signal(Signal::CONT).await,
            Server::Container(server) => server.resume().await,
        }
    }
}
