//! One conversation from creation to deletion.

use std::time::Duration;

use serde_json::Value;

use crate::client::stream::{RunEvent, names};
use crate::contract::schema;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::needs::RUN;
use crate::target::deployment::Deployment;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "RUN-001",
    "One whole conversation works: created, run with a tool call, streamed in order, signed, billed, deleted",
    "POST …/stream starts a run; seq starts at 1 and has no gaps; exactly one done, always last",
    body!(whole_conversation),
)
.severity(Severity::Critical)
.profile(Profile::Full)
.requires(RUN)
.limit(90)];

const PROMPT: &str = "@say Let me look around.\n\
     @tool Bash {\"command\": \"uname -s > /workspace/seen.txt; cat /workspace/seen.txt\", \"description\": \"Look\"}\n\
     @say That was all.";

async fn whole_conversation(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    check_conversation(&conversation.created, &conversation.tenant, &conversation.model)?;

    let stream = deployment.start(&conversation, PROMPT).await?;
    for (name, value) in [("cache-control", "no-cache"), ("x-accel-buffering", "no")] {
        let header = stream.headers.get(name).and_then(|header| header.to_str().ok());
        check_eq(format!("header {name} of the stream"), header, Some(value))?;
    }
    // Checked before the end of the run: a driver whose calls are refused retries for minutes.
    let asked = eventually(Duration::from_secs(20), "a request at the model", async || {
        let requests = deployment.model()?.requests().await?;
        if requests.is_empty() { Err(Failure::assertion("none")) } else { Ok(()) }
    });
    asked.await?;
    check_signed(&deployment).await?;
    let events = stream.finish().await?;
    check_order(&events)?;
    let done = &events[events.len() - 1];
    check_done(done)?;
    check_eq("session in init and done", done.text("session_id"), init(&events)?.text("session_id"))?;
    check_eq("conversation in init", init(&events)?.text("conversation_id"), &conversation.id)?;
    let text: String =
        events.iter().filter(|event| event.name == "text_delta").map(|event| event.text("text")).collect();
    check_eq("all text_delta, put together", text.as_str(), "Let me look around.That was all.")?;

    let room = deployment.only_room().await?;
    let file = room.exec(["cat", "/workspace/seen.txt"]).await?;
    check_eq("the file that the tool wrote", file.printed.trim(), "Linux")?;
    crate::scenarios::common::lockdown::check_locked(&deployment, &room).await?;
    check_signed(&deployment).await?;
    let turns = deployment.model()?.requests().await?.len();
    check(turns >= 2, format!("the model had {turns} requests, not two turns"))?;
    check_account(&deployment, &conversation.path(""), done).await?;

    deployment.api.delete(&conversation.path("")).await?.expect(204)?;
    deployment.api.get(&conversation.path("")).await?.expect_error(404, "NOT_FOUND")?;
    check_usage(&deployment, &conversation.tenant, done).await?;
    check_eq("workspaces after the conversation's deletion", deployment.all_rooms().await?.len(), 0)
}

fn check_conversation(created: &Value, tenant: &str, model: &str) -> Result<(), Failure> {
    let what = |field: &str| format!("{field} in {created}");
    for (field, value) in [("tenant_id", tenant), ("model_id", model), ("user_id", "conformance"), ("status", "active")]
    {
        check_eq(what(field), created[field].as_str(), Some(value))?;
    }
    for field in ["conversation_id", "session_id"] {
        check(
            created[field].as_str().is_some_and(|id| !id.is_empty())
                || (field == "session_id" && created[field].is_null()),
            what(field),
        )?;
    }
    check_eq(what("workspace_enabled"), created["workspace_enabled"].as_bool(), Some(true))?;
    for field in ["total_input_tokens", "total_output_tokens", "estimated_context_tokens"] {
        check_eq(what(field), created[field].as_u64(), Some(0))?;
    }
    for field in ["created_at", "updated_at"] {
        check(created[field].as_str().unwrap_or_default().parse::<jiff::Timestamp>().is_ok(), what(field))?;
    }
    Ok(())
}

fn init(events: &[RunEvent]) -> Result<&RunEvent, Failure> {
    let found = events.iter().find(|event| event.name == "init");
    found.ok_or_else(|| Failure::assertion(format!("no init among: {}", names(events))))
}

/// Checks that the events of a run with one tool call come in this order, with any others in between.
fn check_order(events: &[RunEvent]) -> Result<(), Failure> {
    let mut rest = events.iter();
    for wanted in ["init", "text_delta", "assistant", "tool_call", "tool_result", "text_delta", "assistant", "done"] {
        let found = rest.any(|event| event.name == wanted);
        check(found, format!("no {wanted} at the expected position among: {}", names(events)))?;
    }
    let known = schema::events();
    let unknown = events.iter().find(|event| !known.contains(&event.name.as_str()));
    check(unknown.is_none(), format!("an event that the contract does not know: {unknown:?}"))?;
    check(!events.iter().any(|event| event.name == "error"), format!("an error among: {}", names(events)))
}

