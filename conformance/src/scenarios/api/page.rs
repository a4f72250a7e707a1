//! The page that shows the API's description.

use serde_json::Value;

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::Capability;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "API-016",
    "The page /docs loads from its server alone; the description has summaries, query parameters and forms",
    "/docs: a page that shows /openapi.json, without any other host",
    body!(page),
)
.limit(45)];

async fn page(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let api = &deployment.api;
    let page = api.get("/docs").await?.expect(200)?;
    let policy = page.header("content-security-policy").unwrap_or_default().to_owned();
    check(policy.contains("default-src 'none'"), format!("the page may load from anywhere; its policy: {policy:?}"))?;
    let kind = page.header("content-type").unwrap_or_default();
    check(kind.starts_with("text/html"), format!("the page is {kind:?}, not HTML"))?;
    let (names, text) = (["script-src", "style-src", "connect-src", "img-src"], page.text());
    let foreign = policy
        .split(';')
        .map(str::trim)
        .find(|rule| names.iter().any(|name| rule.starts_with(name)) && (rule.contains('*') || rule.contains("http")));
    check(foreign.is_none(), format!("the page may load from other hosts: {foreign:?}"))?;
    let loads: Vec<&str> = ["src=\"", "href=\""]
        .iter()
        .flat_map(|name| text.split(name).skip(1))
        .filter_map(|rest| rest.split('"').next())
        .collect();
    let shows = text.contains("openapi.json") || !loads.is_empty();
    check(shows, format!("the page neither names the description nor loads anything that could: {text}"))?;
    for url in loads.into_iter().filter(|url| !url.starts_with("data:")) {
        check(!url.contains("//"), format!("the page refers to {url}"))?;
        api.get(&format!("/{}", url.trim_start_matches('/'))).await?.expect(200)?;
    }

    let description = api.get("/openapi.json").await?.expect(200)?.json()?;
    for (path, item) in description["paths"].as_object().into_iter().flatten() {
        for (method, operation) in item.as_object().into_iter().flatten() {
            let summary = operation["summary"].as_str().unwrap_or_default();
            let one_line = !summary.is_empty() && !summary.contains('\n');
            check(one_line, format!("{method} {path} has no summary of one line: {summary:?}"))?;
        }
    }
    let find = |pointer: &str| description.pointer(pointer).cloned().unwrap_or_default();
    let conversations = "/paths/~1api~1tenants~1{tenant_id}~1conversations";
    let parameters = find(&format!("{conversations}/get/parameters"));
    let in_query =
        |name: &str| parameters.as_array().into_iter().flatten().any(|one| one["name"] == name && one["in"] == "query");
    for name in ["status", "from_date", "limit", "offset"] {
        check(in_query(name), format!("no query parameter {name} among {parameters}"))?;
    }
    if context.run.capabilities.check(&[Capability::Files]).is_err() {
        return Ok(());
    }
    let form =
        find(&format!("{conversations}~1{{conversation_id}}~1stream/post/requestBody/content/multipart~1form-data"));
    check(form != Value::Null, "the form with files is not described")
}
