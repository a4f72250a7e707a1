//! Runs and the servers that come and go under them: RUN.

use std::time::Duration;

use serde_json::Value;

use crate::client::stream::{RunEvent, check_whole, names};
use crate::context::Context;
use crate::failure::{Failure, check, check_eq};
use crate::poll::eventually;
use crate::scenario::{Capability, Profile, Scenario, Severity};
use crate::target::deployment::{Conversation, Deployment, Server};
use crate::target::launch::Launch;
use crate::target::process::peak_memory;

const NEEDS: &[Capability] = &[
    Capability::Launch,
    Capability::Docker,
    Capability::Image,
    Capability::Model,
    Capability::Resume,
];
/// Readers of one run at once.
const READERS: usize = 100;
/// Bytes that a reader may cost the server.
const READER_LIMIT: u64 = 256 << 10;
/// How long what is left of a run may take once the server is back.
const REST_LIMIT: Duration = Duration::from_secs(60);

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        id: "RUN-020",
        title: "a run outlives a server that is killed: the next one takes it up, and its readers miss and repeat nothing",
        severity: Severity::Critical,
        requirement: "a server that was restarted picks its runs up again; what came after Last-Event-ID is replayed, then live",
        requires: NEEDS,
        profile: Profile::Full,
        destructive: false,
        limit: Duration::from_secs(120),
        body: body!(outlives_a_kill),
    },
    Scenario {
        id: "RUN-021",
        title: "a run outlives a server that is told to stop and to keep its rooms",
        severity: Severity::High,
        requirement: "SHUTDOWN_WORKSPACES=keep: adopted by the next start",
        requires: NEEDS,
        profile: Profile::Full,
        destructive: false,
        limit: Duration::from_secs(120),
        body: body!(outlives_a_stop),
    },
    Scenario {
        id: "RUN-022",
        title: "a run whose room was lost while no server ran ends with an error, and says so",
        severity: Severity::Critical,
        requirement: "never silently: a run that is lost ends with error and done/error",
        requires: NEEDS,
        profile: Profile::Full,
        destructive: false,
        limit: Duration::from_secs(120),
        body: body!(lost_meanwhile),
    },
    Scenario {
        id: "RUN-023",
        title: "the last run of a conversation can be read again after a restart, and goes with its conversation",
        severity: Severity::High,
        requirement: "GET …/stream follows the current or last run; DELETE deletes what is stored of a conversation",
        requires: NEEDS,
        profile: Profile::Full,
        destructive: false,
        limit: Duration::from_secs(120),
        body: body!(read_again),
    },
    Scenario {
        id: "RUN-024",
        title: "a hundred readers that come at any moment, one of which never reads, all get the same, and cost little",
        severity: Severity::High,
        requirement: "readers live, replaying, both at once; a slow reader does not stall others",
        requires: NEEDS,
        profile: Profile::Full,
        destructive: false,
        limit: Duration::from_secs(120),
        body: body!(hundred_readers),
    },
    Scenario {
        id: "RUN-025",
        title: "a run that was told to end is still told so after the server was killed",
        severity: Severity::Medium,
        requirement: "POST …/cancel: 202; the run ends with done / cancelled",
        requires: NEEDS,
        profile: Profile::Full,
        destructive: false,
        limit: Duration::from_secs(120),
        body: body!(cancelled_while_away),
    },
];

/// Goes on in the room while no server runs, and tells afterwards that it did; it ends when `/workspace/go` is there.
const WAITS: &str = "@say Before.\n\
    @tool Bash {\"command\": \"touch /workspace/began; until [ -e /workspace/go ]; do sleep 0.1; done; echo went on\", \"description\": \"Wait\"}\n\
    @say After.";

/// Starts the run that waits, and reads until it does.
pub(super) async fn waiting(deployment: &Deployment, conversation: &Conversation) -> Result<Vec<RunEvent>, Failure> {
    let mut stream = deployment.start(conversation, WAITS).await?;
    let mut seen = Vec::new();
    while seen.last().is_none_or(|event: &RunEvent| event.name != "tool_call") {
        let event = stream.next().await?;
        seen.push(event.ok_or_else(|| Failure::assertion("the run ended before its tool was called"))?);
    }
    let room = deployment.only_room().await?;
    eventually(Duration::from_secs(20), "the tool at work", async || {
        let found = room.shell("ls /workspace/began").await.map_err(|failure| failure.to_string())?;
        if found.status == 0 { Ok(()) } else { Err(found.printed) }
    })
    .await?;
    Ok(seen)
}

