//! Events of a run: thinking, sub-agents, context usage, titles, request ids.

use serde_json::{Value, json};

use crate::client::stream::{RunEvent, names};
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::needs::RUN;
use crate::target::deployment::{Conversation, Deployment};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "RUN-031",
        "Thinking is reported as thinking, a sub-agent under its own id, and the run waits for the sub-agent",
        "thinking; subagent_start / subagent_end; parent_agent_id on what a sub-agent does",
        body!(thinking_and_sub_agents),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(&[Capability::Model])
    .limit(90),
    Scenario::new(
        "RUN-032",
        "Context usage is reported after each run, and a conversation with a full context accepts no further run",
        "context_status: warning_level normal, warning, critical, blocked; can_continue; context_limit_reached",
        body!(context_usage),
    )
    .profile(Profile::Full)
    .requires(&[Capability::Model])
    .limit(90),
    Scenario::new(
        "RUN-033",
        "The first exchange gives a conversation its title; a title that a client has set stays",
        "title: from the first exchange, or as set",
        body!(title),
    )
    .profile(Profile::Full)
    .requires(&[Capability::Model])
    .limit(90),
    Scenario::new(
        "RUN-034",
        "The request id is in the run's first event, in the server's log and in the workspace's log",
        "X-Request-ID runs through logs, events and the agent",
        body!(request_id),
    )
    .profile(Profile::Full)
    .requires(RUN)
    .limit(90),
];

/// The only event with this name.
fn only<'e>(events: &'e [RunEvent], name: &str) -> Result<&'e RunEvent, Failure> {
    let mut found = events.iter().filter(|event| event.name == name);
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        _ => Err(Failure::assertion(format!("not exactly one {name} among: {}", names(events)))),
    }
}

async fn thinking_and_sub_agents(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    let hello = deployment.run_well(&conversation, "@say hello").await?;
    let tools =
        hello.iter().find(|event| event.name == "init").map(|init| init.data["tools"].clone()).unwrap_or_default();
    let knows = |name: &str| tools.as_array().is_some_and(|tools| tools.iter().any(|tool| tool == name));
    let name = ["Agent", "Task"].into_iter().find(|name| knows(name));
    let name = name.ok_or_else(|| Failure::assertion(format!("no tool that starts sub-agents among {tools}")))?;

    let inner =
        "@think Deep below.\n@tool Bash {\"command\": \"echo from below\", \"description\": \"Look\"}\n@say Seven.";
    let input = json!({"description": "Count files", "subagent_type": "general-purpose", "prompt": inner});
    let prompt = format!("@think Let me ponder this.\n@tool {name} {input}\n@say There are seven.");
    let events = deployment.run_well(&conversation, &prompt).await?;
    let thought: Vec<&RunEvent> = events.iter().filter(|event| event.name == "thinking").collect();
    let pondered = thought
        .iter()
        .any(|event| event.text("content").contains("ponder this") && event.data["parent_agent_id"].is_null());
    check(pondered, format!("no thinking event has the thought: {thought:?}"))?;

    let (began, ended) = (only(&events, "subagent_start")?, only(&events, "subagent_end")?);
    let agent = began.text("agent_id");
    check_eq("agent_type", began.text("agent_type"), "general-purpose")?;
    check_eq("description", began.text("description"), "Count files")?;
    check_eq("agent_id of the end", ended.text("agent_id"), agent)?;
    check_eq("status of the end", ended.text("status"), "completed")?;
    let result = events.iter().find(|event| event.name == "tool_result" && event.text("tool_use_id") == agent);
    let result = result.map_or("", |result| result.text("content"));
    check(ended.text("result_preview").contains("Seven"), format!("result_preview: {} of {result:?}", ended.data))?;
    let call = events.iter().find(|event| event.name == "tool_call" && event.text("tool_name") == "Bash");
    let call =
        call.ok_or_else(|| Failure::assertion(format!("no call of the sub-agent's among: {}", names(&events))))?;
    check_eq(format!("parent_agent_id of {}", call.data), call.text("parent_agent_id"), agent)?;
    // A driver need not tell what its sub-agents think; what they call and are answered it tells.
    let said_below = |event: &&RunEvent| {
        event.text("tool_use_id") != agent
            && ["Deep below", "from below"].iter().any(|said| event.data.to_string().contains(said))
    };
    let below: Vec<&RunEvent> = events.iter().filter(said_below).filter(|event| event.name != "progress").collect();
    let kinds: Vec<&str> = below.iter().map(|event| event.name.as_str()).collect();
    check(
        ["tool_call", "tool_result"].iter().all(|kind| kinds.contains(kind)),
        format!("of the sub-agent: {kinds:?}"),
    )?;
    for event in below {
        check_eq(format!("parent_agent_id of {}", event.data), event.text("parent_agent_id"), agent)?;
    }
    let mut own = events.iter().filter(|event| event.name == "assistant" && event.data["parent_agent_id"].is_null());
    check(
        own.next_back().is_some_and(|last| last.data.to_string().contains("There are seven.")),
        "the last message is not the main agent's",
    )?;
    let place = |event: &RunEvent| event.data["seq"].as_u64();
    check(place(began) < place(call) && place(call) < place(ended), format!("order: {}", names(&events)))
}

