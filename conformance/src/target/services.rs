//! Services for real clients in a room, started as a process: package indexes, a git repository, a WebSocket, an echo.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::fixtures::{Credentials, address, harness};
use super::process::{Process, Program};
use crate::client::http::Api;
use crate::harness::exchanges::Exchanges;
use crate::harness::failure::Failure;

/// How long it may take to listen.
const START_LIMIT: Duration = Duration::from_secs(10);

/// Running services on the loopback interface.
#[derive(Debug, Clone)]
pub struct Services {
    /// Their address for HTTP.
    pub http: String,
    /// Address of the services for HTTPS.
    pub https: String,
    /// The certificate authority of their certificates, as PEM.
    pub ca_pem: String,
    /// Their content.
    pub facts: Facts,
    control: Api,
}

/// The content of the services, as they describe it.
#[derive(Debug, Clone, Deserialize)]
pub struct Facts {
    /// Name of the package on both indexes.
    pub package: String,
    /// Version of the package.
    pub version: String,
    /// The text in its code.
    pub greeting: String,
    /// The last commit of the git repository.
    pub commit: String,
    /// The text of its README.
    pub readme: String,
}

/// A request as the services received it.
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
    /// The status of the response.
    pub status: u16,
}

impl Seen {
    /// A header's value; the first if there are several.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }
}

/// A request for a role, as the services' STS received it.
#[derive(Debug, Clone, Deserialize)]
pub struct Assumed {
    /// ARN of the role.
    pub role_arn: String,
    /// The external id.
    pub external_id: String,
    /// Id of the keys that it was given; none if it was refused.
    pub access_key_id: Option<String>,
}

/// A WebSocket connection as the services saw it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Conversation {
    /// Text messages that they received.
    pub texts: Vec<String>,
    /// Lengths of binary messages that they received.
    pub binaries: Vec<usize>,
    /// The client's close code; none if the connection broke.
    pub closed: Option<u16>,
}

impl Services {
    /// The program, with certificates for these names; `dir` must exist.
    #[must_use]
    pub fn program(binary: &Path, dir: &Path, hosts: &[&str]) -> Program {
        let mut program = Program::new(
            binary,
            ["services".to_owned(), format!("--dir={}", dir.display()), format!("--hosts={}", hosts.join(","))],
        );
        // They run git, which is found on the search path.
        program.env.extend(std::env::var("PATH").map(|path| ("PATH".to_owned(), path)));
        program
    }

    /// Waits until the started services listen.
    ///
    /// # Errors
    /// They do not.
    pub async fn ready(process: &Process, dir: &Path, exchanges: Exchanges) -> Result<Self, Failure> {
        let file = |name: &str| dir.join(name);
        // The control address is written last, after the others.
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
    /// They do not answer.
    pub async fn requests(&self) -> Result<Vec<Seen>, Failure> {
        ask(&self.control, "/requests").await
    }

    /// The address of their STS, which accepts nobody before [`Self::trust`].
    #[must_use]
    pub fn sts(&self) -> String {
        format!("http://{}/sts", self.http)
    }

    /// Lets whoever signs with `own` assume this role with this external id; its keys are valid for `life` seconds.
    ///
    /// # Errors
    /// They do not answer.
    pub async fn trust(&self, own: &Credentials, role: &str, external_id: &str, life: u64) -> Result<(), Failure> {
        let trust = json!({"access_key_id": own.id, "secret_access_key": own.secret, "role_arn": role,
            "external_id": external_id, "life": life});
        let reply = self.control.put("/trust", &trust).await.and_then(|reply| reply.expect(204));
        reply.map(drop).map_err(harness)
    }

    /// Lets their MCP server answer everything with this status; with 200, as it should.
    ///
    /// # Errors
    /// They do not answer.
    pub async fn mcp(&self, status: u16) -> Result<(), Failure> {
        let reply = self.control.put("/mcp", &json!({"status": status})).await.and_then(|reply| reply.expect(204));
        reply.map(drop).map_err(harness)
    }

    /// Every request for a role.
    ///
    /// # Errors
    /// They do not answer.
    pub async fn assumed(&self) -> Result<Vec<Assumed>, Failure> {
        ask(&self.control, "/assumed").await
    }

    /// Every WebSocket connection that has ended, in the order of their ends.
    ///
    /// # Errors
    /// They do not answer.
    pub async fn conversations(&self) -> Result<Vec<Conversation>, Failure> {
        ask(&self.control, "/conversations").await
    }
}

async fn ask<T: DeserializeOwned>(control: &Api, path: &str) -> Result<T, Failure> {
    let reply = control.get(path).await.and_then(|reply| reply.expect(200)).map_err(harness)?;
    serde_json::from_slice(&reply.body).map_err(Failure::harness)
}
