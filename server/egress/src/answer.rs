//! The proxy's own answers. They name the host and the reason, and echo nothing else of the request.

use http::StatusCode;
use serde_json::json;

use crate::resolver::ResolveError;
use crate::trail::Decision;

/// Header of the proxy's own answers. Targets cannot forge it: it is removed from their responses.
pub(crate) const X_NAGAYA_EGRESS: &str = "x-nagaya-egress";

/// Reason of an answer to a request whose credential is missing.
const NO_CREDENTIALS: &str = "no_credentials";

/// Maximum length of what a refusal names, in characters.
const LONGEST_NAMED: usize = 128;

/// The Messages API's type of an error that is for a model's client.
fn error_type(reason: &str) -> Option<&'static str> {
    match reason {
        NO_CREDENTIALS => Some("authentication_error"),
        "no_run" | "model_not_allowed" | "server_tool_not_allowed" | "operation_not_allowed" => {
            Some("permission_error")
        }
        "ambiguous_body" | "compressed_body" => Some("invalid_request_error"),
        _ => None,
    }
}

/// What a reason of the policy means, for the answer.
fn policy_message(reason: &str) -> &'static str {
    match reason {
        "closed" => "this workspace has no policy yet: nothing is allowed",
        "method_not_allowed" => "policy does not allow this method here",
        "path_not_allowed" => "policy does not allow this path",
        "ambiguous_path" => {
            "the path can be read in more than one way, and the policy's rule depends on it; write it without //, ;, dot segments, and \
             encoded dots, slashes or percent signs"
        }
        "method_override" => {
            "a header asks for another method, and the policy's rule depends on the method; remove the header"
        }
        "path_override" => {
            "a header asks for another path, and the policy's rule depends on the path; remove the header"
        }
        "tunnel_not_inspectable" => {
            "the policy allows some requests to this host only, and cannot see them in a tunnel; use http://, without CONNECT"
        }
        "credential_host" => {
            "requests to this host get a credential and are not tunnelled; use http://, without CONNECT"
        }
        "operation_not_allowed" => "the credential for this host is not for this operation",
        "no_run" => "no run is active: models, and credentials that are for runs, cannot be used",
        "model_not_allowed" => "the policy does not allow this model",
        "server_tool_not_allowed" => {
            "the policy does not allow this tool, which the model's provider executes or fetches for"
        }
        "compressed_body" => "a compressed body of a model request is not read; send it without Content-Encoding",
        "policy_changed" => "the policy has changed, and does not allow this any more",
        _ => "policy does not allow this host, port or address",
    }
}

/// What happens to the connection after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// It may carry another request.
    Next,
    /// It is closed, after a while in which the client can read the answer.
    Close,
    /// It is closed at once: the answer is incomplete, and the client must notice that.
    Cut,
}

/// Whether one of the proxy's own answers has a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body {
    Sent,
    /// Without a body, because the request was HEAD.
    Omitted,
}

/// Why a request is refused or has failed, with the status to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) decision: Decision,
    message: &'static str,
    /// What of the request it is about: harmless characters only, and not many.
    about: Option<Box<str>>,
}

impl Refusal {
    fn denial(status: StatusCode, reason: &'static str, message: &'static str) -> Self {
        Self { status, decision: Decision::Denied(reason), message, about: None }
    }

    fn failure(status: StatusCode, reason: &'static str, message: &'static str) -> Self {
        Self { status, decision: Decision::Failed(reason), message, about: None }
    }

    /// The request is malformed or ambiguous.
    pub(crate) fn malformed(message: &'static str) -> Self {
        Self::denial(StatusCode::BAD_REQUEST, "malformed", message)
    }

    /// Policy denies the request.
    pub(crate) fn denied(reason: &'static str) -> Self {
        Self::denial(StatusCode::FORBIDDEN, reason, policy_message(reason))
    }

