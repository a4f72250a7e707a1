//! Pagination, body limits, and what an error reveals.

use bytes::Bytes;
use http::Method;

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::Severity;

/// The number of conversations.
const LISTED: usize = 5;
/// Size of a body that no such API accepts.
const HUGE: usize = 24 << 20;
/// Texts that reveal internals of a server.
const INSIDE: [&str; 7] = ["panicked", "stack backtrace", "Traceback", ".rs:", ".py\"", "at async ", "goroutine "];

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "API-007",
        "The pages of a list are complete and do not overlap; an invalid limit or offset is refused with 422",
        "{items, total, limit, offset}; limit 1–100 (50), offset",
        body!(pagination),
    ),
    Scenario::new(
        "API-008",
        "A body that is too large or not UTF-8 is refused with the error envelope",
        "PAYLOAD_TOO_LARGE 413; VALIDATION_ERROR 422",
        body!(body_limits),
    ),
    Scenario::new(
        "API-009",
        "No error response reveals internals of the server",
        "no stack traces to clients",
        body!(no_internals),
    )
    .severity(Severity::High),
];

async fn pagination(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let first = deployment.conversation(context).await?;
    let mut made = vec![first.id.clone()];
    for _ in 1..LISTED {
        made.push(deployment.another_conversation(context, &first.tenant, &first.model).await?.id);
    }
    made.sort();
    let list = format!("/api/tenants/{}/conversations", first.tenant);
    let page = async |query: String| -> Result<Vec<String>, Failure> {
        let page = deployment.api.get(&format!("{list}{query}")).await?.expect(200)?.json()?;
        check_eq(format!("total with {query:?}"), page["total"].as_u64(), u64::try_from(LISTED).ok())?;
        let items = page["items"].as_array().cloned().unwrap_or_default();
        Ok(items.iter().map(|item| item["conversation_id"].as_str().unwrap_or_default().to_owned()).collect())
    };
    for size in [1, 2, LISTED, 100] {
        let mut seen = Vec::new();
        for offset in (0..LISTED).step_by(size) {
            let ids = page(format!("?limit={size}&offset={offset}")).await?;
            check_eq(format!("conversations from {offset} on, at most {size}"), ids.len(), size.min(LISTED - offset))?;
            seen.extend(ids);
        }
        let in_order = seen.clone();
        seen.sort();
        check_eq(format!("conversations on all pages of {size}"), &seen, &made)?;
        check_eq(format!("order over pages of {size}"), &in_order, &page(String::new()).await?)?;
    }
    for offset in [LISTED, 1_000_000] {
        check_eq(format!("conversations from {offset} on"), page(format!("?offset={offset}")).await?.len(), 0)?;
    }
    let defaults = deployment.api.get(&list).await?.expect(200)?.json()?;
    check_eq("limit by default", defaults["limit"].as_u64(), Some(50))?;
    check_eq("offset by default", defaults["offset"].as_u64(), Some(0))?;
    for query in [
        "limit=0",
        "limit=101",
        "limit=-1",
        "limit=many",
        "limit=",
        "offset=-1",
        "offset=x",
        "limit=99999999999999999999",
    ] {
        let reply = deployment.api.get(&format!("{list}?{query}")).await?;
        reply.expect_error(422, "VALIDATION_ERROR").map_err(|failure| failure.during(query))?;
    }
    Ok(())
}

async fn body_limits(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let api = &deployment.api;
    let conversation = deployment.conversation(context).await?;
    let routes = ["/api/tenants".to_owned(), "/api/models".to_owned(), conversation.path("/stream")];
    let field = ["tenant_id", "model_id", "user_input"];
    for (route, field) in routes.iter().zip(field) {
        let huge = format!("{{\"{field}\": \"{}\"}}", "x".repeat(HUGE));
        let reply = api.post_bytes(route, huge.into()).await?;
        reply.expect_error(413, "PAYLOAD_TOO_LARGE").map_err(|failure| failure.during("24 MiB"))?;
        let no_text = [b"{\"", field.as_bytes(), b"\": \"\xff\xfe\xc3\"}"].concat();
        let reply = api.post_bytes(route, Bytes::from(no_text)).await?;
        reply.expect_error(422, "VALIDATION_ERROR").map_err(|failure| failure.during("bytes that are not UTF-8"))?;
    }
    // Nothing has changed.
    api.get(&conversation.path("")).await?.expect(200).map(drop)
}

async fn no_internals(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let api = &deployment.api;
    let conversation = deployment.conversation(context).await?;
    let path = |rest: &str| conversation.path(rest);
    let long = "x".repeat(4_000);
    let mut responses = Vec::new();
    for (method, path, body) in [
        (Method::GET, "/no/such/route".to_owned(), None),
        (Method::PATCH, "/api/tenants".to_owned(), Some("{}")),
        (Method::POST, "/api/tenants".to_owned(), Some("{\"tenant_id\": ")),
        (Method::POST, "/api/models".to_owned(), Some("{\"model_id\": {}, \"context_window\": -1}")),
        (Method::POST, path("/stream"), Some("{\"user_input\": [[[]]]}")),
        (Method::GET, path("/messages/%00"), None),
        (Method::GET, format!("/api/tenants/{long}"), None),
        (Method::GET, "/api/tenants/%ff%fe".to_owned(), None),
        (Method::GET, path("/../../.."), None),
        (Method::GET, path("?limit=%00"), None),
        (Method::DELETE, path("/no-such-part"), None),
        (Method::PUT, path(""), Some("{\"status\": \"bogus\", \"title\": 1}")),
    ] {
        let reply = api.send(method, &path, body, &[]).await?;
        check(reply.status.as_u16() < 500, format!("{}: {} {}", reply.asked, reply.status, reply.text()))?;
        responses.push((reply.asked.clone(), reply.text()));
    }
    for (asked, text) in &responses {
        let found = INSIDE.iter().find(|word| text.contains(**word));
        check(found.is_none(), format!("the response to {asked} reveals internals ({found:?}): {text}"))?;
    }
    check(responses.iter().any(|(_, text)| text.contains("NOT_FOUND")), "no response was an error: nothing was checked")
}
