//! A PostgreSQL server of the suite's own, and its failures.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::backing::Backing;
use super::fixtures::harness;
use super::process::{Program, Restartable};
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check};
use crate::harness::poll::eventually;

/// How long it may take to initialise and answer, and to stop.
const LIMIT: Duration = Duration::from_secs(40);
/// Where Debian installs its programs, by version.
const VERSIONS: &str = "/usr/lib/postgresql";

/// A server on a port of the loopback interface.
#[derive(Debug, Clone)]
pub struct Postgres {
    server: Server,
}

/// How it runs.
#[derive(Debug, Clone)]
enum Server {
    Process { server: Restartable, url_file: PathBuf },
    Container { server: Backing, url: String },
}

impl Postgres {
    /// Checks that its programs are installed.
    ///
    /// # Errors
    /// They are not.
    pub fn find() -> Result<(), String> {
        let versions = std::fs::read_dir(VERSIONS).into_iter().flatten().flatten();
        let found = versions.map(|version| version.path().join("bin/initdb")).any(|initdb| initdb.is_file());
        if found { Ok(()) } else { Err(format!("no initdb below {VERSIONS}; install postgresql")) }
    }

    /// Starts it as a process.
    pub(super) async fn start(fixtures: &Path, run: &str, dir: &Path) -> Result<Self, Failure> {
        let args = ["postgres".to_owned(), format!("--dir={}", dir.display())];
        let server = Restartable::start(Program::new(fixtures, args), run, dir.join("fixture.log"))?;
        let postgres = Self { server: Server::Process { server, url_file: dir.join("postgres.url") } };
        postgres.url().await?;
        Ok(postgres)
    }

    /// Starts it in a container.
    pub(super) async fn start_in_container(context: &Context) -> Result<Self, Failure> {
        let (server, url) = Backing::postgres(context).await?;
        let postgres = Self { server: Server::Container { server, url } };
        postgres.url().await?;
        Ok(postgres)
    }

    /// The value for `DATABASE_URL`, once it answers.
    ///
    /// # Errors
    /// It does not.
    pub async fn url(&self) -> Result<String, Failure> {
        match &self.server {
            Server::Process { server, url_file } => {
                super::fixtures::address(&server.process(), url_file, LIMIT).await.map_err(harness)
            }
            Server::Container { server, url } => {
                eventually(LIMIT, "an answer of PostgreSQL", || server.postgres_answers()).await?;
                Ok(url.clone())
            }
        }
    }

    /// The output of `psql` for a statement.
    ///
    /// # Errors
    /// The statement is refused, or has not ended within `limit`.
    pub async fn sql(&self, run: &str, statement: &str, limit: Duration) -> Result<String, Failure> {
        let psql = |url: &str| ["psql", url, "-v", "ON_ERROR_STOP=1", "-tAc", statement].map(str::to_owned);
        match &self.server {
            Server::Process { .. } => {
                let versions = std::fs::read_dir(VERSIONS)?.flatten().map(|version| version.path().join("bin/psql"));
                let program = versions.into_iter().find(|psql| psql.is_file());
                let program = program.ok_or_else(|| Failure::could_not_run(format!("no psql below {VERSIONS}")))?;
                let url = self.url().await?;
                let output = Program::new(&program, &psql(&url)[1..]).output(run, limit).await?;
                let printed = String::from_utf8_lossy(&output.stdout).into_owned();
                let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
                check(output.status.success(), format!("psql: {printed}{complaint}")).map_err(harness)?;
                Ok(printed)
            }
            Server::Container { server, url } => {
                let inside = url.replace(&format!("@127.0.0.1:{}/", server.port), "@127.0.0.1:5432/");
                server.exec(psql(&inside)).await
            }
        }
    }

    /// Kills it, as a crash would; a stopped one is no error.
    ///
    /// # Errors
    /// It does not stop.
    pub async fn stop(&self) -> Result<(), Failure> {
        let (server, url_file) = match &self.server {
            Server::Process { server, url_file } => (server, url_file),
            Server::Container { server, .. } => return server.kill().await,
        };
        match std::fs::remove_file(url_file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        server.process().stop(LIMIT).await.map(drop).map_err(harness)
    }

    /// Restarts it after [`Postgres::stop`] with its data.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn restart(&self) -> Result<(), Failure> {
        match &self.server {
            Server::Process { server, .. } => server.restart()?,
            Server::Container { server, .. } => server.restart().await?,
        }
        self.url().await.map(drop)
    }
}
