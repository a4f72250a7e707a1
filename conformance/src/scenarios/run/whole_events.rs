//! The events of a run, whole: as they are streamed, in the log, and as messages.

use serde_json::{Value, json};

use crate::client::http::Api;
use crate::client::stream::{RunEvent, names};
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::target::deployment::{Conversation, Deployment};

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "RUN-050",
    "Each event of a run has just its own fields and values, and log, messages and every page have the same",
    "the whole payload of each kind of event; messages are what was said, the log is what was streamed",
    body!(whole),
)
.severity(Severity::High)
.profile(Profile::Full)
.requires(&[Capability::Launch, Capability::Docker, Capability::Image, Capability::Model, Capability::Resume])
.limit(90)];

/// Kinds of events that are messages, too.
const MESSAGES: [&str; 5] = ["assistant", "thinking", "tool_call", "tool_result", "error"];
/// Kinds of events that the log has of the last run alone.
const PASSING: [&str; 3] = ["text_delta", "progress", "ping"];

/// An event's own fields.
fn own(event: &RunEvent) -> Value {
    let mut own = event.data.clone();
    if let Some(fields) = own.as_object_mut() {
        fields.retain(|name, _| name != "seq" && name != "timestamp");
    }
    own
}

/// A tool call as it is told: its beginning, the call and the result. How it is summed up, and what the driver adds to what the tool has
/// printed, is not said anywhere.
fn called(
    events: &[RunEvent],
    id: &Value,
    input: &Value,
    (printed, is_error): (&str, bool),
) -> Result<Vec<(&'static str, Value)>, Failure> {
    let of = |name: &str, field: &str| {
        let event = events.iter().find(|event| event.name == name && event.data["tool_use_id"] == *id);
        event.map(|event| event.text(field).to_owned()).unwrap_or_default()
    };
    let (summary, content) = (of("tool_call", "summary"), of("tool_result", "content"));
    let described = input["description"].as_str().is_some_and(|text| summary.contains(text)) && !summary.contains('\n');
    check(described, format!("the summary of {input}: {summary:?}"))?;
    check(
        content.contains(printed) && (is_error || content == printed),
        format!("the result of {input}: {content:?}"),
    )?;
    let status = if is_error { "error" } else { "completed" };
    Ok(vec![
        (
            "progress",
            json!({"type": "tool", "message": summary, "tool_use_id": id, "tool_name": "Bash", "tool_status": "running"}),
        ),
        ("tool_call", json!({"tool_use_id": id, "tool_name": "Bash", "input": input, "summary": summary})),
        (
            "tool_result",
            json!({"tool_use_id": id, "tool_name": "Bash", "status": status, "content": content, "is_error": is_error}),
        ),
    ])
}

fn prompt(inputs: &[Value; 2]) -> String {
    format!(
        "Look around the workspace\n@think I look first.\n@say Let me see.\n@tool Bash {}\n@tool Bash {}\n@say That was all.",
        inputs[0], inputs[1]
    )
}

fn inputs() -> [Value; 2] {
    [
        json!({"command": "echo seen", "description": "Look around"}),
        json!({"command": "echo broken; exit 3", "description": "Fail"}),
    ]
}

/// What the run must have told, without pieces of text, pings, and other progress than that of tools.
fn expected(
    events: &[RunEvent],
    conversation: &Conversation,
    request: &str,
) -> Result<Vec<(&'static str, Value)>, Failure> {
    let find = |name: &str| {
        let found = events.iter().find(|event| event.name == name);
        found.ok_or_else(|| Failure::assertion(format!("no {name} among: {}", names(events))))
    };
    let (init, done, full) = (find("init")?, find("done")?, find("context_status")?);
    let calls: Vec<&Value> =
        events.iter().filter(|event| event.name == "tool_call").map(|event| &event.data["tool_use_id"]).collect();
    let [one, other] = calls[..] else { return Err(Failure::assertion(format!("calls of tools: {calls:?}"))) };
    check(one != other && one.is_string(), format!("ids of calls: {calls:?}"))?;
    let [look, fail] = inputs();
    let usage = &done.data["usage"];
    let told = &full.data["current_context_tokens"];
    // How the next turn's input is estimated is not said; it is no more than what all turns of the run have had together.
    let context = told.as_u64().unwrap_or_default();
    let most = usage["total_tokens"].as_u64().unwrap_or_default();
    check((1..=most).contains(&context), format!("current_context_tokens after {most} in all: {told}"))?;
    #[allow(clippy::cast_precision_loss, reason = "a few thousand tokens")]
    let exact = context as f64 / 2000.0;
    let percent = full.data["usage_percent"].as_f64().unwrap_or(-1.0);
    let is_rounded = (percent * 10.0 - (percent * 10.0).round()).abs() < 1e-6;
    check(is_rounded && (percent - exact).abs() < 0.051, format!("usage_percent of {exact}, rounded: {percent}"))?;
    let text = |text: &str| json!({"content_blocks": [{"type": "text", "text": text}]});
    let mut all = vec![
        (
            "init",
            json!({"session_id": init.data["session_id"], "tools": init.data["tools"], "model": init.data["model"],
            "commands": init.data["commands"], "conversation_id": conversation.id, "request_id": request}),
        ),
        ("thinking", json!({"content": "I look first."})),
        ("assistant", text("Let me see.")),
    ];
    all.extend(called(events, one, &look, ("seen", false))?);
    all.extend(called(events, other, &fail, ("broken", true))?);
    all.push(("assistant", text("That was all.")));
    all.push(("title", json!({"title": "Look around the workspace"})));
    all.push((
        "context_status",
        json!({"current_context_tokens": context, "max_context_tokens": 200_000, "usage_percent": full.data["usage_percent"],
            "warning_level": "normal", "can_continue": true}),
    ));
    let mut end = json!({"status": "success", "result": "That was all.", "is_error": false, "errors": [], "usage": usage,
        "cost_usd": done.data["cost_usd"], "turn_count": 3, "duration_ms": done.data["duration_ms"],
        "session_id": init.data["session_id"]});
    // A driver need not say why the model has ended its answer.
    if done.data.get("stop_reason").is_some() {
        end["stop_reason"] = json!("end_turn");
    }
    all.push(("done", end));
    Ok(all)
}

