//! Decides which headers are forwarded, in either direction.

use http::header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::answer::{Refusal, X_NAGAYA_EGRESS};
use crate::head::{Framing, has_token};
use crate::host::Host;

/// Hop-by-hop headers (RFC 9110, section 7.6.1), in addition to those that `Connection` names.
const HOP_BY_HOP: [&str; 6] = ["connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"];
/// Headers that say where a message ends or whom it is for, beside the hop-by-hop ones.
const FRAMING: [&str; 3] = ["content-length", "host", "expect"];
/// Headers that authenticate a request. Those of Signature Version 4 are listed under "Elements of an AWS API request
/// signature" in the AWS documentation, and `x-amz-s3session-token` under S3's `CreateSession`; all other `x-amz-*` headers are
/// parts of the request itself.
const AUTHENTICATION: [&str; 11] = [
    "authorization",
    "x-api-key",
    "x-amz-algorithm",
    "x-amz-content-sha256",
    "x-amz-credential",
    "x-amz-date",
    "x-amz-region-set",
    "x-amz-s3session-token",
    "x-amz-security-token",
    "x-amz-signature",
    "x-amz-signedheaders",
];
/// Prefix of the headers of AWS's own protocols.
pub(crate) const X_AMZ: &str = "x-amz-";
/// Prefix of the headers meant for a proxy.
const PROXY: &str = "proxy-";

/// Whether some servers read `name` as another header, one that this proxy sets, drops or relies on. CGI, WSGI, PHP and others
/// turn punctuation in names into `_`, so that `X_Api_Key` and `X.Api.Key` reach the application as `X-Api-Key` does.
pub(crate) fn is_twin(name: &HeaderName) -> bool {
    let Some(read_as) = read_as(name) else { return false };
    let read_as = read_as.as_str();
    let lists = HOP_BY_HOP.iter().chain(&FRAMING).chain(&AUTHENTICATION);
    read_as.starts_with(X_AMZ) || read_as.starts_with(PROXY) || lists.into_iter().any(|listed| *listed == read_as)
}

/// Whether one of the headers is read as `name` by some servers, and is not `name` itself.
pub(crate) fn has_twin(headers: &HeaderMap, name: &HeaderName) -> bool {
    let wanted = read_as(name).unwrap_or_else(|| name.as_str().to_owned());
    headers.keys().any(|given| given != name && read_as(given).as_deref().unwrap_or(given.as_str()) == wanted)
}

/// Whether a rule may set this header: none that frames the message, is dropped on the way, or is a part of a signature.
pub(crate) fn may_hold_credential(name: &HeaderName) -> bool {
    let name = name.as_str();
    let framing = HOP_BY_HOP.iter().chain(&FRAMING).any(|listed| *listed == name);
    !framing && !name.starts_with(PROXY) && !name.starts_with(X_AMZ) && name != X_NAGAYA_EGRESS
}

/// Headers that make some servers and frameworks run another method than the request's own.
const OVERRIDES_METHOD: [&str; 3] = ["x-http-method-override", "x-http-method", "x-method-override"];
/// Headers that make some servers and frameworks take another path than the request's own.
const OVERRIDES_PATH: [&str; 3] = ["x-original-url", "x-rewrite-url", "x-original-uri"];

/// Whether some servers would run another method than the request's own.
pub(crate) fn overrides_method(given: &HeaderMap) -> bool {
    names_one_of(given, &OVERRIDES_METHOD)
}

/// Whether some servers would take another path than the request's own.
pub(crate) fn overrides_path(given: &HeaderMap) -> bool {
    names_one_of(given, &OVERRIDES_PATH)
}

/// Whether a header is one of these, or is read as one by some servers.
fn names_one_of(given: &HeaderMap, names: &[&str]) -> bool {
    let listed = |name: &HeaderName| names.contains(&read_as(name).as_deref().unwrap_or(name.as_str()));
    given.keys().any(listed)
}

/// The name with all punctuation replaced by `-`; `None` if that changes nothing.
fn read_as(name: &HeaderName) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let name = name.as_str();
    (!name.bytes().all(plain))
        .then(|| name.bytes().map(|byte| if plain(byte) { char::from(byte) } else { '-' }).collect())
}

/// The headers of a request to forward, without the body's framing, which is added once it is known.
pub(crate) fn outgoing(given: &HeaderMap, host: &Host, port: Option<u16>) -> Result<HeaderMap, Refusal> {
    let mut headers = HeaderMap::with_capacity(given.len() + 4);
    // The proxy answers `Expect` itself.
    for (name, value) in end_to_end(given).filter(|(name, _)| *name != EXPECT && *name != CONTENT_LENGTH) {
        headers.append(name, value.clone());
    }
    let authority = port.map_or_else(|| host.to_string(), |port| format!("{host}:{port}"));
    let authority = HeaderValue::from_str(&authority).map_err(|_| Refusal::malformed("the host is not understood"))?;
    headers.insert(HOST, authority);
    Ok(headers)
}

/// The headers of a response to relay, without the body's framing.
pub(crate) fn returning(given: &HeaderMap) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
    end_to_end(given).filter(|(name, _)| *name != CONTENT_LENGTH && *name != X_NAGAYA_EGRESS)
}

/// All headers except the hop-by-hop ones and those meant for a proxy.
fn end_to_end(given: &HeaderMap) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
    let lists = given.contains_key(CONNECTION);
    given.iter().filter(move |(name, _)| {
        let name = name.as_str();
        let named = lists && has_token(given, &CONNECTION, name);
        !named && !HOP_BY_HOP.contains(&name) && !name.starts_with(PROXY)
    })
}