fn check_done(done: &RunEvent) -> Result<(), Failure> {
    let what = |field: &str| format!("{field} in done: {}", done.data);
    check_eq(what("status"), done.text("status"), "success")?;
    check_eq(what("is_error"), done.data["is_error"].as_bool(), Some(false))?;
    check(done.text("result").contains("That was all."), what("result"))?;
    check(done.data["errors"].as_array().is_none_or(Vec::is_empty), what("errors"))?;
    let usage = &done.data["usage"];
    let mut sum = 0;
    for field in
        ["input_tokens", "output_tokens", "cache_creation_5m_tokens", "cache_creation_1h_tokens", "cache_read_tokens"]
    {
        sum += usage[field].as_u64().ok_or_else(|| Failure::assertion(what(field)))?;
    }
    check_eq(what("total_tokens"), usage["total_tokens"].as_u64(), Some(sum))?;
    check(usage["output_tokens"].as_u64() > Some(0), what("output_tokens"))?;
    check_eq(what("cost_usd, a decimal string"), in_hundred_millionths(done.text("cost_usd")), Some(cost_of(usage)))?;
    check(done.data["turn_count"].as_u64() >= Some(2), what("turn_count"))?;
    check(done.data["duration_ms"].as_u64() > Some(0), what("duration_ms"))
}

/// What these tokens cost at the prices of [`Deployment::conversation`], 0.003 and 0.015 USD for 1,000 tokens: in 1e-8 USD, so that it is a
/// whole number. Tokens that are written to the cache for five minutes cost 1.25 times as much, for an hour twice, and read ones a tenth.
fn cost_of(usage: &Value) -> u64 {
    let prices = [
        ("input_tokens", 300),
        ("output_tokens", 1500),
        ("cache_creation_5m_tokens", 375),
        ("cache_creation_1h_tokens", 600),
        ("cache_read_tokens", 30),
    ];
    prices.iter().map(|(field, price)| usage[field].as_u64().unwrap_or_default() * price).sum()
}

/// A decimal number in a text times 1e8, if that is a whole number.
fn in_hundred_millionths(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let (kept, beyond) = fraction.split_at(fraction.len().min(8));
    let digits = format!("{whole}{kept:0<8}");
    beyond.bytes().all(|digit| digit == b'0').then(|| digits.parse().ok())?
}

/// Checks that the tenant's usage has this run alone, although its conversation is deleted.
async fn check_usage(deployment: &Deployment, tenant: &str, done: &RunEvent) -> Result<(), Failure> {
    let usage = deployment.api.get(&format!("/api/tenants/{tenant}/usage")).await?.expect(200)?.json()?;
    let days = usage.as_array().cloned().unwrap_or_default();
    let sum = |field: &str| days.iter().filter_map(|day| day[field].as_u64()).sum::<u64>();
    check_eq(format!("runs in {usage}"), sum("runs"), 1)?;
    for field in ["input_tokens", "cache_creation_5m_tokens", "cache_creation_1h_tokens", "cache_read_tokens"] {
        check_eq(format!("{field} in {usage}"), Some(sum(field)), done.data["usage"][field].as_u64())?;
    }
    check_eq(
        format!("output_tokens in {usage}"),
        Some(sum("output_tokens")),
        done.data["usage"]["output_tokens"].as_u64(),
    )?;
    let costs: Option<Vec<u64>> =
        days.iter().map(|day| in_hundred_millionths(day["cost_usd"].as_str().unwrap_or_default())).collect();
    let cost = costs.map(|costs| costs.iter().sum::<u64>());
    check_eq(format!("cost in {usage}"), cost, in_hundred_millionths(done.text("cost_usd")))
}

/// Checks that the model accepted every request: each was signed outside the workspace.
async fn check_signed(deployment: &Deployment) -> Result<(), Failure> {
    let requests = deployment.model()?.requests().await?;
    for request in &requests {
        check_eq(format!("signature of {}", request.0), request.signature(), "valid")?;
        check_eq(format!("status of {}", request.path()), request.status(), 200)?;
    }
    let key = &deployment.server()?.credentials.id;
    check(
        requests.iter().all(|one| one.0["access_key_id"].as_str().is_none_or(|id| id == key)),
        "signed with another key",
    )
}

/// Checks that the conversation is billed for the run and has its messages.
async fn check_account(deployment: &Deployment, path: &str, done: &RunEvent) -> Result<(), Failure> {
    let output = done.data["usage"]["output_tokens"].as_u64();
    let conversation = deployment.api.get(path).await?.expect(200)?.json()?;
    check_eq("total_output_tokens of the conversation", conversation["total_output_tokens"].as_u64(), output)?;
    let messages = deployment.api.get(&format!("{path}/messages")).await?.expect(200)?.json()?;
    let list = messages.as_array().cloned().unwrap_or_default();
    check(list.len() >= 2, format!("messages of the conversation: {messages}"))?;
    check(messages.to_string().contains("That was all."), format!("the answer is not among the messages: {messages}"))?;
    let seqs: Vec<u64> = list.iter().filter_map(|message| message["message_seq"].as_u64()).collect();
    check(seqs.len() == list.len() && seqs.is_sorted_by(|a, b| a < b), format!("message_seq: {seqs:?}"))
}
