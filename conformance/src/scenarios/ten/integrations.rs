//! Servers of the Model Context Protocol that a tenant registers.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::world::{A, B, World, write};
use crate::client::stream::RunEvent;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::target::deployment::Conversation;

const NEEDS: &[Capability] =
    &[Capability::Launch, Capability::Docker, Capability::Image, Capability::Origin, Capability::Model];

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "TEN-090",
        "The agent uses a tenant's MCP server through the proxy, which adds its credential; one that fails is an event",
        "MCP servers registered per tenant, chosen per conversation, reached through the proxy with their credential",
        body!(mcp),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(NEEDS)
    .limit(120),
    Scenario::new(
        "TEN-091",
        "An MCP server that fails after the driver's start is an event that names it; once back, it is used again",
        "MCP down, unauthorised, back: their status and failures are events that name the cause",
        body!(fails_later),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(NEEDS)
    .limit(120),
    Scenario::new(
        "TEN-092",
        "MCP servers that never answer are named by events, by the end of the run, which goes on without them",
        "MCP servers that hang: the run goes on, and its user is told which they are",
        body!(never_answers),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(NEEDS)
    .limit(120),
];

/// A call of the server's tool.
const CALL: &str = "@tool mcp__sums__add {\"a\": 19, \"b\": 23}";
/// Its result.
const SUM: &str = "the sum is 42";

/// A tenant with the server `sums`, whose credential the proxy adds, and another one that does not exist.
async fn with_servers(context: &Context, more: Value) -> Result<(World, Conversation), Failure> {
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
    let mut servers = more;
    servers["sums"] = json!({"url": format!("https://{A}/mcp")});
    let configuration = json!({"vaults": [vault], "integrations": {"mcp_servers": servers}});
    write(&world.deployment, &of, &configuration).await?.expect(200)?;
    Ok((world, conversation))
}

/// Name and status of each server of which the run has told that it fails.
fn failed(events: &[RunEvent]) -> Vec<(&str, &str)> {
    let failed = events.iter().filter(|event| event.name == "mcp_server");
    failed.map(|event| (event.text("name"), event.text("status"))).collect()
}

/// What each call of a tool has returned, and whether it has failed.
fn results(events: &[RunEvent]) -> Vec<(&str, bool)> {
    let results = events.iter().filter(|event| event.name == "tool_result");
    results.map(|event| (event.text("content"), event.data["is_error"] == true)).collect()
}

async fn fails_later(context: &Context) -> Result<(), Failure> {
    let (world, conversation) = with_servers(context, json!({})).await?;
    let once = format!("{CALL}\n@say done");
    let events = world.deployment.run_well(&conversation, &once).await?;
    check_eq("results while it answers", results(&events), vec![(SUM, false)])?;
    check_eq("servers that fail while it answers", failed(&events), vec![])?;
    for (status, state) in [(401, "needs-auth"), (503, "failed")] {
        world.services.mcp(status).await?;
        // It is told once, however often it is called; the run goes on.
        let events = world.deployment.run_well(&conversation, &format!("{CALL}\n{once}")).await?;
        let results = results(&events);
        check(results.len() == 2 && results.iter().all(|(_, failed)| *failed), format!("at {status}: {results:?}"))?;
        check_eq(format!("servers that fail at {status}"), failed(&events), vec![("sums", state)])?;
        let told = events.iter().find(|event| event.name == "mcp_server").map(|event| event.text("message"));
        let why = results[0].0.lines().next().unwrap_or_default();
        check(
            told.is_some_and(|told| !told.is_empty() && why.starts_with(told.trim_end_matches('…'))),
            format!("the event at {status} says {told:?}, the tool {why:?}"),
        )?;
        world.services.mcp(200).await?;
        let events = world.deployment.run_well(&conversation, &once).await?;
        check_eq(format!("results after {status}"), self::results(&events), vec![(SUM, false)])?;
        check_eq(format!("servers that fail after {status}"), failed(&events), vec![])?;
    }
    Ok(())
}

/// Servers that never answer: more than a driver connects to at once, so that it has not given up all of them when the turn begins.
const SILENT: usize = 25;

async fn never_answers(context: &Context) -> Result<(), Failure> {
    let silent: BTreeSet<String> = (0..SILENT).map(|number| format!("silent{number:02}")).collect();
    let server = |name: &String| (name.clone(), json!({"url": format!("https://{B}/silence")}));
    let (world, conversation) = with_servers(context, silent.iter().map(server).collect()).await?;
    let told = |events: &[RunEvent]| -> Result<BTreeSet<String>, Failure> {
        let failed = failed(events);
        let known = failed.iter().all(|(_, status)| matches!(*status, "pending" | "failed"));
        check(known, format!("states of servers that do not answer: {failed:?}"))?;
        let names: BTreeSet<String> = failed.iter().map(|(name, _)| (*name).to_owned()).collect();
        check_eq(format!("events for each server: {failed:?}"), failed.len(), names.len())?;
        Ok(names)
    };
    // That which answers may not be connected yet, and is named then, too.
    let mut first = told(&world.deployment.run_well(&conversation, "@say done").await?)?;
    first.remove("sums");
    check_eq("servers of which the first run tells", &first, &silent)?;
    let events = world.deployment.run_well(&conversation, &format!("{CALL}\n@say done")).await?;
    check_eq("results of the server that answers", results(&events), vec![(SUM, false)])?;
    check_eq("servers of which the second run tells", &told(&events)?, &silent)
}

async fn mcp(context: &Context) -> Result<(), Failure> {
    let (world, conversation) =
        with_servers(context, json!({"broken": {"url": format!("https://{B}/nothing")}})).await?;
    let events = world.deployment.run_well(&conversation, &format!("{CALL}\n@say done")).await?;
    let tools =
        events.iter().find(|event| event.name == "init").map(|init| init.data["tools"].clone()).unwrap_or_default();
    check(tools.to_string().contains("mcp__sums__add"), format!("tools: {tools}"))?;
    let result = events.iter().find(|event| event.name == "tool_result").map(|event| event.text("content").to_owned());
    check_eq("the tool's result", result.as_deref(), Some(SUM))?;
    let down: Vec<&str> = failed(&events).into_iter().map(|(name, _)| name).collect();
    check_eq("servers that fail", down, vec!["broken"])?;
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