/// What was seen before and what comes now are one whole stream, told once; the last event of it.
pub(super) async fn whole(deployment: &Deployment, conversation: &Conversation, mut seen: Vec<RunEvent>) -> Result<Value, Failure> {
    let last = seen.last().map(|event| event.id.clone()).unwrap_or_default();
    let rest = tokio::time::timeout(REST_LIMIT, deployment.follow(conversation, &last)).await;
    seen.extend(rest.map_err(|_| Failure::assertion(format!("the run has not ended {REST_LIMIT:?} after the restart")))??);
    check_whole(&seen)?;
    let run = seen[0].id.rsplit_once(':').map_or("", |(run, _)| run).to_owned();
    let again = deployment.follow(conversation, &format!("{run}:0")).await?;
    check(again == seen, format!("a second reading differs: {} and {}", names(&seen), names(&again)))?;
    Ok(seen.pop().map(|done| done.data).unwrap_or_default())
}

/// The run ended well, was heard to its end, and is on the account once.
pub(super) async fn well(deployment: &Deployment, conversation: &Conversation, done: &Value) -> Result<(), Failure> {
    check_eq(format!("status in done: {done}"), done["status"].as_str(), Some("success"))?;
    let account = deployment.api.get(&conversation.path("")).await?.expect(200)?.json()?;
    check_eq("total_output_tokens", account["total_output_tokens"].as_u64(), done["usage"]["output_tokens"].as_u64())?;
    let messages = deployment.api.get(&conversation.path("/messages")).await?.expect(200)?.json()?;
    let kinds: Vec<&str> = messages.as_array().into_iter().flatten().filter_map(|m| m["message_type"].as_str()).collect();
    check_eq("messages", kinds.as_slice(), ["user", "assistant", "tool_call", "tool_result", "assistant", "done"])?;
    check(messages.to_string().contains("went on"), format!("the tool's result is not among the messages: {messages}"))
}

async fn outlives_a_kill(context: &Context) -> Result<(), Failure> {
    outlives(context, Launch::new()).await.map(drop)
}

/// A deployment that is killed in the middle of a run, and started again.
pub(super) async fn outlives(context: &Context, launch: Launch) -> Result<(Deployment, Conversation), Failure> {
    let mut deployment = context.launch(launch).await?;
    let conversation = deployment.conversation(context).await?;
    let seen = waiting(&deployment, &conversation).await?;
    let room = deployment.only_room().await?;
    deployment.kill().await?;
    deployment.start_again(context).await?;
    let second = deployment.api.post(&conversation.path("/stream"), &serde_json::json!({"user_input": "@say no"})).await?;
    second.expect_error(409, "RESOURCE_LOCKED")?;
    room.shell("touch /workspace/go").await?;
    let done = whole(&deployment, &conversation, seen).await?;
    well(&deployment, &conversation, &done).await?;
    deployment.run_well(&conversation, "@say on we go").await?;
    check_eq("the room of the next run", &deployment.only_room().await?.id, &room.id)?;
    Ok((deployment, conversation))
}

async fn outlives_a_stop(context: &Context) -> Result<(), Failure> {
    let launch = Launch::new().set("SHUTDOWN_WORKSPACES", "keep").set("SHUTDOWN_TIMEOUT", 1).set("WARM_POOL_MIN_SIZE", 0);
    let mut deployment = context.launch(launch).await?;
    let conversation = deployment.conversation(context).await?;
    let seen = waiting(&deployment, &conversation).await?;
    let room = deployment.only_room().await?;
    deployment.stop().await?;
    room.shell("touch /workspace/go").await?;
    deployment.start_again(context).await?;
    let done = whole(&deployment, &conversation, seen).await?;
    well(&deployment, &conversation, &done).await?;
    // It keeps its rooms; this one is not to be left.
    deployment.api.delete(&conversation.path("")).await?.expect(204).map(|_| ())
}