/// Adds the header that delimits the body.
pub(crate) fn frame(headers: &mut HeaderMap, framing: Framing, length: Option<u64>) {
    match (length, framing) {
        (Some(length), _) => {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        (None, Framing::Chunked) => {
            headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        (None, Framing::None | Framing::Length(_)) => {}
    }
}

/// Drops the client's own authentication: the rule's credential takes its place, and the two are never sent together.
pub(crate) fn strip_credentials(headers: &mut HeaderMap) {
    for name in AUTHENTICATION {
        headers.remove(name);
    }
}

/// Adds a header that contains a secret, in place of the client's own of this name.
pub(crate) fn inject(headers: &mut HeaderMap, name: &HeaderName, secret: &HeaderValue) -> Result<(), Refusal> {
    if has_twin(headers, name) {
        return Err(Refusal::malformed("a header's name is read as the credential's by some servers"));
    }
    headers.insert(name.clone(), secret.clone());
    Ok(())
}

/// Whether a request uses a scheme that authenticates the connection and not the request (NTLM, Negotiate): the next request
/// on it would be made in the name of this one's sender.
pub(crate) fn authenticates_request_connection(sent: &HeaderMap) -> bool {
    authenticates_connection(sent, &AUTHORIZATION)
}

/// Whether the connection that a response came on may serve another request. A response with contradicting lengths was read by
/// RFC 9112, 6.3, but the bytes behind it are not trusted.
pub(crate) fn leaves_no_doubt(answer: &HeaderMap) -> bool {
    let coded = answer.get_all(TRANSFER_ENCODING).iter().count();
    let lengths = answer.get_all(CONTENT_LENGTH).iter().count();
    coded + lengths <= 1 && !authenticates_connection(answer, &WWW_AUTHENTICATE)
}

fn authenticates_connection(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.get_all(name).iter().any(|value| {
        let scheme = value.as_bytes().split(|byte| *byte == b' ').next().unwrap_or_default();
        scheme.eq_ignore_ascii_case(b"ntlm") || scheme.eq_ignore_ascii_case(b"negotiate")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn hop_by_hop_headers_are_dropped() {
        let given = headers(&[
            ("connection", "close, X-Secret"),
            ("x-secret", "1"),
            ("proxy-authorization", "Basic eDp5"),
            ("proxy-connection", "keep-alive"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("trailer", "x"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("expect", "100-continue"),
            ("host", "other.example"),
            ("accept", "*/*"),
        ]);
        let host = Host::parse("a.example").expect("a host");
        let sent = outgoing(&given, &host, Some(81)).expect("headers");
        assert_eq!(sent, headers(&[("accept", "*/*"), ("host", "a.example:81")]));
    }

    #[test]
    fn a_target_cannot_imitate_the_proxys_refusals() {
        let given = headers(&[("x-nagaya-egress", "denied"), ("proxy-authenticate", "Basic"), ("etag", "x")]);
        let returned: HeaderMap = returning(&given).map(|(name, value)| (name.clone(), value.clone())).collect();
        assert_eq!(returned, headers(&[("etag", "x")]));
    }

    #[test]
    fn only_authentication_is_stripped() {
        let kept = [
            ("content-type", "application/json"),
            ("x-amz-copy-source", "/bucket/key"),
            ("x-amz-meta-a", "1"),
            ("x-amz-target", "Service.Operation"),
            ("x-amzn-trace-id", "Root=1"),
        ];
        let mut given = headers(&kept);
        for name in AUTHENTICATION {
            given.insert(HeaderName::from_static(name), HeaderValue::from_static("theirs"));
        }
        strip_credentials(&mut given);
        assert_eq!(given, headers(&kept));
    }

    #[test]
    fn lookalike_header_names_are_recognised() {
        for twin in [
            "transfer_encoding",
            "transfer.encoding",
            "content_length",
            "x_api_key",
            "x.api.key",
            "x-api_key",
            "x_amz_meta-a",
            "x-amz_date",
            "proxy_authorization",
            "x|api~key",
        ] {
            assert!(is_twin(&HeaderName::from_static(twin)), "{twin}");
        }
        for fine in ["x-api-key", "transfer-encoding", "x_request_id", "authorization2", "sec_fetch_mode", "x.y"] {
            assert!(!is_twin(&HeaderName::from_static(fine)), "{fine}");
        }
        let rule = HeaderName::from_static("x-private_token");
        assert!(has_twin(&headers(&[("x_private.token", "1")]), &rule));
        assert!(!has_twin(&headers(&[("x-private_token", "1"), ("x-private", "1")]), &rule));
    }

    #[test]
    fn connections_with_ambiguous_framing_are_not_shared() {
        assert!(leaves_no_doubt(&headers(&[("content-length", "5")])));
        assert!(!leaves_no_doubt(&headers(&[("content-length", "5"), ("transfer-encoding", "chunked")])));
        assert!(!leaves_no_doubt(&headers(&[("content-length", "5"), ("content-length", "5")])));
        assert!(!leaves_no_doubt(&headers(&[("www-authenticate", "NTLM")])));
        assert!(authenticates_request_connection(&headers(&[("authorization", "negotiate abc")])));
        assert!(!authenticates_request_connection(&headers(&[("authorization", "Bearer abc")])));
    }
}
