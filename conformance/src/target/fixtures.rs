//! The scripted model endpoint and the origins, started as processes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::process::{Process, Program};
use crate::client::http::Api;
use crate::harness::exchanges::Exchanges;
use crate::harness::failure::Failure;
use crate::harness::poll::eventually;

/// A gateway that speaks the Messages API.
pub const GATEWAY: &str = "gateway.conformance.test";
/// The host of Anthropic's own Messages API.
pub const ANTHROPIC: &str = "api.anthropic.com";
/// Hosts that the scripted model answers for.
const MODEL_HOSTS: [&str; 4] =
    ["bedrock-runtime.us-east-1.amazonaws.com", "bedrock.us-east-1.amazonaws.com", ANTHROPIC, GATEWAY];

/// How long a fixture may take to listen.
const START_LIMIT: Duration = Duration::from_secs(10);

/// Waits until the file `path` contains an address.
///
/// # Errors
/// It does not within `limit`, or `process` exits first.
pub async fn address(process: &Process, path: &Path, limit: Duration) -> Result<String, Failure> {
    let found = eventually(limit, format!("an address in {}", path.display()), || async {
        let text = std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        match (text.contains(':'), process.ended().await) {
            (true, _) => Ok(Ok(text)),
            (false, None) => Err(format!("{text:?}, and this was printed: {}", process.printed())),
            (false, Some(status)) => Ok(Err(Failure::assertion(format!(
                "the process ended ({status}) before it listened; it printed: {}",
                process.printed()
            )))),
        }
    });
    found.await?
}

/// The scripted model endpoint. The directives in a prompt decide what it answers.
#[derive(Debug, Clone)]
pub struct Model {
    process: Process,
    /// The address at which it listens, with TLS.
    pub address: String,
    /// The certificate authority of its certificate, as PEM.
    pub ca_pem: String,
    control: Api,
}

/// Credentials that exist for one scenario only.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Access key id.
    pub id: String,
    /// Secret access key.
    pub secret: String,
}

impl Model {
    /// The program: it listens on free ports of the loopback interface and accepts only `credentials`, and for the Messages API only
    /// `key`, if there is one.
    #[must_use]
    pub fn program(binary: &Path, dir: &Path, credentials: &Credentials, key: Option<&str>) -> Program {
        let file = |name: &str| dir.join(name).display().to_string();
        let mut args = vec![
            "model".to_owned(),
            "--listen=127.0.0.1:0".to_owned(),
            format!("--addr-file={}", file("model.addr")),
            format!("--ca-out={}", file("model-ca.pem")),
            format!("--access-key-id={}", credentials.id),
            format!("--secret-access-key={}", credentials.secret),
            "--control-listen=127.0.0.1:0".to_owned(),
            format!("--control-addr-file={}", file("model-control.addr")),
            format!("--hosts={}", MODEL_HOSTS.join(",")),
        ];
        // A gateway may want it in the other header.
        args.extend(
            key.into_iter()
                .flat_map(|key| [format!("--anthropic-api-key={key}"), format!("--anthropic-auth-token={key}")]),
        );
        Program::new(binary, args)
    }

    /// Waits until a started endpoint listens.
    ///
    /// # Errors
    /// It does not.
    pub async fn ready(process: Process, dir: &Path, exchanges: Exchanges) -> Result<Self, Failure> {
        let found = async {
            let address = address(&process, &dir.join("model.addr"), START_LIMIT).await?;
            let control = self::address(&process, &dir.join("model-control.addr"), START_LIMIT).await?;
            let ca_pem = std::fs::read_to_string(dir.join("model-ca.pem"))?;
            Ok::<_, Failure>((address, control, ca_pem))
        };
        let (address, control, ca_pem) = found.await.map_err(harness)?;
        let control = Api::new(&format!("http://{control}"), None, exchanges)?;
        Ok(Self { process, address, ca_pem, control })
    }

    /// Every request it has received, in order.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn requests(&self) -> Result<Vec<ModelRequest>, Failure> {
        let reply = self.control.get("/requests").await.and_then(|reply| reply.expect(200)).map_err(harness)?;
        let list: Vec<Value> = serde_json::from_slice(&reply.body).map_err(Failure::harness)?;
        Ok(list.into_iter().map(ModelRequest).collect())
    }

    /// The process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }
}

/// A failure of a fixture is no failure of the deployment.
pub(super) fn harness(failure: Failure) -> Failure {
    Failure::harness(format!("fixture: {failure}"))
}

/// A request as the model endpoint received it.
#[derive(Debug, Clone)]
pub struct ModelRequest(pub Value);

