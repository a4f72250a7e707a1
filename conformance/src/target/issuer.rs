//! A small issuer of OpenID Connect, started as a process.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::fixtures::{address, harness};
use super::process::{Process, Program};
use crate::client::http::Api;
use crate::harness::exchanges::Exchanges;
use crate::harness::failure::Failure;

/// How long it may take to listen.
const START_LIMIT: Duration = Duration::from_secs(10);

/// An issuer whose tokens a deployment accepts.
#[derive(Debug, Clone)]
pub struct Issuer {
    /// Its process.
    pub process: Process,
    /// The issuer as its tokens name it.
    pub url: String,
    control: Api,
}

impl Issuer {
    /// The audience of its tokens.
    pub const AUDIENCE: &str = "nagaya-tests";

    /// The program.
    #[must_use]
    pub fn program(binary: &Path, dir: &Path, name: &str) -> Program {
        Program::new(
            binary,
            ["issuer".to_owned(), format!("--addr-file={}", dir.join(format!("{name}.addr")).display())],
        )
    }

    /// Waits until it listens.
    ///
    /// # Errors
    /// It does not.
    pub async fn ready(process: Process, dir: &Path, name: &str, exchanges: Exchanges) -> Result<Self, Failure> {
        let address = address(&process, &dir.join(format!("{name}.addr")), START_LIMIT).await.map_err(harness)?;
        let url = format!("http://{address}");
        let control = Api::new(&url, None, exchanges)?;
        Ok(Self { process, url, control })
    }

    /// A token: a valid one whose claims are replaced, field by field, by those in `order`, and so its header.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn mint(&self, order: &Value) -> Result<String, Failure> {
        let reply = self.control.post("/mint", order).await.and_then(|reply| reply.expect(200)).map_err(harness)?;
        Ok(reply.json()?["token"].as_str().unwrap_or_default().to_owned())
    }

    /// Replaces all keys.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn rotate(&self) -> Result<(), Failure> {
        self.control.post("/rotate", &json!({})).await.and_then(|reply| reply.expect(200)).map(drop).map_err(harness)
    }
}
