//! A real PostgreSQL server of the suite's own, and what can befall it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::fixtures::harness;
use super::process::{Program, Restartable};
use crate::failure::Failure;

/// How long it may take to make its files and to answer, and to end.
const LIMIT: Duration = Duration::from_secs(40);
/// Where Debian has its programs, by version.
const VERSIONS: &str = "/usr/lib/postgresql";

/// A server on a port of the loopback interface.
#[derive(Debug, Clone)]
pub struct Postgres {
    server: Restartable,
    url_file: PathBuf,
}

impl Postgres {
    /// Whether its programs are there.
    ///
    /// # Errors
    /// They are not.
    pub fn find() -> Result<(), String> {
        let versions = std::fs::read_dir(VERSIONS).into_iter().flatten().flatten();
        let found = versions.map(|version| version.path().join("bin/initdb")).any(|initdb| initdb.is_file());
        if found { Ok(()) } else { Err(format!("no initdb below {VERSIONS}; install postgresql")) }
    }

    pub(super) async fn start(fixtures: &Path, run: &str, dir: &Path) -> Result<Self, Failure> {
        let args = ["postgres".to_owned(), format!("--dir={}", dir.display())];
        let server = Restartable::start(Program::new(fixtures, args), run, dir.join("fixture.log"))?;
        let postgres = Self { server, url_file: dir.join("postgres.url") };
        postgres.url().await?;
        Ok(postgres)
    }

    /// What `DATABASE_URL` is to be, once it answers.
    ///
    /// # Errors
    /// It does not.
    pub async fn url(&self) -> Result<String, Failure> {
        let url = super::fixtures::address(&self.server.process(), &self.url_file, LIMIT).await;
        url.map_err(harness)
    }

    /// Stops it at once, as a crash would; one that is stopped is no error.
    ///
    /// # Errors
    /// It does not stop.
    pub async fn stop(&self) -> Result<(), Failure> {
        match std::fs::remove_file(&self.url_file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        self.server.process().stop(LIMIT).await.map(drop).map_err(harness)
    }

    /// Starts it again after [`Postgres::stop`], with what it had.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn start_again(&self) -> Result<(), Failure> {
        self.server.start_again()?;
        self.url().await.map(drop)
    }
}
