//! Requests that the program around the proxy makes itself, to addresses that a client has chosen: under a policy, and with the checks of
//! every address, as if the client had made them. No credential is added, and no redirection is followed.

use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderName};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited};

use crate::answer::Refusal;
use crate::body::Upload;
use crate::policy::{Asked, Policy, PolicyError, decide};
use crate::proxy::Egress;
use crate::quota::Resource;
use crate::target::Target;
use crate::upstream::{Destination, Dialled};

/// How long the answer may take, once the connection is there.
const PATIENCE: Duration = Duration::from_secs(10);

/// A POST request to make.
#[derive(Debug)]
pub struct Outgoing<'a> {
    /// The address: `https` only.
    pub url: &'a str,
    /// Headers beside `Host` and `Content-Length`.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// Size of the answer's body, in bytes, at most.
    pub most: usize,
}

/// Why a request was not answered.
#[derive(Debug, thiserror::Error)]
pub enum OutgoingError {
    /// The address or a header cannot be used.
    #[error(transparent)]
    Request(#[from] PolicyError),
    /// The policy denies it, or the target does not answer; the reason in one word, and as a sentence.
    #[error("{0}: {1}")]
    Failed(&'static str, &'static str),
    /// The answer is longer than allowed, or breaks off.
    #[error("the answer is too long or incomplete")]
    Answer,
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Slow(Duration),
}

impl From<Refusal> for OutgoingError {
    fn from(refusal: Refusal) -> Self {
        Self::Failed(refusal.decision.reason().unwrap_or("failed"), refusal.message())
    }
}

impl Egress {
    /// Makes a POST request under a policy, and returns the answer's status and body.
    ///
    /// # Errors
    /// The policy denies it, the address is none that may be connected to, or there is no complete answer in time.
    pub async fn post(&self, policy: &Policy, request: Outgoing<'_>) -> Result<(StatusCode, Bytes), OutgoingError> {
        let bad = |message: &str| PolicyError::new("url", message);
        let rest = request.url.strip_prefix("https://").ok_or_else(|| bad("accepted: https://host/path"))?;
        let (target, path) = Target::of_url(rest, 443).map_err(|why| bad(why.message()))?;
        let asked = Asked::new(&target, Method::POST.as_str(), &path, None);
        decide(self.ground(), policy, true, &asked).ruling?;
        let addresses = self.resolver.resolve(&target.host, target.port).await.map_err(Refusal::from)?;
        let quota = self.quotas.listener(None);
        let descriptor = quota.take(Resource::Descriptors, 1).ok_or_else(Refusal::too_many_connections)?;
        let stream = self.dialer.dial(&addresses).await?;
        let to = Destination { tls: true, host: &target.host, addresses: &addresses, credential: None, owner: 0 };
        let mut lease = self.dialer.begin(to, Dialled { stream, _descriptor: descriptor }).await?;
        let host = match target.port {
            443 => target.host.text().into_owned(),
            port => format!("{}:{port}", target.host.text()),
        };
        let mut built = Request::builder().method(Method::POST).uri(path.as_str()).header(HOST, host);
        for (name, value) in &request.headers {
            let mut value = HeaderValue::from_str(value).map_err(|_| PolicyError::new("headers", *name))?;
            value.set_sensitive(true);
            built = built.header(HeaderName::from_static(name), value);
        }
        let built = built.body(Upload::Whole(request.body.into()));
        let built = built.map_err(|_| PolicyError::new("headers", "a header is none"))?;
        let sent = lease.connection.sender.send_request(built);
        let answer = async {
            let response = lease.connection.during(sent).await.map_err(|error| crate::upstream::broken(&error))?;
            let status = response.status();
            let body = lease.connection.during(Limited::new(response.into_body(), request.most).collect()).await;
            Ok((status, body.map_err(|_| OutgoingError::Answer)?.to_bytes()))
        };
        tokio::time::timeout(PATIENCE, answer).await.unwrap_or(Err(OutgoingError::Slow(PATIENCE)))
    }

    /// Whether the operator's rules and a policy allow anything that a pattern of hosts matches: a host, `*.suffix` or an address, with an
    /// optional `:port`.
    ///
    /// # Errors
    /// The pattern is none.
    pub fn may_reach(&self, policy: &Policy, pattern: &str) -> Result<bool, PolicyError> {
        let accepted = "accepted: a host, *.suffix or an address ([IPv6] in brackets), with an optional :port";
        let parsed = crate::allow::parse_pattern(pattern);
        let (pattern, port) = parsed.ok_or_else(|| PolicyError::new("host", accepted))?;
        Ok(policy.meets(self.ground().operator, &pattern, port))
    }
}
