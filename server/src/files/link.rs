//! The way to the bucket: HTTP/1.1, TLS with the host's authorities, and the AWS credential chain.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http_body_util::BodyExt;
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

/// How long it may take to reach the endpoint.
const CONNECT: Duration = Duration::from_secs(3);
/// How long one request may take until the head of its answer.
const HEAD: Duration = Duration::from_secs(10);
/// How long a connection nobody uses stays open.
const IDLE: Duration = Duration::from_secs(30);

/// The client of one bucket.
#[derive(Debug, Clone)]
pub(super) struct Link(Client<HttpsConnector<Tcp>, HttpRequestBody>);

impl Link {
    /// Nothing is connected before the first request.
    pub(super) fn new() -> std::io::Result<Self> {
        let mut tcp = Tcp::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT));
        tcp.set_nodelay(true);
        let provider = rustls::crypto::ring::default_provider();
        let tls = HttpsConnectorBuilder::new().with_provider_and_native_roots(provider)?;
        // Plain HTTP goes where the endpoint says so; the configuration has seen to that.
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
            Ok(Ok(response)) => Ok(response
                .map(|body| HttpResponseBody::new(body.map_err(|e| HttpError::new(HttpErrorKind::Interrupted, e))))),
            Ok(Err(error)) if error.is_connect() => Err(HttpError::new(HttpErrorKind::Connect, error)),
            Ok(Err(error)) => Err(HttpError::new(HttpErrorKind::Request, error)),
            Err(slow) => Err(HttpError::new(HttpErrorKind::Timeout, slow)),
        }
    }
}

/// The chain as object_store asks it.
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