async fn lost_meanwhile(context: &Context) -> Result<(), Failure> {
    let mut deployment = context.launch(Launch::new()).await?;
    let conversation = deployment.conversation(context).await?;
    let seen = waiting(&deployment, &conversation).await?;
    let room = deployment.only_room().await?;
    deployment.kill().await?;
    room.kill("SIGKILL").await?;
    deployment.start_again(context).await?;
    let done = whole(&deployment, &conversation, seen).await?;
    check_eq(format!("status in done: {done}"), done["status"].as_str(), Some("error"))?;
    let told = done["errors"].as_array().is_some_and(|errors| !errors.is_empty());
    check(told, format!("errors in done: {done}"))?;
    deployment.run_well(&conversation, "@say alive again").await.map(|_| ())
}

async fn read_again(context: &Context) -> Result<(), Failure> {
    let mut deployment = context.launch(Launch::new()).await?;
    let conversation = deployment.conversation(context).await?;
    deployment.run_well(&conversation, "@say first").await?;
    let events = deployment.run_well(&conversation, "@say second").await?;
    deployment.kill().await?;
    deployment.start_again(context).await?;
    let run = events[0].id.rsplit_once(':').map_or("", |(run, _)| run).to_owned();
    let again = deployment.follow(&conversation, &format!("{run}:0")).await?;
    check(again == events, format!("read again: {}, at first: {}", names(&again), names(&events)))?;
    let middle = events.len() / 2;
    let rest = deployment.follow(&conversation, &events[middle].id).await?;
    check(rest == events[middle + 1..], format!("after event {}: {}", middle + 1, names(&rest)))?;
    deployment.api.delete(&conversation.path("")).await?.expect(204)?;
    let state = deployment.server()?.program.env.get("STATE_DIR").cloned().unwrap_or_default();
    let left: Vec<_> = std::fs::read_dir(std::path::Path::new(&state).join("runs"))?.flatten().collect();
    check(left.is_empty(), format!("left of a deleted conversation: {left:?}"))
}

async fn hundred_readers(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    let words: Vec<String> = (0..400).map(|word| format!("word{word}")).collect();
    let prompt = format!("@delay 10\n@chunk 8\n@say {}", words.join(" "));
    let mut first = deployment.start(&conversation, &prompt).await?;
    let run = first.until("init").await?.id.rsplit_once(':').map_or("", |(run, _)| run).to_owned();
    // It has asked and does not read.
    let beginning = format!("{run}:0");
    let stuck = deployment.api.follow_stream(&conversation.path("/stream"), &beginning).await?;
    let server = deployment.server.as_ref().map(Server::pid);
    let before = server.map(peak_memory).transpose()?;
    let readers = (0..READERS).map(|_| deployment.follow(&conversation, &beginning));
    let all = futures::future::try_join_all(readers).await?;
    if let (Some(server), Some(before)) = (server, before) {
        let each = peak_memory(server)?.saturating_sub(before) / READERS as u64;
        check(each < READER_LIMIT, format!("each of {READERS} readers cost the server {} KiB", each >> 10))?;
    }
    let events = first.finish().await?;
    check(events.len() > 100, format!("only {} events", events.len()))?;
    for (reader, read) in all.iter().enumerate() {
        check(*read == events, format!("reader {reader} got {} of {} events, or others", read.len(), events.len()))?;
    }
    drop(stuck);
    Ok(())
}

async fn cancelled_while_away(context: &Context) -> Result<(), Failure> {
    let mut deployment = context.launch(Launch::new()).await?;
    let conversation = deployment.conversation(context).await?;
    let seen = waiting(&deployment, &conversation).await?;
    let room = deployment.only_room().await?;
    // So that the agent cannot do as it is told before the server is gone.
    room.pause().await?;
    deployment.api.post(&conversation.path("/cancel"), &serde_json::json!({})).await?.expect(202)?;
    deployment.kill().await?;
    room.unpause().await?;
    deployment.start_again(context).await?;
    let done = whole(&deployment, &conversation, seen).await?;
    check_eq(format!("status in done: {done}"), done["status"].as_str(), Some("cancelled"))?;
    let left = room.shell("pgrep -x sleep || true").await?;
    check_eq("processes of the run after it ended", left.printed.trim(), "")
}
