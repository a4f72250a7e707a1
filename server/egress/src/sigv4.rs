//! Signing with AWS Signature Version 4, by AWS's own code; what is particular to a proxy is decided here.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
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
/// No clock is believed to be farther off than this.
const FARTHEST: Duration = Duration::from_secs(24 * 3600);
/// Hosts whose clocks are remembered.
const MOST_CLOCKS: usize = 1024;
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
            if credentials.expiry().is_some_and(|expiry| expiry <= SystemTime::now()) {
                return Err(CredentialsError::provider_error("they have expired"));
            }
            *current = Some(credentials.clone());
            Ok::<_, CredentialsError>(credentials)
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

    /// Forgets what was learned of the target's clock.
    pub(crate) fn unlearn(&self, host: &Host) {
        self.clocks.0.lock().unwrap_or_else(PoisonError::into_inner).remove(host);
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
    if signed.iter().any(|name| headers.get_all(name).iter().count() > 1) {
        return Err(Refusal::malformed("a header that is signed is there twice"));
    }
    if signed.iter().filter_map(|name| headers.get(name)).any(|value| value.to_str().is_err()) {
        return Err(Refusal::malformed("a header that is signed is not plain ASCII"));
    }
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
    service == "s3" || service.starts_with("s3-") || service == "s3express"
}

/// A path and query in a form that signer and target cannot read differently.
///
/// Where a service has its paths normalised before they are signed (all but S3), the normalised path is what is sent. S3
/// signs the path decoded and encoded anew, so it is sent encoded the one way that leaves it the same. A `+` in a query
/// means a space to some and itself to others; it is sent as the space that forms mean by it.
pub(crate) fn unambiguous(path: &PathAndQuery, service: &str) -> Result<PathAndQuery, Refusal> {
    let normal = if is_s3(service) { encoded(path.path()) } else { without_dots(path.path()) };
    let whole = match path.query() {
        Some(query) => format!("{normal}?{}", query.replace('+', "%20")),
        None => normal,
    };
    whole.parse().map_err(|_| Refusal::malformed("the path is not understood"))
}

/// All but the unreserved characters and slashes percent-encoded (RFC 3986, 2.3), once.
fn encoded(path: &str) -> String {
    decoded(path).into_iter().fold(String::with_capacity(path.len()), |mut out, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
        out
    })
}

/// Percent-decoded; what is no encoding stays as it is.
fn decoded(text: &str) -> Vec<u8> {
    let (mut rest, mut out) = (text.as_bytes(), Vec::with_capacity(text.len()));
    while let Some((&first, after)) = rest.split_first() {
        let escape = after.first_chunk::<2>().filter(|two| first == b'%' && two.iter().all(u8::is_ascii_hexdigit));
        let escaped = escape.and_then(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
        rest = if escaped.is_some() { &after[2..] } else { after };
        out.push(escaped.unwrap_or(first));
    }
    out
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

/// What follows `X-Amz-` in the parameters of a pre-signed query.
const SIGNING: [&str; 4] = ["signature", "credential", "algorithm", "security-token"];

/// A request that its sender has signed in its query or its body cannot be signed again, and is told so.
pub(crate) fn refuse_signed(path: &PathAndQuery, headers: &HeaderMap) -> Result<(), Refusal> {
    let names = path.query().into_iter().flat_map(|query| query.split('&')).filter_map(|pair| pair.split('=').next());
    for name in names {
        // Signature Version 4's, and Version 2's, however they are spelled.
        let name = String::from_utf8_lossy(&decoded(name)).to_ascii_lowercase();
        if name.starts_with("x-amz-") && SIGNING.contains(&&name[6..])
            || ["signature", "awsaccesskeyid"].contains(&&*name)
        {
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
        let mut clocks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody gets a signature for a time of their choice.
        if ahead.unsigned_abs() > FARTHEST.as_secs() || (clocks.len() >= MOST_CLOCKS && !clocks.contains_key(host)) {
            return false;
        }
        tracing::warn!(%host, ahead_s = ahead, "the target's clock is not this one's; signing by the target's");
        clocks.insert(host.clone(), ahead);
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
