//! Signing with AWS Signature Version 4, by AWS's own code; what is particular to a proxy is decided here.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings, UriPathNormalizationMode,
    sign,
};
use aws_sigv4::sign::v4;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, DATE, HOST};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::answer::Refusal;
use crate::host::Host;

/// How long the credential chain may take; it asks other hosts in some deployments.
const PATIENCE: Duration = Duration::from_secs(10);
/// Credentials are not used so close to their end: the request has to arrive before it.
const BEFORE_EXPIRY: Duration = Duration::from_secs(60);
/// AWS refuses what is dated more than five minutes off; less than this is not worth correcting.
const WORTH_CORRECTING: Duration = Duration::from_secs(120);
/// Header that names the operation in AWS's JSON protocols: a part of the request, not of its signature.
pub(crate) const X_AMZ_TARGET: &str = "x-amz-target";

/// Signs requests.
pub(crate) struct Signer {
    provider: Option<SharedCredentialsProvider>,
    /// Credentials that say when they end; others are asked for each time. One request at a time asks.
    current: tokio::sync::Mutex<Option<Credentials>>,
    clocks: Clocks,
}

/// What a request is signed for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scope<'a> {
    pub(crate) service: &'a str,
    pub(crate) region: &'a str,
}

impl Signer {
    pub(crate) fn new(provider: Option<SharedCredentialsProvider>) -> Self {
        Self { provider, current: tokio::sync::Mutex::default(), clocks: Clocks::default() }
    }

    /// The credentials as they are now.
    pub(crate) async fn credentials(&self) -> Result<Credentials, Refusal> {
        let provider = self.provider.as_ref().ok_or_else(Refusal::no_credentials)?;
        let lookup = async {
            let mut current = self.current.lock().await;
            let fresh = |credentials: &Credentials| {
                credentials.expiry().is_some_and(|expiry| expiry > SystemTime::now() + BEFORE_EXPIRY)
            };
            if let Some(credentials) = current.as_ref().filter(|credentials| fresh(credentials)) {
                return Ok(credentials.clone());
            }
            let credentials = provider.provide_credentials().await?;
            *current = Some(credentials.clone());
            Ok::<_, aws_credential_types::provider::error::CredentialsError>(credentials)
        };
        match tokio::time::timeout(PATIENCE, lookup).await {
            Ok(Ok(credentials)) => Ok(credentials),
            Ok(Err(error)) => {
                tracing::error!(error = &error as &dyn std::error::Error, "no AWS credentials");
                Err(Refusal::no_credentials())
            }
            Err(_) => {
                tracing::error!("no AWS credentials: the chain did not answer in time");
                Err(Refusal::no_credentials())
            }
        }
    }

    /// Adds a signature to the headers of a request to `host`.
    pub(crate) async fn sign(
        &self,
        scope: Scope<'_>,
        host: &Host,
        (method, path): (&Method, &PathAndQuery),
        headers: &mut HeaderMap,
        body_sha256: &str,
    ) -> Result<(), Refusal> {
        let credentials = self.credentials().await?;
        let at = self.clocks.now(host);
        add_signature(&credentials, scope, at, (method, path), headers, body_sha256)
    }

    /// Learns from an answer how far the target's clock is from this one. True if a request that was refused may have been
    /// refused for that, and is worth signing again.
    pub(crate) fn learn(&self, host: &Host, headers: &HeaderMap) -> bool {
        let date = headers.get(DATE).and_then(|value| value.to_str().ok());
        date.and_then(http_date).is_some_and(|theirs| self.clocks.learn(host, theirs))
    }
}

