//! Recognises responses that reject credentials as expired, although they have no expiry or a later one.

use http::{HeaderMap, StatusCode};

/// Header in which AWS's JSON protocols name an error; others name it in the body.
const ERROR_TYPE: &str = "x-amzn-errortype";
/// Error of a signature that was made with a wrong secret.
const MISMATCH: &[u8] = b"InvalidSignatureException";
/// How much of a body is searched, in bytes. The error code is near its beginning.
const LOOKED_AT: usize = 2048;
/// Error codes (AWS, "Common error types"; S3, "Error responses"). Some services append `Exception`.
const CODES: [&str; 4] = ["ExpiredToken", "InvalidClientTokenId", "UnrecognizedClient", "InvalidAccessKeyId"];

/// Inspects the response to a signed request while it is relayed.
#[derive(Debug)]
pub(crate) struct Ended {
    start: Vec<u8>,
    said: bool,
    /// The target does not accept the signature.
    mismatch: bool,
}

impl Ended {
    /// `None` for a response whose status excludes such an error.
    pub(crate) fn new(status: StatusCode, headers: &HeaderMap) -> Option<Self> {
        let refused = matches!(status, StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN);
        let said = headers.get(ERROR_TYPE).is_some_and(|value| names(value.as_bytes()));
        let mismatch = headers.get(ERROR_TYPE).is_some_and(|value| value.as_bytes().starts_with(MISMATCH));
        refused.then_some(Self { start: Vec::new(), said, mismatch })
    }

    pub(crate) fn look(&mut self, data: &[u8]) {
        let room = LOOKED_AT - self.start.len();
        if !self.said && room > 0 {
            self.start.extend_from_slice(&data[..data.len().min(room)]);
            self.said = names(&self.start);
        }
    }

    /// Whether the response refuses the credentials, for this reason or because the signature is not theirs.
    pub(crate) fn refuses_credentials(&self) -> bool {
        self.said || self.mismatch
    }

    /// Whether such an error has been found in the response so far.
    pub(crate) fn was_said(&self) -> bool {
        self.said
    }
}

fn names(bytes: &[u8]) -> bool {
    CODES.iter().any(|code| bytes.windows(code.len()).any(|window| window == code.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_code_is_found_in_head_or_body_however_split() {
        let plain = HeaderMap::new();
        let named = HeaderMap::from_iter([(
            http::HeaderName::from_static(ERROR_TYPE),
            http::HeaderValue::from_static("ExpiredTokenException:http://internal.amazon.com/coral/com.amazon.coral/"),
        )]);
        assert!(Ended::new(StatusCode::FORBIDDEN, &named).expect("a refusal").was_said());
        assert!(Ended::new(StatusCode::OK, &named).is_none());
        let body = b"<Error><Code>ExpiredToken</Code></Error>";
        for step in 1..=body.len() {
            let mut ended = Ended::new(StatusCode::BAD_REQUEST, &plain).expect("a refusal");
            body.chunks(step).for_each(|part| ended.look(part));
            assert!(ended.was_said(), "{step}");
        }
        let mut ended = Ended::new(StatusCode::FORBIDDEN, &plain).expect("a refusal");
        ended.look(b"<Error><Code>SignatureDoesNotMatch</Code></Error>");
        ended.look(&[b' '; LOOKED_AT]);
        ended.look(body);
        assert!(!ended.was_said(), "too far down to be the code");
    }
}
