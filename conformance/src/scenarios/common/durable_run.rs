//! A run that waits in the middle, so that its server can be killed or stopped.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::client::stream::{RunEvent, check_whole, names};
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::scenarios::common::trail;
use crate::target::deployment::{Conversation, Deployment};
use crate::target::launch::Launch;

/// How long the rest of a run may take once the server is back.
pub(crate) const REST_LIMIT: Duration = Duration::from_secs(60);

/// Continues in the workspace while no server runs and reports that it did; ends when `/workspace/go` exists.
pub(crate) const WAITS: &str = "@say Before.\n\
    @tool Bash {\"command\": \"touch /workspace/began; until [ -e /workspace/go ]; do sleep 0.1; done; echo went on\", \"description\": \"Wait\"}\n\
    @say After.";

/// Starts the run that waits, and reads its events until it does.
pub(crate) async fn waiting(deployment: &Deployment, conversation: &Conversation) -> Result<Vec<RunEvent>, Failure> {
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

/// Checks that the events before and after the restart form one whole stream without repetition; returns the last event.
pub(crate) async fn whole(
    deployment: &Deployment,
    conversation: &Conversation,
    mut seen: Vec<RunEvent>,
) -> Result<Value, Failure> {
    let last = seen.last().map(|event| event.id.clone()).unwrap_or_default();
    let rest = tokio::time::timeout(REST_LIMIT, deployment.follow(conversation, &last)).await;
    seen.extend(
        rest.map_err(|_| Failure::assertion(format!("the run has not ended {REST_LIMIT:?} after the restart")))??,
    );
    check_whole(&seen)?;
    let run = seen[0].id.rsplit_once(':').map_or("", |(run, _)| run).to_owned();
    let again = deployment.follow(conversation, &format!("{run}:0")).await?;
    check(again == seen, format!("a second reading differs: {} and {}", names(&seen), names(&again)))?;
    Ok(seen.pop().map(|done| done.data).unwrap_or_default())
}

/// Checks that the run succeeded and is billed once.
pub(crate) async fn well(deployment: &Deployment, conversation: &Conversation, done: &Value) -> Result<(), Failure> {
    check_eq(format!("status in done: {done}"), done["status"].as_str(), Some("success"))?;
    let account = deployment.api.get(&conversation.path("")).await?.expect(200)?.json()?;
    check_eq("total_output_tokens", account["total_output_tokens"].as_u64(), done["usage"]["output_tokens"].as_u64())?;
    let messages = deployment.api.get(&conversation.path("/messages")).await?.expect(200)?.json()?;
    let kinds: Vec<&str> =
        messages.as_array().into_iter().flatten().filter_map(|m| m["message_type"].as_str()).collect();
    check_eq("messages", kinds.as_slice(), ["user", "assistant", "tool_call", "tool_result", "assistant", "done"])?;
    check(messages.to_string().contains("went on"), format!("the tool's result is not among the messages: {messages}"))
}

/// Checks that the requests which an adopted workspace has made since are its conversation's in the trail, and were allowed by its tenant's
/// policy.
async fn still_its_own(trail: &Path, before: usize, conversation: &Conversation) -> Result<(), Failure> {
    eventually(Duration::from_secs(10), "a request of the adopted workspace in the trail", async || {
        let mut entries = trail::entries(trail)?.split_off(before);
        entries.retain(|entry| entry["event"] == "egress");
        check(!entries.is_empty(), "no request yet")?;
        for entry in entries {
            let whose = ["conversation", "tenant", "policy", "decision"].map(|field| entry[field].as_str());
            let own = [&*conversation.id, &*conversation.tenant, &*conversation.tenant, "allowed"].map(Some);
            check_eq(format!("conversation, tenant, policy and decision of {entry}"), whose, own)?;
        }
        Ok::<_, Failure>(())
    })
    .await
}

/// Checks that the trail has the beginning and the end of each of two runs once, and once that their workspace was taken over.
fn told_once(trail: &Path, conversation: &Conversation) -> Result<(), Failure> {
    let entries = trail::entries(trail)?;
    let own = |entry: &&Value| entry["conversation"] == *conversation.id && entry["tenant"] == *conversation.tenant;
    for (event, times) in [("run_started", 2), ("run_ended", 2), ("room_created", 1), ("room_adopted", 1)] {
        let found = entries.iter().filter(|entry| entry["event"] == event).filter(own).count();
        check_eq(format!("times that the trail has {event}: {entries:?}"), found, times)?;
    }
    Ok(())
}

/// Kills the server of a deployment during a run, and restarts it.
pub(crate) async fn outlives(context: &Context, launch: Launch) -> Result<(Deployment, Conversation), Failure> {
    let trail = context.dir().join("durable-trail.jsonl");
    let mut deployment = context.launch(launch.set("AUDIT_LOG", trail.display())).await?;
    let conversation = deployment.conversation(context).await?;
    let seen = waiting(&deployment, &conversation).await?;
    let room = deployment.only_room().await?;
    deployment.kill().await?;
    deployment.restart(context).await?;
    let second =
        deployment.api.post(&conversation.path("/stream"), &serde_json::json!({"user_input": "@say no"})).await?;
    second.expect_error(409, "RESOURCE_LOCKED")?;
    room.shell("touch /workspace/go").await?;
    let done = whole(&deployment, &conversation, seen).await?;
    well(&deployment, &conversation, &done).await?;
    let before = trail::entries(&trail)?.len();
    let next = deployment.run_well(&conversation, "@say on we go").await?;
    check_eq("the workspace of the next run", &deployment.only_room().await?.id, &room.id)?;
    let session = next.last().map(|done| &done.data["session_id"]);
    check_eq("session of the next run", session, Some(&done["session_id"]))?;
    still_its_own(&trail, before, &conversation).await?;
    eventually(Duration::from_secs(20), "the trail has both runs", async || told_once(&trail, &conversation)).await?;
    Ok((deployment, conversation))
}