/// Signs a request whose path and body are exactly those that will be sent.
///
/// Signed are host, content type, time, session token and what names the operation: nothing that a hop on the way may change.
fn add_signature(
    credentials: &Credentials,
    scope: Scope<'_>,
    at: SystemTime,
    (method, path): (&Method, &PathAndQuery),
    headers: &mut HeaderMap,
    body_sha256: &str,
) -> Result<(), Refusal> {
    let mut settings = SigningSettings::default();
    // The path was brought into the form in which it is sent; what is signed is that.
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    // What is sent is encoded once; all services but S3 sign it encoded once more (AWS, "Create a signed AWS API request").
    if is_s3(scope.service) {
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    }
    let identity = credentials.clone().into();
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(scope.region)
        .name(scope.service)
        .time(at)
        .settings(settings)
        .build()
        .map_err(|_| Refusal::internal("signing"))?;
    let host = headers.get(HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let uri = format!("https://{host}{path}");
    let signed = [HOST, CONTENT_TYPE, HeaderName::from_static(X_AMZ_TARGET)];
    let signed = signed.iter().filter_map(|name| Some((name.as_str(), headers.get(name)?.to_str().ok()?)));
    let request = SignableRequest::new(method.as_str(), uri, signed, SignableBody::Precomputed(body_sha256.to_owned()))
        .map_err(|_| Refusal::malformed("the request cannot be signed"))?;
    let made = sign(request, &parameters.into()).map_err(|_| Refusal::malformed("the request cannot be signed"))?;
    let (instructions, _signature) = made.into_parts();
    for (name, value) in instructions.headers() {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| Refusal::internal("signing"))?;
        let mut value = HeaderValue::from_str(value).map_err(|_| Refusal::internal("signing"))?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(())
}

fn is_s3(service: &str) -> bool {
    service == "s3" || service.starts_with("s3-")
}

/// A path and query in a form that signer and target cannot read differently.
///
/// Where a service has its paths normalised before they are signed (all but S3), the normalised path is what is sent. A `+`
/// in a query means a space to some and itself to others; it is sent as the space that forms mean by it.
pub(crate) fn unambiguous(path: &PathAndQuery, service: &str) -> Result<PathAndQuery, Refusal> {
    let normal = if is_s3(service) { path.path().to_owned() } else { without_dots(path.path()) };
    let whole = match path.query() {
        Some(query) => format!("{normal}?{}", query.replace('+', "%20")),
        None => normal,
    };
    whole.parse().map_err(|_| Refusal::malformed("the path is not understood"))
}

/// RFC 3986, 5.2.4, and no empty segments.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            name => kept.push(name),
        }
    }
    let directory = !kept.is_empty() && ["/", "/.", "/.."].iter().any(|end| path.ends_with(end));
    format!("/{}{}", kept.join("/"), if directory { "/" } else { "" })
}

/// A request that its sender has signed in its query or its body cannot be signed again, and is told so.
pub(crate) fn refuse_signed(path: &PathAndQuery, headers: &HeaderMap) -> Result<(), Refusal> {
    let names = path.query().into_iter().flat_map(|query| query.split('&')).filter_map(|pair| pair.split('=').next());
    for name in names {
        if name.eq_ignore_ascii_case("x-amz-signature") || name.eq_ignore_ascii_case("x%2damz%2dsignature") {
            let message = "a pre-signed request cannot be signed again";
            return Err(Refusal::signed_already("presigned", message));
        }
    }
    let says = |name: HeaderName, what: &str| {
        let mut values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.any(|value| value.to_ascii_lowercase().contains(what))
    };
    if says(CONTENT_ENCODING, "aws-chunked") || says(HeaderName::from_static("x-amz-content-sha256"), "streaming-") {
        let message = "a body signed in chunks cannot be signed again; turn that off in the client";
        return Err(Refusal::signed_already("aws_chunked", message));
    }
    Ok(())
}

/// How far the clocks of targets are from this one, in seconds; of those where it matters.
#[derive(Debug, Default)]
struct Clocks(Mutex<HashMap<Host, i64>>);

impl Clocks {
    fn now(&self, host: &Host) -> SystemTime {
        let ahead = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(host).copied().unwrap_or_default();
        let by = Duration::from_secs(ahead.unsigned_abs());
        if ahead < 0 { SystemTime::now() - by } else { SystemTime::now() + by }
    }

    /// True if what was believed so far was wrong by enough to matter.
    fn learn(&self, host: &Host, theirs: SystemTime) -> bool {
        let off = match theirs.duration_since(self.now(host)) {
            Ok(ahead) => ahead,
            Err(behind) => behind.duration(),
        };
        if off < WORTH_CORRECTING {
            return false;
        }
        let ahead = match theirs.duration_since(SystemTime::now()) {
            Ok(ahead) => i64::try_from(ahead.as_secs()).unwrap_or_default(),
            Err(behind) => -i64::try_from(behind.duration().as_secs()).unwrap_or_default(),
        };
        tracing::warn!(%host, ahead_s = ahead, "the target's clock is not this one's; signing by the target's");
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(host.clone(), ahead);
        true
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, 5.6.7).
fn http_date(text: &str) -> Option<SystemTime> {
    let time = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(time.as_second().try_into().ok()?))
}

#[cfg(test)]
#[path = "sigv4_tests.rs"]
mod tests;
