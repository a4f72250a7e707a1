//! The shape of errors.

use http::Method;
use serde_json::json;

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::Severity;
use crate::scenarios::common::shape::Deviations;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "SHAPE-001",
    "Every error has the contract's status, and the envelope with code, message, details, time and request id",
    "{\"error\": {code, message, details: [{field, message}], request_id, timestamp}}; VALIDATION_ERROR 422",
    body!(errors),
)
.severity(Severity::Low)
.limit(45)];

async fn errors(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let api = &deployment.api;
    let conversation = deployment.conversation(context).await?;
    let tenant = format!("/api/tenants/{}", conversation.tenant);
    let again = json!({"tenant_id": conversation.tenant}).to_string();
    let mut found = Deviations::default();
    for (method, path, body, status, code) in [
        (Method::GET, "/api/no-such-route".to_owned(), None, 404, "NOT_FOUND"),
        (Method::GET, "/api/tenants/conformance-knows-nobody".to_owned(), None, 404, "NOT_FOUND"),
        (Method::GET, format!("{tenant}/conversations/conformance-knows-none"), None, 404, "NOT_FOUND"),
        (
            Method::POST,
            "/api/tenants/conformance-knows-nobody/conversations".to_owned(),
            Some("{\"user_id\": \"u\"}"),
            404,
            "NOT_FOUND",
        ),
        (Method::POST, "/api/tenants".to_owned(), Some("{\"tenant_id\": "), 422, "VALIDATION_ERROR"),
        (Method::POST, "/api/models".to_owned(), Some("{}"), 422, "VALIDATION_ERROR"),
        (Method::POST, format!("{tenant}/conversations"), Some("[]"), 422, "VALIDATION_ERROR"),
        (Method::POST, conversation.path("/stream"), Some("{\"user_input\": 1}"), 422, "VALIDATION_ERROR"),
        (Method::GET, format!("{tenant}/conversations?limit=0"), None, 422, "VALIDATION_ERROR"),
        (Method::GET, format!("{tenant}/conversations?status=bogus"), None, 422, "VALIDATION_ERROR"),
        (Method::POST, "/api/tenants".to_owned(), Some(again.as_str()), 409, "CONFLICT"),
    ] {
        let reply = api.send(method, &path, body, &[]).await?;
        // The control: it is an error at all.
        check(
            reply.status.is_client_error(),
            format!("{} is not refused: {} {}", reply.asked, reply.status, reply.text()),
        )?;
        found.add(reply.deviations_of_error(status, code));
    }
    found.end()
}
