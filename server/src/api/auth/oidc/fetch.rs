//! Fetches JSON from the issuer: with a deadline, a limit of size, and no redirects.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::de::DeserializeOwned;

/// Time limit for connecting.
const CONNECT: Duration = Duration::from_secs(3);
/// Time limit for a whole answer.
const WHOLE: Duration = Duration::from_secs(5);
/// Longest answer, in bytes.
const LONGEST: usize = 256 * 1024;

/// Why the issuer's keys are not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// It cannot be reached, or the connection broke.
    #[error("{0}")]
    Connection(String),
    /// It does not answer in time.
    #[error("no answer within {WHOLE:?}")]
    Slow,
    /// It answers with something else.
    #[error("{0}")]
    Answer(String),
}

/// The HTTP client for the issuer: TLS with the host's certificate authorities, or plain HTTP if the issuer's URL says so.
#[derive(Debug)]
pub(super) struct Fetch(Client<HttpsConnector<HttpConnector>, Empty<Bytes>>);

impl Fetch {
    pub(super) fn new() -> io::Result<Self> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT));
        let provider = rustls::crypto::ring::default_provider();
        let tls = HttpsConnectorBuilder::new().with_provider_and_native_roots(provider)?;
        let connector = tls.https_or_http().enable_http1().wrap_connector(tcp);
        // It is asked every few minutes: no connection is worth keeping.
        Ok(Self(Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector)))
    }

    /// The JSON at a URL.
    pub(super) async fn json<T: DeserializeOwned>(&self, url: &str) -> Result<T, FetchError> {
        let uri = url.parse().map_err(|_| FetchError::Answer(format!("{url:?} is not a URL")))?;
        let exchange = async {
            let answer = self.0.get(uri).await.map_err(|error| FetchError::Connection(causes(&error)))?;
            let status = answer.status();
            if status != http::StatusCode::OK {
                return Err(FetchError::Answer(format!("{url} answers {status}")));
            }
            let body = Limited::new(answer.into_body(), LONGEST).collect().await;
            let body = body.map_err(|error| FetchError::Answer(format!("{url}: {error}")))?.to_bytes();
            serde_json::from_slice(&body).map_err(|error| FetchError::Answer(format!("{url}: {error}")))
        };
        tokio::time::timeout(WHOLE, exchange).await.unwrap_or(Err(FetchError::Slow))
    }
}

/// An error with its causes: the client keeps the details in the innermost one.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