impl ModelRequest {
    /// A digest of each message that the request contains, whatever it says about caches.
    #[must_use]
    pub fn messages(&self) -> Vec<&str> {
        self.0["messages"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// A digest of all that the request contains beside its messages and who asks, whatever it says about caches.
    #[must_use]
    pub fn rest(&self) -> &str {
        self.0["rest"].as_str().unwrap_or_default()
    }

    /// The role of each message and what it says, without what the driver reminds of: texts, `uses TOOL`, `result: TEXT`. Messages of the
    /// role `system`, which are the driver's, are left out.
    #[must_use]
    pub fn said(&self) -> Vec<(&str, &str)> {
        let messages = self.0["said"].as_array().into_iter().flatten();
        let pairs = messages.filter_map(|message| Some((message[0].as_str()?, message[1].as_str()?)));
        pairs.filter(|(role, _)| *role != "system").collect()
    }

    /// Whether it offers tools: the driver's own small requests, for a title for example, do not.
    #[must_use]
    pub fn has_tools(&self) -> bool {
        self.0["has_tools"] == true
    }

    /// The instructions, the last 16 KiB of them.
    #[must_use]
    pub fn system(&self) -> &str {
        self.0["system"].as_str().unwrap_or_default()
    }

    /// `valid`, `missing` or `invalid`.
    #[must_use]
    pub fn signature(&self) -> &str {
        self.0["signature"].as_str().unwrap_or("unknown")
    }

    /// The key id in its signature.
    #[must_use]
    pub fn access_key_id(&self) -> Option<&str> {
        self.0["access_key_id"].as_str()
    }

    /// Whether it had a header of this name.
    #[must_use]
    pub fn has_header(&self, name: &str) -> bool {
        self.0["headers_seen"].as_array().is_some_and(|names| names.iter().any(|one| one == name))
    }

    /// The status of the response.
    #[must_use]
    pub fn status(&self) -> u64 {
        self.0["status"].as_u64().unwrap_or(0)
    }

    /// The API that it speaks: `bedrock` or `anthropic`.
    #[must_use]
    pub fn api(&self) -> &str {
        self.0["api"].as_str().unwrap_or_default()
    }

    /// The id of the model that it is for.
    #[must_use]
    pub fn model(&self) -> Option<&str> {
        self.0["model"].as_str()
    }

    /// The effort that it asks for.
    #[must_use]
    pub fn effort(&self) -> Option<&str> {
        self.0["effort"].as_str()
    }

    /// Media types of the images and documents in the last message that has any.
    #[must_use]
    pub fn media(&self) -> Vec<&str> {
        self.0["media"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// Size of its body.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0["body_bytes"].as_u64().unwrap_or(0)
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &str {
        self.0["path"].as_str().unwrap_or_default()
    }
}

/// How an origin speaks.
#[derive(Debug, Clone, Copy)]
pub enum OriginKind {
    /// HTTP; the response describes the request.
    Plain,
    /// The same over TLS, with a certificate for these names.
    Tls(&'static str),
    /// Sends back whatever it gets.
    Raw,
    /// HTTP on kept connections: the body of any request but a POST is read as the next request. The response to `/path` is
    /// `/path`, to `/kept` the bodies of all POST requests; one to `/stray…` is followed by a stray 408.
    Naive,
    /// The same over TLS, with a certificate for these names.
    NaiveTls(&'static str),
}

/// A server that a room may be allowed to reach.
#[derive(Debug, Clone)]
pub struct Origin {
    /// Its process.
    pub process: Process,
    /// Where it listens.
    pub address: String,
    /// For HTTPS: where its certificate authority's PEM file is.
    pub ca: Option<PathBuf>,
}

impl Origin {
    /// The program; `name` distinguishes several of them.
    #[must_use]
    pub fn program(binary: &Path, dir: &Path, name: &str, kind: OriginKind) -> Program {
        let file = |what: &str| dir.join(format!("{name}.{what}")).display().to_string();
        let mut args =
            vec!["origin".to_owned(), "--listen=127.0.0.1:0".to_owned(), format!("--addr-file={}", file("addr"))];
        args.extend(match kind {
            OriginKind::Plain | OriginKind::Tls(_) => None,
            OriginKind::Raw => Some("--raw".to_owned()),
            OriginKind::Naive | OriginKind::NaiveTls(_) => Some("--naive".to_owned()),
        });
        if let OriginKind::Tls(hosts) | OriginKind::NaiveTls(hosts) = kind {
            args.extend(["--tls".to_owned(), format!("--ca-out={}", file("ca")), format!("--hosts={hosts}")]);
        }
        Program::new(binary, args)
    }

    /// Waits until a started endpoint listens.
    ///
    /// # Errors
    /// It does not.
    pub async fn ready(process: Process, dir: &Path, name: &str, kind: OriginKind) -> Result<Self, Failure> {
        let address = address(&process, &dir.join(format!("{name}.addr")), START_LIMIT).await.map_err(harness)?;
        let tls = matches!(kind, OriginKind::Tls(_) | OriginKind::NaiveTls(_));
        Ok(Self { process, address, ca: tls.then(|| dir.join(format!("{name}.ca"))) })
    }
}
