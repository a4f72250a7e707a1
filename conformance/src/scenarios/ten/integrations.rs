//! Servers of the Model Context Protocol that a tenant registers.

use serde_json::json;

use super::world::{A, B, World, write};
use crate::client::stream::RunEvent;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};

const NEEDS: &[Capability] =
    &[Capability::Launch, Capability::Docker, Capability::Image, Capability::Origin, Capability::Model];

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "TEN-090",
    "The agent uses a tenant's MCP server through the proxy, which adds its credential; one that fails is an event",
    "MCP servers registered per tenant, chosen per conversation, reached through the proxy with their credential",
    body!(mcp),
)
.severity(Severity::High)
.profile(Profile::Full)
.requires(NEEDS)
.limit(120)];

async fn mcp(context: &Context) -> Result<(), Failure> {
    context.secrets().add("mcp-canary");
    let key = context.dir().join("key");
    std::fs::write(&key, "07".repeat(32))?;
    let world = World::start(context, 1, |launch| launch.set("VAULT_KEY_FILE", key.display())).await?;
    let conversation = world.deployment.conversation(context).await?;
    let of = format!("/api/tenants/{}", conversation.tenant);
    let made =
        world.deployment.api.post(&format!("{of}/vaults"), &json!({"name": "main"})).await?.expect(201)?.json()?;
    let vault = made["vault_id"].as_str().unwrap_or_default();
    let credential = json!({"name": "sums", "purpose": {"host": A, "when": "always", "operations": [{"method": "POST", "path": "/mcp"}, {"method": "GET", "path": "/mcp"}]},
        "auth": {"type": "header", "name": "Authorization", "template": "Bearer {}", "secret": "mcp-canary"}});
    world.deployment.api.post(&format!("{of}/vaults/{vault}/credentials"), &credential).await?.expect(201)?;
    let servers =
        json!({"sums": {"url": format!("https://{A}/mcp")}, "broken": {"url": format!("https://{B}/nothing")}});
    let configuration = json!({"vaults": [vault], "integrations": {"mcp_servers": servers}});
    write(&world.deployment, &of, &configuration).await?.expect(200)?;

    let call = "@tool mcp__sums__add {\"a\": 19, \"b\": 23}\n@say done";
    let events = world.deployment.run_well(&conversation, call).await?;
    let tools =
        events.iter().find(|event| event.name == "init").map(|init| init.data["tools"].clone()).unwrap_or_default();
    check(tools.to_string().contains("mcp__sums__add"), format!("tools: {tools}"))?;
    let result = events.iter().find(|event| event.name == "tool_result").map(|event| event.text("content").to_owned());
    check_eq("the tool's result", result.as_deref(), Some("the sum is 42"))?;
    let failed: Vec<&RunEvent> = events.iter().filter(|event| event.name == "mcp_server").collect();
    check(failed.len() == 1 && failed[0].text("name") == "broken", format!("events mcp_server: {failed:?}"))?;
    let seen = world.seen("/mcp").await?;
    check(!seen.is_empty(), "no request for /mcp")?;
    for request in &seen {
        check_eq("scheme", request.scheme.as_str(), "https")?;
        check_eq("Authorization", request.header("authorization"), Some("Bearer mcp-canary"))?;
    }
    // A run that does not choose it does not have it.
    let body = json!({"user_input": "@say hello", "configuration": {"integrations": {"mcp_servers_allowed": []}}});
    let events = world.deployment.api.open_stream(&conversation.path("/stream"), &body).await?.finish().await?;
    let tools =
        events.iter().find(|event| event.name == "init").map(|init| init.data["tools"].clone()).unwrap_or_default();
    check(!tools.to_string().contains("mcp__"), format!("tools of a run without servers: {tools}"))
}
