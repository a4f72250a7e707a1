//! The scopes of keys, on every route.

use http::Method;
use serde_json::json;

use super::keys::{create, with_tenant};
use crate::client::http::Api;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "TEN-041",
    "On every route, a key without the scope is refused with 403, which names it, and one with it is not",
    "scopes run, read, files, approve, admin, metrics; a wrong scope on every route, generated from OpenAPI",
    body!(every_route),
)
.severity(Severity::Critical)
.profile(Profile::Full)
.requires(&[Capability::Launch, Capability::Admin])];

const SCOPES: [&str; 6] = ["run", "read", "files", "approve", "admin", "metrics"];

/// The scopes of which an operation needs one.
fn needed(method: &Method, template: &str) -> &'static [&'static str] {
    let reads = *method == Method::GET;
    let rest = template.split_once("/conversations").map(|(_, rest)| rest);
    match rest {
        _ if template == "/metrics" => &["metrics"],
        _ if template.contains("/keys") || template.contains("/vaults") => &["admin"],
        Some(rest) if rest.contains("/files") => &["files"],
        Some(rest) if rest.ends_with("/stream") && reads => &["read", "run"],
        Some(rest) if rest.ends_with("/approvals") => &["read", "run", "approve"],
        Some(rest) if rest.contains("/approvals/") => &["approve"],
        _ if reads => &["read"],
        Some(_) => &["run"],
        None => &["admin"],
    }
}

/// Every operation that needs a key, with its template and a path to nothing that exists.
async fn operations(api: &Api) -> Result<Vec<(Method, String, String)>, Failure> {
    let description = api.get("/openapi.json").await?.expect(200)?.json()?;
    let mut operations = Vec::new();
    for (template, item) in description["paths"].as_object().into_iter().flatten() {
        for (method, operation) in item.as_object().into_iter().flatten() {
            if operation["security"].is_array() || template == "/metrics" {
                let method: Method = method.to_uppercase().parse().map_err(Failure::harness)?;
                operations.push((method, template.clone(), template.replace(['{', '}'], "")));
            }
        }
    }
    check(operations.len() > 30, format!("/openapi.json describes {} operations", operations.len()))?;
    Ok(operations)
}

async fn every_route(context: &Context) -> Result<(), Failure> {
    let (deployment, _) = with_tenant(context, Launch::new().set("APP_ENV", "production")).await?;
    let operations = operations(&deployment.api).await?;
    for scope in SCOPES {
        let (key, _) = create(context, &deployment.api, "/api/admin/keys", &[scope]).await?;
        let api = deployment.api.with_key(Some(&key));
        for (method, template, path) in &operations {
            let body = matches!(*method, Method::POST | Method::PUT | Method::PATCH).then(|| json!({}).to_string());
            let reply = api.send(method.clone(), path, body.as_deref(), &[]).await?;
            let needed = needed(method, template);
            let what = format!("{method} {template} with the scope {scope}: {} {}", reply.status, reply.text());
            if needed.contains(&scope) {
                check(!matches!(reply.status.as_u16(), 401 | 403 | 500), what)?;
            } else {
                reply.expect_error(403, "FORBIDDEN").map_err(|failure| failure.during(&what))?;
                let named = needed.iter().all(|needed| reply.text().contains(needed));
                check(named, format!("the refusal does not name the scope {needed:?}: {what}"))?;
            }
        }
    }
    Ok(())
}
