//! Signing with AWS Signature Version 4, by AWS's own code; what is particular to a proxy is decided here.

use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings, UriPathNormalizationMode,
    sign,
};
use aws_sigv4::sign::v4;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HOST};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

use crate::answer::Refusal;
use crate::chain::Chain;
use crate::clocks::Clocks;
use crate::head::Head;
use crate::headers::X_AMZ;
use crate::host::Host;

/// Signs requests.
pub(crate) struct Signer {
    pub(crate) chain: Chain,
    pub(crate) clocks: Clocks,
}

/// AWS service and region that a request is signed for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scope<'a> {
    pub(crate) service: &'a str,
    pub(crate) region: &'a str,
}

impl Signer {
    pub(crate) fn new(provider: Option<SharedCredentialsProvider>) -> Self {
        Self { chain: Chain::new(provider), clocks: Clocks::default() }
    }

    /// Adds a signature to the headers of a request to `host`; returns the credentials used.
    pub(crate) async fn sign(
        &self,
        (scope, chain): (Scope<'_>, &Chain),
        host: &Host,
        line: (&Method, &PathAndQuery),
        headers: &mut HeaderMap,
        body_sha256: &str,
    ) -> Result<Credentials, Refusal> {
        let credentials = chain.for_request().await?;
        add_signature(&credentials, scope, self.clocks.now(host), line, headers, body_sha256)?;
        Ok(credentials)
    }
}

/// Signs a request whose path and body are exactly those that will be sent.
///
/// The host, the content type and all `x-amz-*` headers are signed (AWS, "Create a signed AWS API request"): what names the
/// operation, and copy sources, metadata, access control and encryption of S3. No header that a hop on the way may change is.
fn add_signature(
    credentials: &Credentials,
    scope: Scope<'_>,
    at: SystemTime,
    (method, path): (&Method, &PathAndQuery),
    headers: &mut HeaderMap,
    body_sha256: &str,
) -> Result<(), Refusal> {
    let mut settings = SigningSettings::default();
    // The path already has the form in which it is sent, and is signed in that form.
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    // The path is sent encoded once; all services but S3 sign it encoded twice (AWS, "Create a signed AWS API request").
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
    let signed: Vec<&HeaderName> =
        headers.keys().filter(|name| [HOST, CONTENT_TYPE].contains(name) || name.as_str().starts_with(X_AMZ)).collect();
    if signed.iter().any(|name| headers.get_all(*name).iter().count() > 1) {
        return Err(Refusal::malformed("a header that is signed occurs more than once"));
    }
    if signed.iter().filter_map(|name| headers.get(*name)).any(|value| value.to_str().is_err()) {
        return Err(Refusal::malformed("a header that is signed is not plain ASCII"));
    }
    let signed = signed.into_iter().filter_map(|name| Some((name.as_str(), headers.get(name)?.to_str().ok()?)));
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
/// signs the path decoded and encoded anew, so it is sent encoded the one way that leaves it the same. Queries: see
/// [`spelled_out`].
pub(crate) fn unambiguous(path: &PathAndQuery, service: &str) -> Result<PathAndQuery, Refusal> {
    let normal = if is_s3(service) { encoded(path.path()) } else { without_dots(path.path()) };
    let whole = match path.query().map(spelled_out).transpose()? {
        Some(query) if !query.is_empty() => format!("{normal}?{query}"),
        _ => normal,
    };
    whole.parse().map_err(|_| Refusal::malformed("the path is not understood"))
}

/// A query in a form that signer and target cannot read differently.
///
/// A `+` means a space to some and itself to others; it is sent as the space that forms mean by it. A `%` that begins no escape
/// is sent as the character that it is. Pairs that are empty (`&&`) are left out, as they are left out of what is signed. An
/// escape that is not UTF-8 is refused: queries are signed as text, and every reader makes another text of it.
fn spelled_out(query: &str) -> Result<String, Refusal> {
    if percent_decode_str(query).decode_utf8().is_err() {
        return Err(Refusal::malformed("a query that is signed has to be UTF-8 in its escapes"));
    }
    let pairs: Vec<String> = query.split('&').filter(|pair| !pair.is_empty()).map(pair_spelled_out).collect();
    Ok(pairs.join("&"))
}

fn pair_spelled_out(pair: &str) -> String {
    let mut out = String::with_capacity(pair.len());
    for (at, character) in pair.char_indices() {
        match character {
            '+' => out.push_str("%20"),
            '%' if !begins_escape(&pair.as_bytes()[at..]) => out.push_str("%25"),
            other => out.push(other),
        }
    }
    out
}

fn begins_escape(text: &[u8]) -> bool {
    matches!(text, [b'%', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit())
}

/// All but the unreserved characters (RFC 3986, section 2.3) and slashes.
const NOT_UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

/// A path with everything but the unreserved characters and slashes percent-encoded, once.
fn encoded(path: &str) -> String {
    percent_encode(&percent_decode_str(path).collect::<Vec<u8>>(), NOT_UNRESERVED).to_string()
}

/// Removes dot segments (RFC 3986, section 5.2.4) and empty segments.
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

/// Refuses a request that the client has signed in its query or body, because the proxy cannot replace such a signature.
pub(crate) fn refuse_signed(head: &Head, path: &PathAndQuery, service: &str) -> Result<(), Refusal> {
    let names = path.query().into_iter().flat_map(|query| query.split('&')).filter_map(|pair| pair.split('=').next());
    for name in names {
        // Parameters of Signature Version 4 and of Version 2, however they are escaped.
        let name = percent_decode_str(name).decode_utf8_lossy().to_ascii_lowercase();
        if name.starts_with("x-amz-") && SIGNING.contains(&&name[6..])
            || ["signature", "awsaccesskeyid"].contains(&&*name)
        {
            let message = "a pre-signed request cannot be signed again";
            return Err(Refusal::signed_already("presigned", message));
        }
    }
    let says = |name: HeaderName, what: &str| {
        let mut values = head.headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.any(|value| value.to_ascii_lowercase().contains(what))
    };
    if says(CONTENT_ENCODING, "aws-chunked") || says(HeaderName::from_static("x-amz-content-sha256"), "streaming-") {
        let message = "a body signed in chunks cannot be signed again; turn that off in the client";
        return Err(Refusal::signed_already("aws_chunked", message));
    }
    // S3, "Browser-based uploads using POST": policy and signature are fields of the form. As an object's type it is none.
    if is_s3(service) && head.method == Method::POST && says(CONTENT_TYPE, "multipart/form-data") {
        let message = "a form with a policy of its own cannot be signed again; use PUT";
        return Err(Refusal::signed_already("signed_form", message));
    }
    Ok(())
}

#[cfg(test)]
#[path = "sigv4_tests.rs"]
mod tests;