    /// Names what the refusal is about. Anything but harmless ASCII is replaced, and a long text is cut.
    pub(crate) fn about(mut self, text: &str) -> Self {
        let harmless = |c: char| c.is_ascii_alphanumeric() || "-_.,:/@+%{} ".contains(c);
        self.about = Some(text.chars().take(LONGEST_NAMED).map(|c| if harmless(c) { c } else { '?' }).collect());
        self
    }

    pub(crate) fn message(&self) -> &'static str {
        self.message
    }

    /// The rate of the listener's policy is used up.
    pub(crate) fn request_rate() -> Self {
        let message = "the policy's rate of requests is used up; try again later";
        Self::denial(StatusCode::TOO_MANY_REQUESTS, "request_rate", message)
    }

    /// A body that two readers could read differently.
    pub(crate) fn ambiguous_body(message: &'static str) -> Self {
        Self::denial(StatusCode::BAD_REQUEST, "ambiguous_body", message)
    }

    /// The client has signed the request in a way that the proxy cannot replace.
    pub(crate) fn signed_already(reason: &'static str, message: &'static str) -> Self {
        Self::denial(StatusCode::BAD_REQUEST, reason, message)
    }

    pub(crate) fn method() -> Self {
        // TRACE returns the request as received (RFC 9110, 9.3.8), including the credential that the proxy added.
        Self::denial(StatusCode::METHOD_NOT_ALLOWED, "method", "TRACE is not forwarded")
    }

    pub(crate) fn expectation() -> Self {
        Self::denial(StatusCode::EXPECTATION_FAILED, "expectation", "the only supported expectation is 100-continue")
    }

    pub(crate) fn head_too_large() -> Self {
        let message = "a request's head has at most 16 KiB and 100 headers";
        Self::denial(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head_too_large", message)
    }

    pub(crate) fn head_timeout() -> Self {
        Self::denial(StatusCode::REQUEST_TIMEOUT, "head_timeout", "the request's head did not arrive in time")
    }

    pub(crate) fn body_timeout() -> Self {
        Self::denial(StatusCode::REQUEST_TIMEOUT, "body_timeout", "the request's body did not arrive in time")
    }

    pub(crate) fn upload_too_slow() -> Self {
        let message = "the request's body came too slowly";
        Self::denial(StatusCode::REQUEST_TIMEOUT, "upload_too_slow", message)
    }

    pub(crate) fn body_too_large() -> Self {
        Self::denial(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "the body exceeds the limit for one request")
    }

    pub(crate) fn signed_body_too_large() -> Self {
        let message = "the body exceeds the limit for requests that have to be signed";
        Self::denial(StatusCode::PAYLOAD_TOO_LARGE, "signed_body_too_large", message)
    }

    /// The listener's descriptors are used up.
    pub(crate) fn too_many_connections() -> Self {
        let message = "too many connections are open; close some, or try again later";
        Self::denial(StatusCode::TOO_MANY_REQUESTS, "too_many_connections", message)
    }

    pub(crate) fn too_many() -> Self {
        let message = "the limit of simultaneous requests is reached; try again later";
        Self::denial(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", message)
    }

    pub(crate) fn no_buffers() -> Self {
        let message = "the limit of bodies held for signing is reached; try again later";
        Self::denial(StatusCode::TOO_MANY_REQUESTS, "no_buffers", message)
    }

    /// There are no AWS credentials to sign with.
    pub(crate) fn no_aws_credentials() -> Self {
        let message = "the server has no AWS credentials to sign requests to this host with; its operator sets AWS_ACCESS_KEY_ID and \
                       AWS_SECRET_ACCESS_KEY, or another source of the AWS credential chain";
        Self::no_credentials(message)
    }

    /// A token's source has no value.
    pub(crate) fn no_token() -> Self {
        Self::no_credentials(
            "the credential for this host has no valid value now: it could not be refreshed; renew it where it is kept",
        )
    }

    /// The secret of a header rule is missing.
    pub(crate) fn no_secret() -> Self {
        let message = "the server does not have the secret for this host that PROXY_CREDENTIALS or ANTHROPIC_API_KEY promises; its \
                       operator sets the variable or file that the rule names";
        Self::no_credentials(message)
    }

    /// A request without its credential is never forwarded. The status is not 503: clients would try again and again.
    fn no_credentials(message: &'static str) -> Self {
        Self::failure(StatusCode::UNAUTHORIZED, NO_CREDENTIALS, message)
    }

    /// The target failed, or the connection to it.
    pub(crate) fn failed(reason: &'static str, message: &'static str) -> Self {
        Self::failure(StatusCode::BAD_GATEWAY, reason, message)
    }

    /// The proxy itself failed.
    pub(crate) fn internal(reason: &'static str) -> Self {
        Self::failure(StatusCode::INTERNAL_SERVER_ERROR, reason, "internal error of the proxy")
    }

    pub(crate) fn timeout(reason: &'static str) -> Self {
        Self::failure(StatusCode::GATEWAY_TIMEOUT, reason, "the target did not answer in time")
    }

    /// The client has left. The status is used in the record only; it is the one nginx uses for this.
    pub(crate) fn client_gone() -> Self {
        let status = StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST);
        Self::failure(status, "client_gone", "the client left")
    }

    fn code(&self) -> &'static str {
        match (self.decision, self.status) {
            (Decision::Denied(_), StatusCode::FORBIDDEN) => "EGRESS_DENIED",
            (Decision::Denied(_), StatusCode::PAYLOAD_TOO_LARGE | StatusCode::TOO_MANY_REQUESTS) => "EGRESS_LIMIT",
            (Decision::Denied(_), StatusCode::REQUEST_TIMEOUT | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE) => {
                "EGRESS_LIMIT"
            }
            (Decision::Denied(_), _) => "EGRESS_MALFORMED",
            (Decision::Allowed | Decision::Failed(_), _) => "EGRESS_FAILED",
        }
    }

    /// The whole answer as bytes. `host` is normalised, so the answer repeats nothing of the request verbatim.
    pub(crate) fn answer(&self, host: &str, then: Then, body: Body) -> Vec<u8> {
        let kind = if matches!(self.decision, Decision::Denied(_)) { "denied" } else { "failed" };
        let reason = self.decision.reason();
        let mut body_json =
            json!({"error": {"code": self.code(), "reason": reason, "host": host, "message": self.message}});
        if let Some(about) = &self.about {
            body_json["error"]["about"] = (**about).into();
        }
        if let Some(kind) = reason.and_then(error_type) {
            // In the form of the Messages API and of Bedrock too, so that their clients show the message.
            body_json["type"] = "error".into();
            let message = self
                .about
                .as_ref()
                .map_or_else(|| self.message.to_owned(), |about| format!("{}: {about}", self.message));
            body_json["error"]["type"] = kind.into();
            body_json["error"]["message"] = message.clone().into();
            body_json["message"] = message.into();
        }
        let body_text = body_json.to_string();
        let phrase = self.status.canonical_reason().unwrap_or("Refused");
        let mut answer = format!(
            "HTTP/1.1 {} {phrase}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{X_NAGAYA_EGRESS}: {kind}\r\n",
            self.status.as_u16(),
            body_text.len(),
        );
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            answer.push_str("retry-after: 1\r\n");
        }
        if reason == Some(NO_CREDENTIALS) {
            // Anthropic's clients repeat a request that was answered 401 unless they are told not to.
            answer.push_str("x-should-retry: false\r\n");
        }
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            // RFC 9110, 15.5.6.
            answer.push_str("allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, CONNECT\r\n");
        }
        if then != Then::Next {
            answer.push_str("connection: close\r\n");
        }
        answer.push_str("\r\n");
        if body == Body::Sent {
            answer.push_str(&body_text);
        }
        answer.into_bytes()
    }
}

