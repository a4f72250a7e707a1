//! What goes beyond the level above: each field, at the conversation and at the run.

use serde_json::{Value, json};

use super::levels::{DISK, prepared};
use super::world::write;
use crate::client::http::Reply;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "TEN-017",
    "Each field of a conversation or a run that goes beyond its tenant is refused with its place, not before",
    "the tenant's configuration narrows its conversations', theirs their runs'; 422 with every place",
    body!(each_field),
)
.severity(Severity::High)
.profile(Profile::Full)
.requires(&[Capability::Launch, Capability::Admin])
.limit(60)];

/// What the tenant allows, with the first of its vaults.
fn allowed(vault: &Value) -> Value {
    json!({
        "models": {"allowed": ["one"]}, "tools": {"allowed": ["Bash"], "provider": ["web_search"]}, "vaults": [vault],
        "limits": {"run_seconds": 60, "max_cost_usd": "1"}, "disk": DISK / 2, "permissions": {"questions": false},
        "integrations": {"mcp_servers": {"notes": {"url": "https://a.example/notes"}}}, "skills": ["pricing"],
        "agent": {"effort": "medium"}, "egress": {"allow": [{"host": "a.example"}]},
    })
}

/// What goes beyond that, and its place in a conversation's configuration; the place in a run's is another one where only the
/// conversation may say such a thing.
fn beyond(vaults: &[Value]) -> Vec<(Value, &'static str, &'static str)> {
    let same = |document: Value, place: &'static str| (document, place, place);
    vec![
        same(json!({"models": {"allowed": ["one", "two"]}}), "models.allowed[1]"),
        same(json!({"models": {"default": "two"}}), "models.default"),
        same(json!({"tools": {"allowed": ["Bash", "Read"]}}), "tools.allowed[1]"),
        same(json!({"tools": {"provider": ["web_search", "web_fetch"]}}), "tools.provider[1]"),
        same(json!({"tools": {"provider": ["another"]}}), "tools.provider[0]"),
        (
            json!({"egress": {"allow": [{"host": "a.example"}, {"host": "b.example"}]}}),
            "egress.allow[1].host",
            "egress",
        ),
        (json!({"vaults": vaults}), "vaults[1]", "vaults"),
        (json!({"image": "another"}), "image", "image"),
        (json!({"disk": DISK / 2 + 1}), "disk", "disk"),
        same(json!({"permissions": {"questions": true}}), "permissions.questions"),
        same(
            json!({"integrations": {"mcp_servers_allowed": ["notes", "tasks"]}}),
            "integrations.mcp_servers_allowed[1]",
        ),
        same(
            json!({"integrations": {"mcp_servers": {"tasks": {"url": "https://a.example/tasks"}}}}),
            "integrations.mcp_servers",
        ),
        same(json!({"skills": ["pricing", "writing"]}), "skills[1]"),
        same(json!({"agent": {"effort": "high"}}), "agent.effort"),
        same(json!({"agent": {"fallback_models": ["two"]}}), "agent.fallback_models[0]"),
        same(json!({"limits": {"run_seconds": 61}}), "limits.run_seconds"),
        same(json!({"limits": {"max_cost_usd": "1.01"}}), "limits.max_cost_usd"),
    ]
}

fn refused(reply: &Reply, what: &Value, place: &str) -> Result<(), Failure> {
    reply.expect_error(422, "VALIDATION_ERROR").map_err(|failure| failure.during(what))?;
    let told = reply.json()?;
    let details = told["error"]["details"].as_array().into_iter().flatten();
    let places: Vec<&str> = details.filter_map(|one| one["field"].as_str()).collect();
    let (first, others) = places.split_first().unwrap_or((&"", &[]));
    check_eq(format!("the place of what is wrong with {what}: {told}"), *first, place)?;
    // What no run may say is told for the whole and for its parts.
    let further = others.iter().find(|other| !other.starts_with(place));
    check(further.is_none(), format!("another place than {place}: {told}"))
}

async fn each_field(context: &Context) -> Result<(), Failure> {
    let (deployment, tenant, conversation) = prepared(context).await?;
    let api = &deployment.api;
    let mut vaults = Vec::new();
    for name in ["a", "b"] {
        let vault = api.post(&format!("{tenant}/vaults"), &json!({"name": name})).await?.expect(201)?.json()?;
        vaults.push(vault["vault_id"].clone());
    }
    let tenants = allowed(&vaults[0]);
    write(&deployment, &tenant, &tenants).await?.expect(200)?;
    let runs = format!("{conversation}/messages");
    for (document, place, of_run) in beyond(&vaults) {
        refused(&write(&deployment, &conversation, &document).await?, &document, place)?;
        let run = json!({"user_input": "@say no", "configuration": document});
        refused(&api.post(&runs, &run).await?, &document, of_run)?;
    }
    let untouched = api.get(&format!("{conversation}/configuration")).await?.expect(200)?.json()?;
    check_eq(
        "the configuration after all that was refused",
        untouched,
        json!({"version": 0, "configuration": {}, "updated_at": null}),
    )?;
    // What is as much as above is not beyond it.
    let mut same = tenants;
    same["integrations"] = json!({"mcp_servers_allowed": ["notes"]});
    same["models"]["default"] = json!("one");
    let written = write(&deployment, &conversation, &same).await?.expect(200)?.json()?;
    check_eq("what was written", (&written["version"], &written["configuration"]), (&json!(1), &same))
}
