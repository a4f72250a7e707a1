//! Which headers go on, in either direction.

use http::header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::answer::{Refusal, X_NAGAYA_EGRESS};
use crate::credentials::Secret;
use crate::head::{Framing, has_token};
use crate::host::Host;
use crate::sigv4::X_AMZ_TARGET;

/// Headers between two hops (RFC 9110, 7.6.1), beside those that `Connection` names.
const HOP_BY_HOP: [&str; 6] = ["connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"];

/// A request's headers as they go on: without body's framing, which is added when it is known.
pub(crate) fn outgoing(given: &HeaderMap, host: &Host, port: Option<u16>) -> Result<HeaderMap, Refusal> {
    let mut headers = HeaderMap::with_capacity(given.len() + 4);
    // To what is expected the proxy has answered, or will answer, for itself.
    for (name, value) in end_to_end(given).filter(|(name, _)| *name != EXPECT && *name != CONTENT_LENGTH) {
        headers.append(name, value.clone());
    }
    let authority = port.map_or_else(|| host.to_string(), |port| format!("{host}:{port}"));
    let authority = HeaderValue::from_str(&authority).map_err(|_| Refusal::malformed("the host is not understood"))?;
    headers.insert(HOST, authority);
    Ok(headers)
}

/// An answer's headers as they go on, without the body's framing.
pub(crate) fn returning(given: &HeaderMap) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
    end_to_end(given).filter(|(name, _)| *name != CONTENT_LENGTH && *name != X_NAGAYA_EGRESS)
}

/// All but what is between two hops, and what is meant for a proxy.
fn end_to_end(given: &HeaderMap) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
    let lists = given.contains_key(CONNECTION);
    given.iter().filter(move |(name, _)| {
        let name = name.as_str();
        let named = lists && has_token(given, &CONNECTION, name);
        !named && !HOP_BY_HOP.contains(&name) && !name.starts_with("proxy-")
    })
}

/// Says how the body is delimited.
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

/// Drops credentials of the client's own: the rule's take their place, and never both.
pub(crate) fn strip_credentials(headers: &mut HeaderMap) {
    let own = |name: &&HeaderName| {
        let name = name.as_str();
        name == "authorization" || name == "x-api-key" || (name.starts_with("x-amz-") && name != X_AMZ_TARGET)
    };
    let names: Vec<HeaderName> = headers.keys().filter(own).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// Adds a secret.
pub(crate) fn inject(headers: &mut HeaderMap, name: &HeaderName, secret: &Secret) -> Result<(), Refusal> {
    let secret = secret.read().ok_or_else(Refusal::no_credentials)?;
    let mut value = HeaderValue::from_str(&secret).map_err(|_| Refusal::no_credentials())?;
    value.set_sensitive(true);
    headers.insert(name.clone(), value);
    Ok(())
}

/// Whether the connection a request was sent on may serve another. Where a scheme authenticates the connection and not the
/// request (NTLM, Negotiate), the next one would be somebody else's.
pub(crate) fn poolable(sent: &HeaderMap) -> bool {
    !authenticates_connection(sent, &AUTHORIZATION)
}

/// The same, seen from the answer. One that says two things about its length was read by RFC 9112, 6.3; what comes after
/// it is not trusted.
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
    fn what_is_between_two_hops_stays_there() {
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
    fn a_target_cannot_speak_for_the_proxy() {
        let given = headers(&[("x-nagaya-egress", "denied"), ("proxy-authenticate", "Basic"), ("etag", "x")]);
        let returned: HeaderMap = returning(&given).map(|(name, value)| (name.clone(), value.clone())).collect();
        assert_eq!(returned, headers(&[("etag", "x")]));
    }

    #[test]
    fn credentials_of_the_clients_own_go() {
        let mut given = headers(&[
            ("authorization", "AWS4-HMAC-SHA256 x"),
            ("x-api-key", "k"),
            ("x-amz-date", "d"),
            ("x-amz-security-token", "t"),
            ("x-amz-target", "Service.Operation"),
            ("content-type", "application/json"),
        ]);
        strip_credentials(&mut given);
        assert_eq!(given, headers(&[("x-amz-target", "Service.Operation"), ("content-type", "application/json")]));
    }

    #[test]
    fn doubtful_connections_are_not_shared() {
        assert!(leaves_no_doubt(&headers(&[("content-length", "5")])));
        assert!(!leaves_no_doubt(&headers(&[("content-length", "5"), ("transfer-encoding", "chunked")])));
        assert!(!leaves_no_doubt(&headers(&[("content-length", "5"), ("content-length", "5")])));
        assert!(!leaves_no_doubt(&headers(&[("www-authenticate", "NTLM")])));
        assert!(!poolable(&headers(&[("authorization", "negotiate abc")])));
        assert!(poolable(&headers(&[("authorization", "Bearer abc")])));
    }
}