impl From<ResolveError> for Refusal {
    fn from(error: ResolveError) -> Self {
        match error {
            ResolveError::Unknown => Self::failed("dns", "the host has no address"),
            ResolveError::Timeout => Self::timeout("dns_timeout"),
            ResolveError::Forbidden(kind) => Self::denied(match kind {
                "loopback" => "address_loopback",
                "private" | "shared" => "address_private",
                "link-local" => "address_link_local",
                _ => "address_reserved",
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_its_source_and_reason() {
        let text = String::from_utf8(Refusal::denied("not_allowed").answer("a.example", Then::Close, Body::Sent))
            .expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{head}");
        assert!(head.contains("\r\nx-nagaya-egress: denied\r\n") && head.ends_with("connection: close"), "{head}");
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{head}");
        let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(body["error"]["code"], "EGRESS_DENIED");
        assert_eq!(body["error"]["reason"], "not_allowed");
        assert_eq!(body["error"]["host"], "a.example");
    }

    #[test]
    fn a_missing_credential_is_told_to_the_models_clients_and_not_worth_another_attempt() {
        for (refusal, setting) in
            [(Refusal::no_aws_credentials(), "AWS_ACCESS_KEY_ID"), (Refusal::no_secret(), "PROXY_CREDENTIALS")]
        {
            let text = String::from_utf8(refusal.answer("a.example", Then::Next, Body::Sent)).expect("text");
            let (head, body) = text.split_once("\r\n\r\n").expect("a head");
            assert!(head.starts_with("HTTP/1.1 401 ") && head.contains("\r\nx-should-retry: false"), "{head}");
            let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
            assert_eq!((&body["type"], &body["error"]["type"]), (&json!("error"), &json!("authentication_error")));
            assert_eq!(body["message"], body["error"]["message"]);
            assert!(body["message"].as_str().expect("text").contains(setting), "{body}");
        }
    }
    #[test]
    fn each_refusal_has_its_status_code_and_headers() {
        let denied = "denied";
        for (refusal, status, code, kind, header) in [
            (Refusal::malformed("m"), "400 Bad Request", "EGRESS_MALFORMED", denied, ""),
            (Refusal::ambiguous_body("m"), "400 Bad Request", "EGRESS_MALFORMED", denied, ""),
            (Refusal::signed_already("presigned", "m"), "400 Bad Request", "EGRESS_MALFORMED", denied, ""),
            (Refusal::denied("not_allowed"), "403 Forbidden", "EGRESS_DENIED", denied, ""),
            (
                Refusal::method(),
                "405 Method Not Allowed",
                "EGRESS_MALFORMED",
                denied,
                "allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, CONNECT\r\n",
            ),
            (Refusal::expectation(), "417 Expectation Failed", "EGRESS_MALFORMED", denied, ""),
            (Refusal::head_too_large(), "431 Request Header Fields Too Large", "EGRESS_LIMIT", denied, ""),
            (Refusal::head_timeout(), "408 Request Timeout", "EGRESS_LIMIT", denied, ""),
            (Refusal::body_timeout(), "408 Request Timeout", "EGRESS_LIMIT", denied, ""),
            (Refusal::upload_too_slow(), "408 Request Timeout", "EGRESS_LIMIT", denied, ""),
            (Refusal::body_too_large(), "413 Payload Too Large", "EGRESS_LIMIT", denied, ""),
            (Refusal::signed_body_too_large(), "413 Payload Too Large", "EGRESS_LIMIT", denied, ""),
            (Refusal::request_rate(), "429 Too Many Requests", "EGRESS_LIMIT", denied, "retry-after: 1\r\n"),
            (Refusal::too_many(), "429 Too Many Requests", "EGRESS_LIMIT", denied, "retry-after: 1\r\n"),
            (Refusal::too_many_connections(), "429 Too Many Requests", "EGRESS_LIMIT", denied, "retry-after: 1\r\n"),
            (Refusal::no_buffers(), "429 Too Many Requests", "EGRESS_LIMIT", denied, "retry-after: 1\r\n"),
            (Refusal::no_token(), "401 Unauthorized", "EGRESS_FAILED", "failed", "x-should-retry: false\r\n"),
            (Refusal::failed("reset", "m"), "502 Bad Gateway", "EGRESS_FAILED", "failed", ""),
            (Refusal::internal("buffer"), "500 Internal Server Error", "EGRESS_FAILED", "failed", ""),
            (Refusal::timeout("dns_timeout"), "504 Gateway Timeout", "EGRESS_FAILED", "failed", ""),
        ] {
            for (then, end) in
                [(Then::Next, ""), (Then::Close, "connection: close\r\n"), (Then::Cut, "connection: close\r\n")]
            {
                let text = |body| String::from_utf8(refusal.answer("a.example", then, body)).expect("text");
                let whole = text(Body::Sent);
                let (head, body) = whole.split_once("\r\n\r\n").expect("a head");
                let expected = format!(
                    "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nx-nagaya-egress: {kind}\r\n{header}{end}\r\n",
                    body.len()
                );
                assert_eq!(format!("{head}\r\n\r\n"), expected);
                assert_eq!(text(Body::Omitted), expected, "the answer to HEAD");
                let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
                let reason = refusal.decision.reason();
                assert_eq!((&body["error"]["code"], &body["error"]["reason"]), (&json!(code), &json!(reason)));
                assert_eq!(body["error"]["host"], "a.example");
                assert_eq!(body["type"].is_null(), reason.and_then(error_type).is_none(), "{body}");
                let shown = body["error"]["message"].as_str().expect("text");
                assert!(shown.starts_with(refusal.message()) && !shown.is_empty(), "{body}");
            }
        }
    }

    #[test]
    fn what_a_refusal_is_about_is_harmless_and_short() {
        let refusal =
            Refusal::denied("operation_not_allowed").about(&format!("GET /a?b=<c>\"'\r\n{}", "é".repeat(200)));
        let text = String::from_utf8(refusal.answer("h", Then::Next, Body::Sent)).expect("text");
        let body: serde_json::Value =
            serde_json::from_str(text.split_once("\r\n\r\n").expect("a head").1).expect("JSON");
        let about = body["error"]["about"].as_str().expect("text");
        assert_eq!(about.len(), LONGEST_NAMED);
        assert!(about.starts_with("GET /a?b??c?????") && about[11..].bytes().all(|byte| byte == b'?'), "{about}");
        assert_eq!(body["message"], format!("{}: {about}", policy_message("operation_not_allowed")));
    }

    #[test]
    fn every_denial_of_the_policy_says_what_it_means() {
        let other = policy_message("not_allowed");
        for reason in crate::trail::POLICY_DENIALS {
            let is_told_otherwise = reason.starts_with("address_")
                || reason.starts_with("sni_")
                || ["not_allowed", "denied_by_rule", "not_tls", "tls_malformed", "ambiguous_body", "request_rate"]
                    .contains(&reason)
                || reason.starts_with("too_many_");
            assert_eq!(policy_message(reason) == other, is_told_otherwise, "{reason}");
        }
        for (kind, reason) in [
            ("loopback", "address_loopback"),
            ("private", "address_private"),
            ("shared", "address_private"),
            ("link-local", "address_link_local"),
            ("multicast", "address_reserved"),
        ] {
            assert_eq!(Refusal::from(ResolveError::Forbidden(kind)), Refusal::denied(reason));
        }
        assert_eq!(Refusal::from(ResolveError::Timeout).decision, Decision::Failed("dns_timeout"));
        assert_eq!(Refusal::from(ResolveError::Unknown).status, StatusCode::BAD_GATEWAY);
    }
}