/// All entries of the conversation's log, read in pages of this size.
async fn log(api: &Api, of: &Conversation, limit: usize) -> Result<Vec<Value>, Failure> {
    let (mut entries, mut after) = (Vec::<Value>::new(), String::new());
    loop {
        let page = api.get(&of.path(&format!("/log?limit={limit}{after}"))).await?.expect(200)?.json()?;
        let found = page["entries"].as_array().cloned().unwrap_or_default();
        let (more, count) = (page["more"] == true, found.len());
        check(count == limit || (count < limit && !more), format!("a page of {count} of {limit}, more: {more}"))?;
        entries.extend(found);
        let Some(last) = entries.last().filter(|_| more) else { return Ok(entries) };
        after = format!("&after={}", last["id"].as_str().unwrap_or("?"));
    }
}

/// The entries without those that may be missing of the runs before the last.
fn lasting(mut entries: Vec<Value>) -> Vec<Value> {
    let last = entries.last().map(|entry| entry["run_id"].clone());
    entries.retain(|entry| {
        let passes = entry["type"].as_str().is_some_and(|kind| PASSING.contains(&kind));
        !passes || Some(&entry["run_id"]) == last.as_ref()
    });
    entries
}

/// All messages of the conversation, read in pages of this size, each of which names the next.
async fn messages(api: &Api, of: &Conversation, limit: usize) -> Result<Vec<Value>, Failure> {
    let mut messages = Vec::<Value>::new();
    let mut path = of.path(&format!("/messages?limit={limit}"));
    loop {
        let page = api.get(&path).await?.expect(200)?;
        let next = page.header("link").map(str::to_owned);
        messages.extend(page.json()?.as_array().cloned().unwrap_or_default());
        let Some(next) = next else { return Ok(messages) };
        let last = messages.last().map_or(0, |last| last["message_seq"].as_u64().unwrap_or_default());
        path = of.path(&format!("/messages?after={last}&limit={limit}"));
        check_eq("the next page", next, format!("<{path}>; rel=\"next\""))?;
    }
}

struct Said<'a> {
    text: String,
    request: String,
    events: &'a [RunEvent],
}

/// The log that these runs must have; `last` is whether the run is the latest.
fn logged(said: &Said<'_>, model: &str, last: bool, entries: &[Value]) -> Vec<Value> {
    let run = said.events[0].id.rsplit_once(':').map_or("", |(run, _)| run);
    let began = entries.iter().find(|entry| entry["id"] == format!("{run}:0"));
    let began = began.map(|entry| entry["data"]["timestamp"].clone());
    let user = json!({"id": format!("{run}:0"), "run_id": run, "type": "user",
        "data": {"text": said.text, "model_id": model, "request_id": said.request, "timestamp": began}});
    let kept = said.events.iter().filter(|event| last || !PASSING.contains(&event.name.as_str()));
    let events = kept.map(|event| json!({"id": event.id, "run_id": run, "type": event.name, "data": event.data}));
    std::iter::once(user).chain(events).collect()
}

