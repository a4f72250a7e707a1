//! What real clients in a room talk to, started as a process: package indexes, a git repository, a WebSocket, an echo.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::fixtures::{address, harness};
use super::process::{Process, Program};
use crate::client::exchange::Exchanges;
use crate::client::http::Api;
use crate::failure::Failure;

/// How long it may take to listen.
const START_LIMIT: Duration = Duration::from_secs(10);

/// Services that listen, on the loopback interface.
#[derive(Debug, Clone)]
pub struct Services {
    /// Where they speak HTTP.
    pub http: String,
    /// Where they speak HTTPS.
    pub https: String,
    /// The certificate authority that vouches for them, as PEM.
    pub ca_pem: String,
    /// What they have to offer.
    pub facts: Facts,
    control: Api,
}

/// What the services have to offer, by their own account.
#[derive(Debug, Clone, Deserialize)]
pub struct Facts {
    /// Name of the package on both indexes.
    pub package: String,
    /// Its version.
    pub version: String,
    /// What its code says.
    pub greeting: String,
    /// The last commit of the git repository.
    pub commit: String,
    /// What the README in it says.
    pub readme: String,
}

/// A request as the services saw it.
#[derive(Debug, Clone, Deserialize)]
pub struct Seen {
    /// `http` or `https`.
    pub scheme: String,
    /// Method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Headers.
    pub headers: Vec<(String, String)>,
    /// What it was answered with.
    pub status: u16,
}

impl Seen {
    /// A header's value; the first, where there are several.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }
}

/// A WebSocket's conversation as the services saw it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Conversation {
    /// Texts they were sent.
    pub texts: Vec<String>,
    /// Lengths of binary messages they were sent.
    pub binaries: Vec<usize>,
    /// The code the client closed with; none where the connection broke.
    pub closed: Option<u16>,
}

impl Services {
    /// What to start, with certificates for these names; `dir` must exist.
    #[must_use]
    pub fn program(binary: &Path, dir: &Path, hosts: &[&str]) -> Program {
        let mut program = Program::new(
            binary,
            ["services".to_owned(), format!("--dir={}", dir.display()), format!("--hosts={}", hosts.join(","))],
        );
        // They run git, which is looked for there.
        program.env.extend(std::env::var("PATH").map(|path| ("PATH".to_owned(), path)));
        program
    }

    /// Waits until started ones listen.
    ///
    /// # Errors
    /// They do not.
    pub async fn ready(process: &Process, dir: &Path, exchanges: Exchanges) -> Result<Self, Failure> {
        let file = |name: &str| dir.join(name);
        // The control's address comes last: once it is there, the others are.
        let control = address(process, &file("control.addr"), START_LIMIT).await.map_err(harness)?;
        let text = |name: &str| std::fs::read_to_string(file(name)).map(|text| text.trim().to_owned());
        let (http, https, ca_pem) = (text("http.addr")?, text("https.addr")?, text("ca.pem")? + "\n");
        let control = Api::new(&format!("http://{control}"), None, exchanges)?;
        let facts = ask(&control, "/facts").await?;
        Ok(Self { http, https, ca_pem, facts, control })
    }

    /// Every request they have answered, in the order of the answers.
    ///
    /// # Errors
    /// They do not say.
    pub async fn requests(&self) -> Result<Vec<Seen>, Failure> {
        ask(&self.control, "/requests").await
    }

    /// Every WebSocket conversation that has ended, in the order of the ends.
    ///
    /// # Errors
    /// They do not say.
    pub async fn conversations(&self) -> Result<Vec<Conversation>, Failure> {
        ask(&self.control, "/conversations").await
    }
}

async fn ask<T: DeserializeOwned>(control: &Api, path: &str) -> Result<T, Failure> {
    let reply = control.get(path).await.and_then(|reply| reply.expect(200)).map_err(harness)?;
    serde_json::from_slice(&reply.body).map_err(Failure::harness)
}
