//! Query parameters.

use serde_json::Value;

use crate::client::http::Api;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "API-015",
    "A bad query is refused with 422 and the name of its parameter, on every route, in words for clients",
    "errors are always the envelope; VALIDATION_ERROR 422 names the field",
    body!(bad_queries),
)
.limit(45)];

/// What a parser's messages contain, and one for clients does not.
const PARSERS: [&str; 8] =
    ["eserialize", "invalid digit", "empty string", "unknown variant", "unknown field", "expected", "parse", "`"];

async fn bad_queries(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let api = &deployment.api;
    let conversation = deployment.conversation(context).await?;
    let description = api.get("/openapi.json").await?.expect(200)?.json()?;
    let mut tried = 0;
    for (path, item) in description["paths"].as_object().into_iter().flatten() {
        let route = path.replace("{tenant_id}", &conversation.tenant).replace("{conversation_id}", &conversation.id);
        let parameters: Vec<&Value> = item["get"]["parameters"].as_array().into_iter().flatten().collect();
        let query: Vec<&&Value> = parameters.iter().filter(|parameter| parameter["in"] == "query").collect();
        if query.is_empty() {
            continue;
        }
        for parameter in &query {
            let name = parameter["name"].as_str().unwrap_or_default();
            for value in bad_values(parameter) {
                refused(api, &route, &format!("{name}={value}"), name).await?;
                tried += 1;
            }
            refused(api, &route, &format!("{name}=1&{name}=1"), name).await?;
        }
        refused(api, &route, "colour=red", "colour").await?;
        for required in query.iter().filter(|parameter| parameter["required"] == true) {
            refused(api, &route, "", required["name"].as_str().unwrap_or_default()).await?;
        }
    }
    check(tried >= 30, format!("only {tried} bad values were tried: has /openapi.json no query parameters?"))
}

/// Values that a parameter cannot have.
fn bad_values(parameter: &Value) -> &'static [&'static str] {
    let schema = &parameter["schema"];
    let kind =
        |name: &str| schema["type"] == name || schema["type"].as_array().is_some_and(|all| all.contains(&name.into()));
    if kind("integer") {
        return &["x", "", "-1", "1.5", "99999999999999999999", "%00", "0x10"];
    }
    if schema["format"] == "date-time" {
        return &["yesterday", "", "2026-13-45T00:00:00Z", "2026-01-31", "0"];
    }
    // Written out, or a reference.
    let is_enumeration = schema["enum"].is_array() || schema["type"].is_null();
    match (parameter["name"].as_str(), is_enumeration) {
        (Some("after"), _) => &["x", "run:x", "-1"],
        (_, true) => &["gone", ""],
        _ => &[],
    }
}

async fn refused(api: &Api, route: &str, query: &str, field: &str) -> Result<(), Failure> {
    let reply = api.get(&format!("{route}?{query}")).await?;
    reply.expect_error(422, "VALIDATION_ERROR")?;
    let answer = reply.json()?;
    let details = &answer["error"]["details"];
    check_eq(format!("the field that {route}?{query} names: {answer}"), details[0]["field"].as_str(), Some(field))?;
    let message = details[0]["message"].as_str().unwrap_or_default();
    let foreign = PARSERS.iter().find(|word| message.contains(**word));
    check(foreign.is_none() && message.len() > 8, format!("{route}?{query}: not in words for clients: {message}"))
}
