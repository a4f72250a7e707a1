//! The bucket's HTTP client: HTTP/1.1, TLS with the host's certificate authorities, credentials from the AWS chain.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::StatusCode;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector as Tcp;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use nagaya_egress::Chain;
use object_store::aws::AwsCredential;
use object_store::client::{
    ClientOptions, CredentialProvider, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest,
    HttpRequestBody, HttpResponse, HttpResponseBody, HttpService,
};

/// Time limit for connecting to the endpoint.
const CONNECT: Duration = Duration::from_secs(3);
/// Time limit from a request to the head of its response.
const HEAD: Duration = Duration::from_secs(10);
/// How long an idle connection stays open.
const IDLE: Duration = Duration::from_secs(30);

/// Maximum number of bytes read of the body of an access error.
const MAX_REFUSAL_BYTES: usize = 16 * 1024;

/// The HTTP client of one bucket.
#[derive(Debug, Clone)]
pub(super) struct Link(Client<HttpsConnector<Tcp>, HttpRequestBody>);

impl Link {
    /// Creates the client. It connects at the first request.
    pub(super) fn new() -> std::io::Result<Self> {
        let mut tcp = Tcp::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT));
        tcp.set_nodelay(true);
        let provider = rustls::crypto::ring::default_provider();
        let tls = HttpsConnectorBuilder::new().with_provider_and_native_roots(provider)?;
        // Plain HTTP is used only if the endpoint's URL says so; the configuration has checked that URL.
        let connector = tls.https_or_http().enable_http1().wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(connector);
        Ok(Self(client))
    }
}

impl HttpConnector for Link {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Link {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        match tokio::time::timeout(HEAD, self.0.request(request)).await {
            // object_store does not report the status of every failed operation, so a denied one is classified here.
            Ok(Ok(response)) if matches!(response.status(), StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED) => {
                Err(HttpError::new(HttpErrorKind::Unknown, Refusal::of(response).await))
            }
            Ok(Ok(response)) => Ok(response.map(|body| {
                HttpResponseBody::new(body.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, error)))
            })),
            Ok(Err(error)) if error.is_connect() => Err(HttpError::new(HttpErrorKind::Connect, error)),
            Ok(Err(error)) => Err(HttpError::new(HttpErrorKind::Request, error)),
            Err(slow) => Err(HttpError::new(HttpErrorKind::Timeout, slow)),
        }
    }
}

/// The bucket denied access (status 401 or 403).
#[derive(Debug, thiserror::Error)]
#[error("{status}: {code}")]
pub(super) struct Refusal {
    status: StatusCode,
    /// S3's error code.
    code: String,
}

impl Refusal {
    async fn of(response: http::Response<Incoming>) -> Self {
        let status = response.status();
        let body = tokio::time::timeout(HEAD, Limited::new(response.into_body(), MAX_REFUSAL_BYTES).collect()).await;
        let text = match body {
            Ok(Ok(body)) => String::from_utf8_lossy(&body.to_bytes()).into_owned(),
            // The status suffices.
            Ok(Err(_)) | Err(_) => String::new(),
        };
        let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>")).map(|(code, _)| code);
        let is_code = |code: &&str| code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
        Self { status, code: code.filter(is_code).unwrap_or("no code").to_owned() }
    }
}

/// Adapts the credential chain to object_store.
#[derive(Debug)]
pub(super) struct Keys(pub(super) Chain);

#[async_trait]
impl CredentialProvider for Keys {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let found = self.0.credentials().await.map_err(|error| object_store::Error::Unauthenticated {
            path: "S3_BUCKET_NAME".into(),
            source: Box::new(error),
        })?;
        Ok(Arc::new(AwsCredential {
            key_id: found.access_key_id().to_owned(),
            secret_key: found.secret_access_key().to_owned(),
            token: found.session_token().map(ToOwned::to_owned),
        }))
    }
}
