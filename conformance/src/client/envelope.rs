//! Errors: leniently, whether a request was refused for the right reason; strictly, each deviation from the contract's envelope.

use serde_json::Value;

use super::http::Reply;
use crate::harness::exchanges::clip;
use crate::harness::failure::{Failure, check, check_eq};

/// Codes of the error envelope, with their statuses.
const CODES: [(&str, u16); 10] = [
    ("UNAUTHORIZED", 401),
    ("FORBIDDEN", 403),
    ("PATH_TRAVERSAL", 403),
    ("NOT_FOUND", 404),
    ("CONFLICT", 409),
    ("RESOURCE_LOCKED", 409),
    ("PAYLOAD_TOO_LARGE", 413),
    ("VALIDATION_ERROR", 422),
    ("RATE_LIMIT_EXCEEDED", 429),
    ("SERVICE_UNAVAILABLE", 503),
];

impl Reply {
    /// Checks that the request was refused with this status and code. Deviations of shape do not fail the check: 400 in place of 422, and
    /// whatever [`Reply::deviations_of_error`] finds. They are recorded, and the scenarios of the family `SHAPE` fail for them.
    ///
    /// # Errors
    /// The request was not refused, or for another reason.
    pub fn expect_error(&self, status: u16, code: &str) -> Result<(), Failure> {
        check(
            CODES.iter().all(|(known, goes_with)| *known != code || *goes_with == status),
            format!("{code} goes with another status than {status}"),
        )?;
        let actual = self.status.as_u16();
        let is_refused = actual == status || (status, actual) == (422, 400);
        if !is_refused {
            check_eq(format!("status of {} ({})", self.asked, clip(&self.text())), actual, status)?;
        }
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        if let Some(other) = body["error"]["code"].as_str() {
            check_eq(format!("error.code in the answer to {}: {body}", self.asked), other, code)?;
        }
        self.exchanges.deviate(self.deviations_of_error(status, code));
        Ok(())
    }

    /// Each deviation from the error that the contract describes, for one with this status and code.
    #[must_use]
    pub fn deviations_of_error(&self, status: u16, code: &str) -> Vec<String> {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let error = &body["error"];
        let is_text = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
        let details = error["details"].as_array();
        let content_type = self.header("content-type").unwrap_or("none");
        let stamp = error["timestamp"].as_str().unwrap_or_default();
        let found = [
            ("status", self.status.as_u16() == status, format!("{} in place of {status}", self.status.as_u16())),
            ("content-type", content_type.starts_with("application/json"), content_type.to_owned()),
            ("error.code", error["code"].as_str() == Some(code), format!("{} in place of {code}", error["code"])),
            ("error.message", is_text(&error["message"]), error["message"].to_string()),
            (
                "error.details",
                details.is_some_and(|all| all.iter().all(|one| one["field"].is_string() && one["message"].is_string())),
                error["details"].to_string(),
            ),
            ("error.timestamp", stamp.parse::<jiff::Timestamp>().is_ok(), error["timestamp"].to_string()),
            (
                "error.request_id",
                is_text(&error["request_id"]) && error["request_id"].as_str() == self.header("x-request-id"),
                format!("{}, and X-Request-ID {:?}", error["request_id"], self.header("x-request-id")),
            ),
        ];
        let deviation =
            |(what, holds, is): (&str, bool, String)| (!holds).then(|| format!("{}: {what} is {is}", self.asked));
        found.into_iter().filter_map(deviation).collect()
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, StatusCode};
    use serde_json::json;

    use super::*;
    use crate::harness::exchanges::{Exchanges, Secrets};

    fn reply(status: u16, body: &Value) -> Reply {
        let headers = [("content-type", "application/json"), ("x-request-id", "r")];
        let headers = headers
            .into_iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)));
        Reply {
            asked: "GET /x".to_owned(),
            status: StatusCode::from_u16(status).expect("a status"),
            headers: headers.collect::<HeaderMap>(),
            body: body.to_string().into(),
            exchanges: Exchanges::new(Secrets::default()),
            speech: crate::description::Description::own().speech.clone(),
        }
    }

    fn good() -> Value {
        json!({"error": {
            "code": "VALIDATION_ERROR", "message": "m", "details": [], "request_id": "r", "timestamp": "2026-01-01T00:00:00Z",
        }})
    }

    #[test]
    fn a_refusal_counts_whatever_its_shape_and_each_deviation_is_recorded() {
        let exact = reply(422, &good());
        exact.expect_error(422, "VALIDATION_ERROR").expect("refused");
        assert_eq!(exact.exchanges.deviations(), Vec::<String>::new());
        for (status, field, value, says) in [
            (400, "code", json!("VALIDATION_ERROR"), "status is 400 in place of 422"),
            (422, "details", Value::Null, "error.details is null"),
            (422, "message", Value::Null, "error.message is null"),
            (422, "timestamp", json!("yesterday"), "error.timestamp is \"yesterday\""),
            (422, "request_id", json!("q"), "error.request_id is \"q\""),
            (422, "code", Value::Null, "error.code is null in place of VALIDATION_ERROR"),
        ] {
            let mut body = good();
            body["error"][field] = value;
            let reply = reply(status, &body);
            reply.expect_error(422, "VALIDATION_ERROR").expect(says);
            assert_eq!(
                reply.exchanges.deviations(),
                [format!("GET /x: {says}")].map(|text| {
                    if says.contains("request_id") { format!("{text}, and X-Request-ID Some(\"r\")") } else { text }
                })
            );
        }
        let bare = reply(422, &json!({"detail": "no envelope"}));
        bare.expect_error(422, "VALIDATION_ERROR").expect("refused");
        assert_eq!(bare.exchanges.deviations().len(), 5);
    }

    #[test]
    fn the_codes_are_the_contracts() {
        let page = include_str!("../../../docs/contract/http.md");
        for (code, status) in CODES {
            assert!(
                page.contains(&format!("\n| `{code}` | {status} | ")),
                "docs/contract/http.md lacks {code} {status}"
            );
        }
    }

    #[test]
    fn what_is_not_refused_or_for_another_reason_fails() {
        assert!(reply(200, &good()).expect_error(422, "VALIDATION_ERROR").is_err());
        assert!(reply(409, &good()).expect_error(422, "VALIDATION_ERROR").is_err());
        assert!(reply(500, &good()).expect_error(422, "VALIDATION_ERROR").is_err());
        assert!(reply(400, &json!({})).expect_error(404, "NOT_FOUND").is_err(), "400 stands for 422 alone");
        let mut other = good();
        other["error"]["code"] = json!("CONFLICT");
        let failure = reply(422, &other).expect_error(422, "VALIDATION_ERROR").expect_err("another code");
        assert!(failure.message.contains("error.code"), "{failure}");
    }
}
