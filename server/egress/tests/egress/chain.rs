//! The credential chain: where credentials come from, and how often it is asked for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Full};
use nagaya_egress::Settings;
use nagaya_fixtures::listen::Listening;
use nagaya_fixtures::tls::Tls;

use crate::support::{Proxy, any, settings};

const HOST: &str = "example.amazonaws.com";

/// A chain that returns new credentials each time; their key ids are numbered.
#[derive(Debug)]
struct Rotating {
    asked: Arc<AtomicUsize>,
    lasting: Option<Duration>,
    takes: Duration,
}

impl ProvideCredentials for Rotating {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let id = format!("AKID{}", self.asked.fetch_add(1, Ordering::Relaxed));
        let ending = self.lasting.map(|lasting| SystemTime::now() + lasting);
        future::ProvideCredentials::new(async move {
            tokio::time::sleep(self.takes).await;
            Ok(Credentials::new(id, "secret", None, ending, "test"))
        })
    }
}

struct Chained {
    proxy: Proxy,
    asked: Arc<AtomicUsize>,
    _target: Listening,
}

impl Chained {
    /// A proxy in front of a target that rejects these key ids, with the error code in a header or in the body.
    async fn start(lasting: Option<Duration>, in_header: bool, refused: &'static [&'static str]) -> Self {
        Self::taking(Duration::ZERO, lasting, in_header, refused).await
    }

    /// The same with a chain that takes so long to answer.
    async fn taking(
        takes: Duration,
        lasting: Option<Duration>,
        in_header: bool,
        refused: &'static [&'static str],
    ) -> Self {
        let tls = Tls::new(&[HOST.to_owned()]).expect("a certificate");
        let ca = tls.ca_pem.clone().into_bytes();
        let answer = move |request: http::Request<hyper::body::Incoming>| async move {
            let signature = request.headers()["authorization"].to_str().expect("text").to_owned();
            let refused = refused.iter().any(|id| signature.contains(&format!("Credential={id}/")));
            let body = if refused && !in_header { "<Error><Code>ExpiredToken</Code></Error>" } else { "{}" };
            let mut response = Response::new(Full::new(Bytes::from(body)).map_err(|no| match no {}).boxed_unsync());
            if refused {
                *response.status_mut() = if in_header { StatusCode::FORBIDDEN } else { StatusCode::BAD_REQUEST };
            }
            if refused && in_header {
                let error = http::HeaderValue::from_static("ExpiredTokenException:http://amazon.example/");
                response.headers_mut().insert("x-amzn-errortype", error);
            }
            response
        };
        let target = Listening::http(any(), Some(tls), answer).await.expect("listens");
        let settings = Settings {
            credentials: format!("{HOST}=sigv4:execute-api:us-east-1").parse().expect("a rule"),
            extra_ca_pem: Some(ca),
            ..settings(&[("example.amazonaws.com:443", target.addr())])
        };
        let asked = Arc::<AtomicUsize>::default();
        let chain = Rotating { asked: asked.clone(), lasting, takes };
        let proxy = Proxy::with_credentials(settings, Some(SharedCredentialsProvider::new(chain)));
        Self { proxy, asked, _target: target }
    }

    /// Sends a request; returns its status and how often the chain has been asked so far.
    async fn ask(&self) -> (String, usize) {
        let answer =
            self.proxy.talk(format!("GET http://{HOST}/ HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n")).await;
        (answer[9..12].to_owned(), self.asked.load(Ordering::Relaxed))
    }
}

/// Credentials can be revoked before their stated expiry. A target's rejection makes the proxy fetch new ones, but at limited
/// intervals, because a client can provoke rejections.
#[tokio::test]
async fn expired_credentials_are_fetched_again() {
    for in_header in [true, false] {
        for lasting in [None, Some(Duration::from_secs(3600))] {
            let chained = Chained::start(lasting, in_header, &["AKID0"]).await;
            assert_eq!(chained.ask().await, (if in_header { "403" } else { "400" }.to_owned(), 1));
            for _ in 0..3 {
                let (status, asked) = chained.ask().await;
                // Credentials without an expiry are fetched again from time to time.
                assert!(
                    status == "200" && (asked == 2 || asked > 2 && lasting.is_none()),
                    "{in_header} {lasting:?}: {asked}"
                );
            }
        }
        let chained = Chained::start(Some(Duration::from_secs(3600)), in_header, &["AKID0", "AKID1"]).await;
        for asked in [1, 2, 2, 2] {
            assert_eq!(chained.ask().await.1, asked, "{in_header}: the second doubt comes too soon");
        }
    }
}

/// Credentials that are still valid are not fetched again.
#[tokio::test]
async fn valid_credentials_are_fetched_once() {
    let chained = Chained::start(Some(Duration::from_secs(3600)), true, &[]).await;
    for _ in 0..3 {
        assert_eq!(chained.ask().await, ("200".to_owned(), 1));
    }
    // These expire too soon to be cached.
    let chained = Chained::start(Some(Duration::from_secs(30)), true, &[]).await;
    let (first, second) = (chained.ask().await, chained.ask().await);
    assert!(second.1 > first.1, "{first:?} {second:?}");
}

/// Whoever needs credentials while they are being fetched waits for the same ones.
#[tokio::test]
async fn twenty_at_once_ask_the_chain_once() {
    let chained = Chained::taking(Duration::from_millis(200), Some(Duration::from_secs(3600)), true, &[]).await;
    let answers = futures::future::join_all((0..20).map(|_| chained.ask())).await;
    assert!(answers.iter().all(|(status, _)| status == "200"), "{answers:?}");
    assert_eq!(chained.asked.load(Ordering::Relaxed), 1);
}