/// The messages that a run must have left, without number and time.
fn left(said: &Said<'_>, of: &Conversation) -> Vec<Value> {
    let run = said.events[0].id.rsplit_once(':').map_or("", |(run, _)| run);
    let message = |id: String, kind: &str, subtype: Value, content: Value| json!({"message_id": id, "conversation_id": of.id, "message_type": kind, "message_subtype": subtype, "content": content});
    let mut all = vec![message(format!("{run}:0"), "user", Value::Null, json!({"text": said.text}))];
    for event in said.events {
        match event.name.as_str() {
            name if MESSAGES.contains(&name) => all.push(message(event.id.clone(), name, Value::Null, own(event))),
            "done" => all.push(message(format!("{run}:done"), "done", event.data["status"].clone(), own(event))),
            _ => {}
        }
    }
    all
}

async fn run(deployment: &Deployment, of: &Conversation, text: &str) -> Result<(String, Vec<RunEvent>), Failure> {
    let stream = deployment.start(of, text).await?;
    let request = stream.headers.get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
    Ok((request, stream.finish().await?))
}

async fn whole(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    told_whole(&deployment, &conversation).await
}

/// Checks everything that is told of two runs of a conversation that has had none.
pub(crate) async fn told_whole(deployment: &Deployment, conversation: &Conversation) -> Result<(), Failure> {
    let text = prompt(&inputs());
    let (request, events) = run(deployment, conversation, &text).await?;
    let told: Vec<(&str, Value)> = events
        .iter()
        .filter(|event| !PASSING.contains(&event.name.as_str()) || event.data["type"] == "tool")
        .map(|event| (event.name.as_str(), own(event)))
        .collect();
    let expected = expected(&events, conversation, &request)?;
    for (at, (told, expected)) in told.iter().zip(&expected).enumerate() {
        check_eq(format!("event {} of: {}", at + 1, names(&events)), told, expected)?;
    }
    check_eq(format!("number of events: {}", names(&events)), told.len(), expected.len())?;
    let pieces: String =
        events.iter().filter(|event| event.name == "text_delta").map(|event| event.text("text")).collect();
    check_eq("all pieces of text", pieces.as_str(), "Let me see.That was all.")?;
    for event in events.iter().filter(|event| event.name == "text_delta") {
        check_eq("fields of a piece of text", own(event), json!({"text": event.text("text")}))?;
    }
    let api = &deployment.api;
    let first = Said { text, request, events: &events };
    let entries = log(api, conversation, 1_000).await?;
    check_eq("the log of the first run", &entries, &logged(&first, &conversation.model, true, &entries))?;

    // A run that fails, with events of other kinds.
    let text = "@say It begins.\n@tool Bash {\"command\": \"true\"}\n@status 400".to_owned();
    let (request, failed) = run(deployment, conversation, &text).await?;
    let errors: Vec<&RunEvent> = failed.iter().filter(|event| event.name == "error").collect();
    let done = failed.last().map(|done| done.data.clone()).unwrap_or_default();
    let [error] = errors[..] else { return Err(Failure::assertion(format!("errors: {errors:?}"))) };
    check_eq("errors in done", &done["errors"], &json!([error.text("message")]))?;
    check_eq("status and is_error", (&done["status"], &done["is_error"]), (&json!("error"), &json!(true)))?;
    check(!failed.iter().any(|event| event.name == "title"), "a second title")?;
    let second = Said { text, request, events: &failed };
    let entries = lasting(log(api, conversation, 1_000).await?);
    let mut expected = logged(&first, &conversation.model, false, &entries);
    expected.extend(logged(&second, &conversation.model, true, &entries));
    check_eq("the log of both runs", &entries, &expected)?;
    for limit in [1, 2, 7, entries.len(), entries.len() - 1] {
        check_eq(format!("the log in pages of {limit}"), &lasting(log(api, conversation, limit).await?), &entries)?;
    }
    let mut expected = left(&first, conversation);
    expected.extend(left(&second, conversation));
    for limit in [1_000, 1, 3, expected.len(), expected.len() - 1] {
        let mut said = messages(api, conversation, limit).await?;
        for (at, message) in said.iter_mut().enumerate() {
            let fields = message.as_object_mut().ok_or_else(|| Failure::assertion("a message that is no object"))?;
            check_eq("number of a message", fields.remove("message_seq"), Some(json!(at + 1)))?;
            let time = fields.remove("timestamp").and_then(|time| time.as_str()?.parse::<jiff::Timestamp>().ok());
            check(time.is_some(), format!("the time of a message: {message}"))?;
        }
        check_eq(format!("the messages in pages of {limit}"), &said, &expected)?;
    }
    let refused = api.get(&conversation.path("/log?limit=0")).await?;
    refused.expect_error(422, "VALIDATION_ERROR")?;
    api.get(&conversation.path("/log?limit=1001")).await?.expect_error(422, "VALIDATION_ERROR")
}
