//! The S3 server that rooms' files are kept in, started as a process, with any fault a scenario asks for.

use std::path::Path;
use std::time::Duration;

use http::Method;
use serde::Deserialize;

use super::fixtures::{Credentials, address, harness};
use super::process::{Process, Program};
use crate::client::http::Api;
use crate::harness::exchanges::Exchanges;
use crate::harness::failure::Failure;

/// Name of its bucket.
pub const BUCKET: &str = "rooms";
/// How long it may take to listen.
const START_LIMIT: Duration = Duration::from_secs(10);

/// A running S3 server on the loopback interface.
#[derive(Debug, Clone)]
pub struct Storage {
    /// Address of the S3 server.
    pub address: String,
    /// The credentials that it accepts.
    pub credentials: Credentials,
    control: Api,
}

/// An object in the bucket.
#[derive(Debug, Clone, Deserialize)]
pub struct Object {
    /// Key of the object.
    pub key: String,
    /// Content of the object, if it is text.
    pub text: Option<String>,
}

/// A request as the server received it.
#[derive(Debug, Clone, Deserialize)]
pub struct Asked {
    /// Method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The status of the response; 0 if there was none.
    pub status: u16,
}

impl Storage {
    /// The program; `dir` must exist.
    #[must_use]
    pub fn program(binary: &Path, dir: &Path, credentials: &Credentials) -> Program {
        let (id, secret) = (&credentials.id, &credentials.secret);
        let keys = [format!("--access-key-id={id}"), format!("--secret-access-key={secret}")];
        let args = ["s3".to_owned(), format!("--dir={}", dir.display()), format!("--bucket={BUCKET}")];
        Program::new(binary, args.into_iter().chain(keys))
    }

    /// Waits until a started server listens.
    ///
    /// # Errors
    /// It does not.
    pub async fn ready(
        process: &Process,
        dir: &Path,
        credentials: Credentials,
        exchanges: Exchanges,
    ) -> Result<Self, Failure> {
        // The control address is written last, after the other.
        let control = address(process, &dir.join("control.addr"), START_LIMIT).await.map_err(harness)?;
        let address = std::fs::read_to_string(dir.join("s3.addr"))?.trim().to_owned();
        Ok(Self { address, credentials, control: Api::new(&format!("http://{control}"), None, exchanges)? })
    }

    /// Sets the fault of the server: `none`, `refuse`, `hang`, `fail`, `down`, or the number of the one request that
    /// fails.
    ///
    /// # Errors
    /// If the fixture refuses the setting.
    pub async fn fault(&self, fault: &str) -> Result<(), Failure> {
        let reply = self.control.send(Method::PUT, "/fault", Some(fault), &[]).await;
        reply.and_then(|reply| reply.expect(204)).map_err(harness).map(|_| ())
    }

    /// Every object, ordered by key.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn objects(&self) -> Result<Vec<Object>, Failure> {
        self.ask("/objects").await
    }

    /// Every request that it has received.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn requests(&self) -> Result<Vec<Asked>, Failure> {
        self.ask("/requests").await
    }

    async fn ask<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let reply = self.control.get(path).await.and_then(|reply| reply.expect(200)).map_err(harness)?;
        serde_json::from_slice(&reply.body).map_err(Failure::harness)
    }
}
