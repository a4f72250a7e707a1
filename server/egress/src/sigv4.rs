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

use crate::answer::Refusal;
use crate::chain::Chain;
use crate::clocks::Clocks;
use crate::head::Head;
use crate::host::Host;

/// Header that names the operation in AWS's JSON protocols: a part of the request, not of its signature.
pub(crate) const X_AMZ_TARGET: &str = "x-amz-target";

/// Signs requests.
pub(crate) struct Signer {
    pub(crate) chain: Chain,
    pub(crate) clocks: Clocks,
}

/// What a request is signed for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scope<'a> {
    pub(crate) service: &'a str,
    pub(crate) region: &'a str,
}

impl Signer {
    pub(crate) fn new(provider: Option<SharedCredentialsProvider>) -> Self {
        Self { chain: Chain::new(provider), clocks: Clocks::default() }
    }

    /// Adds a signature to the headers of a request to `host`; what it was made with.
    pub(crate) async fn sign(
        &self,
        scope: Scope<'_>,
        host: &Host,
        line: (&Method, &PathAndQuery),
        headers: &mut HeaderMap,
        body_sha256: &str,
    ) -> Result<Credentials, Refusal> {
        let credentials = self.chain.for_request().await?;
        add_signature(&credentials, scope, self.clocks.now(host), line, headers, body_sha256)?;
        Ok(credentials)
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
/// signs the path decoded and encoded anew, so it is sent encoded the one way that leaves it the same. Queries: see
/// [`spelled_out`].
pub(crate) fn unambiguous(path: &PathAndQuery, service: &str) -> Result<PathAndQuery, Refusal> {
    let normal = if is_s3(service) { encoded(path.path()) } else { without_dots(path.path()) };
    let whole = match path.query() {
        Some(query) => format!("{normal}?{}", spelled_out(query)?),
        None => normal,
    };
    whole.parse().map_err(|_| Refusal::malformed("the path is not understood"))
}

/// A query in which nothing is left to how it is read. A `+` means a space to some and itself to others; it is sent as the space
/// that forms mean by it. A `%` that begins no escape is sent as the character that it is. What is no text is refused: it is
/// signed as text, and every reader makes another of it.
fn spelled_out(query: &str) -> Result<String, Refusal> {
    if std::str::from_utf8(&decoded(query)).is_err() {
        return Err(Refusal::malformed("a query that is signed has to be UTF-8 in its escapes"));
    }
    let mut out = String::with_capacity(query.len());
    for (at, character) in query.char_indices() {
        match character {
            '+' => out.push_str("%20"),
            '%' if escape(&query.as_bytes()[at..]).is_none() => out.push_str("%25"),
            other => out.push(other),
        }
    }
    Ok(out)
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
    while let Some(&first) = rest.first() {
        let escaped = escape(rest);
        rest = &rest[if escaped.is_some() { 3 } else { 1 }..];
        out.push(escaped.unwrap_or(first));
    }
    out
}

/// What is escaped at the beginning of `text`, if anything is.
fn escape(text: &[u8]) -> Option<u8> {
    let [b'%', digits @ ..] = text.first_chunk::<3>()? else { return None };
    // `from_str_radix` would take a sign.
    let digits = std::str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
    u8::from_str_radix(digits, 16).ok()
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
pub(crate) fn refuse_signed(head: &Head, path: &PathAndQuery, service: &str) -> Result<(), Refusal> {
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