/// The `context_status` event of a run that succeeds.
async fn status(deployment: &Deployment, conversation: &Conversation) -> Result<Value, Failure> {
    let events = deployment.run_well(conversation, "@say word").await?;
    Ok(only(&events, "context_status")?.data.clone())
}

async fn context_usage(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    let first = status(&deployment, &conversation).await?;
    check_eq("max_context_tokens", first["max_context_tokens"].as_u64(), Some(200_000))?;
    let tokens = first["current_context_tokens"].as_u64().unwrap_or_default();
    check(tokens > 0, format!("current_context_tokens: {first}"))?;
    check_eq(format!("warning_level: {first}"), first["warning_level"].as_str(), Some("normal"))?;
    // A context window that the conversation so far fills to this share; the run adds little.
    for (percent, level) in [(80, "warning"), (93, "critical"), (120, "blocked")] {
        let before = deployment.api.get(&conversation.path("")).await?.expect(200)?.json()?;
        let used = before["estimated_context_tokens"].as_u64().unwrap_or_default();
        let window = json!({"context_window": (used * 100).div_ceil(percent).max(1)});
        deployment.api.put(&format!("/api/models/{}", conversation.model), &window).await?.expect(200)?;
        let now = status(&deployment, &conversation).await?;
        check_eq(
            format!("warning_level where some {percent} % are used: {now}"),
            now["warning_level"].as_str(),
            Some(level),
        )?;
        check_eq(format!("can_continue: {now}"), now["can_continue"].as_bool(), Some(level != "blocked"))?;
        let (used, window) = (now["current_context_tokens"].as_f64(), now["max_context_tokens"].as_f64());
        let share = used.unwrap_or_default() / window.unwrap_or(1.0) * 100.0;
        let in_event = now["usage_percent"].as_f64().unwrap_or_default();
        check((share - in_event).abs() < 0.1, format!("usage_percent: {now}"))?;
    }
    let full = deployment.api.get(&conversation.path("")).await?.expect(200)?.json()?;
    check_eq("context_limit_reached", full["context_limit_reached"].as_bool(), Some(true))?;
    let refused = deployment.api.post(&conversation.path("/stream"), &json!({"user_input": "@say no"})).await?;
    refused.expect_error(409, "CONFLICT")
}

async fn title(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    let other = deployment.another_conversation(context, &conversation.tenant, &conversation.model).await?;
    let events = deployment.run_well(&conversation, "Add up the invoices\n@say seven").await?;
    let in_event = only(&events, "title")?.text("title").to_owned();
    check(!in_event.is_empty(), "an empty title")?;
    let kept = async |of: &Conversation| {
        let account = deployment.api.get(&of.path("")).await?.expect(200)?.json()?;
        Ok::<_, Failure>(account["title"].as_str().unwrap_or_default().to_owned())
    };
    check_eq("title of the conversation", kept(&conversation).await?, in_event.clone())?;
    let events = deployment.run_well(&conversation, "And now the bills\n@say nine").await?;
    check(!events.iter().any(|event| event.name == "title"), "a second exchange changed the title")?;
    check_eq("title after a second exchange", kept(&conversation).await?, in_event)?;

    deployment.api.put(&other.path(""), &json!({"title": "Mine"})).await?.expect(200)?;
    let events = deployment.run_well(&other, "Add up the invoices\n@say seven").await?;
    check(!events.iter().any(|event| event.name == "title"), "a run replaced the title that was set")?;
    check_eq("title that was set", kept(&other).await?, "Mine".to_owned())
}

async fn request_id(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    let id = context.unique("request");
    let body = json!({"user_input": "@say hello"}).to_string();
    let path = conversation.path("/stream");
    let reply =
        deployment.api.send(reqwest::Method::POST, &path, Some(&body), &[("X-Request-ID", &id)]).await?.expect(200)?;
    check_eq("X-Request-ID of the answer", reply.header("x-request-id"), Some(id.as_str()))?;
    let events = reply.text();
    let init = events.lines().skip_while(|line| *line != "event: init").nth(1).unwrap_or_default();
    check(init.contains(&id), format!("the request's id is not in init: {init}"))?;
    let log = deployment.server()?.log();
    check(
        log.lines().any(|line| line.contains("run ended") && line.contains(&id)),
        "the request's id is not in the log line of the run's end",
    )?;
    let room = deployment.only_room().await?.logs().await?;
    check(room.contains(&id), format!("the request's id is not in the workspace's log: {room:?}"))
}
