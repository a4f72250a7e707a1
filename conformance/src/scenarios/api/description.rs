//! The OpenAPI description against the server, by Schemathesis.

use std::time::Duration;

use serde_json::json;

use crate::description::Speech;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::target::launch::Launch;
use crate::target::schemathesis;

/// How long the tool may take; it needs half a minute on an idle machine.
const LIMIT: Duration = Duration::from_secs(150);
const OPERATOR: &str = "operators-key-0123456789";

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "API-020",
    "Requests generated from /openapi.json, valid and invalid, receive the documented responses on every route",
    "GET /openapi.json: OpenAPI 3.1 of all the above",
    body!(as_documented),
)
.severity(Severity::High)
.profile(Profile::Full)
.requires(&[Capability::Launch, Capability::Docker, Capability::Image, Capability::Model, Capability::Schemathesis])
.limit(170)];

async fn as_documented(context: &Context) -> Result<(), Failure> {
    context.secrets().add(OPERATOR);
    let mut deployment = context.launch(Launch::new().set("API_KEYS", OPERATOR)).await?;
    deployment.api = deployment.api.with_key(Some(OPERATOR));
    // Ids of existing objects, so that responses other than 404 occur; deletions get others.
    let kept = deployment.conversation(context).await?;
    let doomed = deployment.another_conversation(context, &kept.tenant, &kept.model).await?;
    deployment.api.post("/api/tenants", &json!({"tenant_id": "doomed"})).await?.expect(201)?;
    let description = deployment.api.get("/openapi.json").await?.expect(200)?.json()?;
    let operations: usize = description["paths"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(_, item)| Some(item.as_object()?.len()))
        .sum();
    check(operations > 20, format!("/openapi.json describes only {operations} operations"))?;

    let dir = context.dir().join(context.unique("schemathesis"));
    std::fs::create_dir(&dir)?;
    std::fs::write(
        dir.join("schemathesis.toml"),
        settings(deployment.api.speech(), &kept.tenant, &kept.id, &kept.model, &doomed.id),
    )?;
    let outcome = schemathesis::run(&context.run.id, &dir, deployment.api.base(), context.seed, LIMIT).await?;
    let all = format!("Tested: {operations}");
    check(outcome.report.contains(&all), format!("not {all}, but: {}", tail(&outcome.report)))?;
    check(outcome.passed, format!("responses differ from /openapi.json: {}", findings(&outcome.report)))
}

/// Every check is on. A rule that spans fields or depends on existing objects cannot be expressed in a schema; a valid body may be refused there.
fn settings(speech: &Speech, tenant: &str, conversation: &str, model: &str, doomed: &str) -> String {
    let (header, scheme) = (&speech.key_header, &speech.key_scheme);
    format!(
        r#"headers = {{ {header} = "{scheme}{OPERATOR}" }}

# What is broken may be broken by its size alone: 413 is an answer to that.
[checks.negative_data_rejection]
expected-statuses = ["400", "401", "403", "404", "405", "406", "409", "413", "415", "422", "429"]

[parameters]
"path.tenant_id" = "{tenant}"
"path.conversation_id" = "{conversation}"
"path.model_id" = "{model}"

[[operations]]
include-method = "DELETE"
include-path-regex = "tenant_id}}$"
parameters = {{ "path.tenant_id" = "doomed" }}

[[operations]]
include-method = "DELETE"
include-path-regex = "conversation_id}}$"
parameters = {{ "path.conversation_id" = "{doomed}" }}

# min_size must not exceed max_size; a region must be reachable; an archived conversation takes no run, a deprecated model no
# conversation, a running conversation no second run, a path may lead out of the workspace, a configuration or a credential may go
# beyond what the operator allows, and a skill has a file SKILL.md.
[[operations]]
include-path-regex = "^/api/(admin/(pool|keys)|models|tenants/[^/]+/(conversations|keys|configuration|egress|vaults|skills))"
checks.positive_data_acceptance.expected-statuses = ["2xx", "403", "404", "409", "422", "503"]

# An Idempotency-Key that another request has used is refused.
[[operations]]
include-method = "POST"
checks.positive_data_acceptance.expected-statuses = ["2xx", "403", "404", "409", "422", "503"]

# A revoked key stays in the list.
[[operations]]
include-path-regex = "/keys/"
checks.use_after_free.enabled = false
"#
    )
}

/// The findings in the output, without the text before them.
fn findings(report: &str) -> &str {
    let report =
        report.split_once("= FAILURES =").or_else(|| report.split_once("= ERRORS =")).map_or(report, |(_, rest)| rest);
    report.get(..4000).unwrap_or(report)
}

fn tail(report: &str) -> String {
    let lines: Vec<&str> = report.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
