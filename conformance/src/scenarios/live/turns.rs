//! One process of the driver for the turns of a conversation.

use std::time::Duration;

use serde_json::json;

use super::memory::{last_messages, turn, uninterrupted};
use crate::harness::context::Context;
use crate::harness::engine::Room;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::needs::RUN;
use crate::scenarios::common::shared_redis::both;
use crate::target::deployment::{Conversation, Deployment};
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "LIVE-001",
        "The turns of a conversation share one process of the driver, which is all that is left between them",
        "one process per conversation, kept between turns while the workspace lives; orphans killed per turn",
        body!(one_process),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(90),
    Scenario::new(
        "LIVE-002",
        "A driver that dies between turns is replaced, and the model is sent exactly what it would be sent otherwise",
        "CLI killed between turns: the next turn works, the history is exact",
        body!(killed_between),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(120),
    Scenario::new(
        "LIVE-003",
        "A restarted server goes on with the driver that its predecessor left",
        "what another server needs to take over an idle CLI is in the workspace record",
        body!(server_restarts),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(120),
    Scenario::new(
        "LIVE-004",
        "An interrupted turn ends with its tools, its driver lives on and remembers what was said",
        "POST …/interrupt stops the turn and keeps the process; cancel ends it",
        body!(interrupted),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(90),
    Scenario::new(
        "LIVE-005",
        "Drivers wait no longer than they may, and no more of them than may; the least recently used goes first",
        "DRIVER_KEEP_ALIVE; counted, limited, least recently used go first; ended cleanly, resumed with --resume",
        body!(limited),
    )
    .severity(Severity::Medium)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(120),
    Scenario::new(
        "LIVE-006",
        "Another server answers what a run waits for, and goes on with the driver that the first one left",
        "any server can answer; what another server needs to take over an idle CLI is in the workspace record",
        body!(two_servers),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(&[Capability::Launch, Capability::Docker, Capability::Image, Capability::Model, Capability::Redis])
    .limit(120),
];

/// Process ids of the drivers in a workspace.
async fn drivers(room: &Room) -> Result<Vec<String>, Failure> {
    let found = room.shell("pgrep -f '[c]laude.*--input-format' || true").await?;
    let own = |line: &&str| !line.is_empty();
    Ok(found.printed.lines().map(str::trim).filter(own).map(ToOwned::to_owned).collect())
}

/// Waits until a workspace has so many drivers.
pub(super) async fn until_drivers(room: &Room, count: usize) -> Result<Vec<String>, Failure> {
    eventually(Duration::from_secs(30), &format!("{count} drivers in the workspace"), async || {
        let found = drivers(room).await.map_err(|failure| failure.to_string())?;
        if found.len() == count { Ok(found) } else { Err(format!("drivers: {found:?}")) }
    })
    .await
}

async fn recalls(deployment: &Deployment, conversation: &Conversation, word: &str) -> Result<(), Failure> {
    let events = deployment.run_well(conversation, &format!("@recall {word}")).await?;
    let said = events.last().map(|done| done.text("result").to_owned()).unwrap_or_default();
    check_eq("what the model was sent", said, format!("{word}: remembered"))
}

async fn one_process(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    let word = context.unique("word");
    let left = json!({"command": format!("echo {word}; (setsid sleep 600 >/dev/null 2>&1 &)"), "description": "Leave"});
    let first = deployment.run_well(&conversation, &format!("@tool Bash {left}\n@say One.")).await?;
    let room = deployment.only_room().await?;
    let driver = until_drivers(&room, 1).await?;
    let others = room.shell("pgrep -x sleep || true").await?;
    check_eq("what the turn has left running", others.printed.trim(), "")?;
    let second = deployment.run_well(&conversation, &format!("@recall {word}")).await?;
    check_eq("drivers after the second turn", drivers(&room).await?, driver.clone())?;
    let said = second.last().map(|done| done.text("result").to_owned()).unwrap_or_default();
    check_eq("what the model was sent", said, format!("{word}: remembered"))?;
    for (number, events) in [(1, &first), (2, &second)] {
        let done = events.last().map(|done| done.data.clone()).unwrap_or_default();
        let turns = if number == 1 { 2 } else { 1 };
        check_eq(format!("model turns of run {number}: {done}"), done["turn_count"].as_u64(), Some(turns))?;
    }
    // Each run is billed for its own tokens: the second asks once, the first has asked twice.
    let output = |events: &[crate::client::stream::RunEvent]| {
        events.last().and_then(|done| done.data["usage"]["output_tokens"].as_u64())
    };
    check(
        output(&second) < output(&first),
        format!("output tokens: {:?}, then {:?}", output(&first), output(&second)),
    )?;
    // Other options need another process.
    let body = json!({"user_input": format!("@recall {word}"), "configuration": {"tools": {"allowed": ["Read"]}}});
    deployment.api.open_stream(&conversation.path("/stream"), &body).await?.finish().await?;
    let next = until_drivers(&room, 1).await?;
    check(next != driver, "a turn with other tools was served by the same process")
}

async fn killed_between(context: &Context) -> Result<(), Failure> {
    let deployment = context.launch(Launch::new()).await?;
    let conversation = deployment.conversation(context).await?;
    let word = context.unique("word");
    let tool = json!({"command": format!("echo {word}"), "description": "Say a word"});
    let (first, recall) = (format!("@tool Bash {tool}\n@say I know {word}."), format!("@recall {word}"));
    let expected = uninterrupted(context, &[&first, &recall, &recall]).await?;
    let (session, _) = turn(&deployment, &conversation, &first).await?;
    let room = deployment.only_room().await?;
    let driver = until_drivers(&room, 1).await?;
    room.shell(&format!("kill -KILL {}", driver[0])).await?;
    until_drivers(&room, 0).await?;
    let (same, sent) = turn(&deployment, &conversation, &recall).await?;
    check_eq("session of another driver", &same, &session)?;
    check_eq("all messages that the model is sent, as of one driver", &sent, &expected[1])?;
    check_eq("workspaces", &deployment.only_room().await?.id, &room.id)?;

    // It is there when the turn is sent, and ends before it has read it.
    let driver = until_drivers(&room, 1).await?;
    room.shell(&format!("kill -STOP {}", driver[0])).await?;
    let mut stream = deployment.start(&conversation, &recall).await?;
    while let Some(event) = stream.next().await? {
        if event.text("message").contains("is ready") {
            break;
        }
    }
    room.shell(&format!("kill -KILL {}", driver[0])).await?;
    let events = stream.finish().await?;
    let said = events.last().map(|done| done.text("result").to_owned()).unwrap_or_default();
    check_eq("after a driver that did not read the turn", said, format!("{word}: remembered"))?;
    let sent = last_messages(&deployment).await?;
    check_eq("all messages after a driver that did not read the turn", &sent, &expected[2])
}

async fn server_restarts(context: &Context) -> Result<(), Failure> {
    let mut deployment = context.launch(Launch::new().set("SHUTDOWN_WORKSPACES", "keep")).await?;
    let conversation = deployment.conversation(context).await?;
    let word = context.unique("word");
    deployment.run_well(&conversation, &format!("@say I know {word}.")).await?;
    let room = deployment.only_room().await?;
    let driver = until_drivers(&room, 1).await?;
    deployment.stop().await?;
    let server = deployment.server.as_mut().ok_or_else(|| Failure::could_not_run("not launched by this suite"))?;
    server.program.env.insert("SHUTDOWN_WORKSPACES".into(), "destroy".into());
    deployment.restart(context).await?;
    recalls(&deployment, &conversation, &word).await?;
    check_eq("drivers after the restart", drivers(&room).await?, driver.clone())?;
    // Twice, and nothing runs in between: what the second one knows, the first one has written.
    for _ in 0..2 {
        deployment.kill().await?;
        deployment.restart(context).await?;
    }
    recalls(&deployment, &conversation, &word).await?;
    check_eq("drivers after the server was killed", drivers(&room).await?, driver)
}

async fn interrupted(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    let word = context.unique("word");
    let none = deployment.api.post(&conversation.path("/interrupt"), &json!({})).await?;
    none.expect_error(409, "CONFLICT")?;
    let prompt = format!(
        "@say I know {word}.\n@tool Bash {{\"command\": \"tail -f /dev/null\", \"description\": \"Wait\"}}\n@say never said"
    );
    let mut stream = deployment.start(&conversation, &prompt).await?;
    stream.until("tool_call").await?;
    let room = deployment.only_room().await?;
    let tool = async || room.shell("pgrep -x tail || true").await;
    eventually(Duration::from_secs(10), "the tool's process in the workspace", async || {
        let found = tool().await.map_err(|failure| failure.to_string())?;
        if found.printed.trim().is_empty() { Err("no process named tail".to_owned()) } else { Ok(()) }
    })
    .await?;
    let driver = until_drivers(&room, 1).await?;
    deployment.api.post(&conversation.path("/interrupt"), &json!({})).await?.expect(202)?;
    let events = stream.finish().await?;
    let done = events.last().map(|done| done.data.clone()).unwrap_or_default();
    check_eq(format!("status in done: {done}"), done["status"].as_str(), Some("cancelled"))?;
    check_eq("processes of the tool", tool().await?.printed.trim(), "")?;
    check_eq("drivers after the interruption", drivers(&room).await?, driver.clone())?;
    recalls(&deployment, &conversation, &word).await?;
    check_eq("drivers after the next turn", drivers(&room).await?, driver)
}

async fn limited(context: &Context) -> Result<(), Failure> {
    let launch = Launch::new().set("DRIVER_KEEP_ALIVE_MAX", 1);
    let deployment = context.launch(launch).await?;
    let word = context.unique("word");
    let mut rooms: Vec<(Conversation, Room)> = Vec::new();
    for _ in 0..2 {
        let conversation = deployment.conversation(context).await?;
        deployment.run_well(&conversation, &format!("Remember {word}.\n@say hello")).await?;
        let known: Vec<String> = rooms.iter().map(|(_, room)| room.id.clone()).collect();
        let room = deployment.rooms().await?.into_iter().find(|room| !known.contains(&room.id));
        rooms.push((conversation, room.ok_or_else(|| Failure::assertion("no workspace"))?));
    }
    until_drivers(&rooms[0].1, 0).await?;
    until_drivers(&rooms[1].1, 1).await?;
    // Another driver, which goes on with the session.
    recalls(&deployment, &rooms[0].0, &word).await?;
    until_drivers(&rooms[0].1, 1).await?;
    until_drivers(&rooms[1].1, 0).await?;
    for (time, left) in [("0", 0), ("2s", 0)] {
        let deployment = context.launch(Launch::new().set("DRIVER_KEEP_ALIVE", time)).await?;
        let conversation = deployment.conversation(context).await?;
        deployment.run_well(&conversation, "@say hello").await?;
        let room = deployment.only_room().await?;
        if time == "0" {
            check_eq("drivers after a run whose driver may not wait", drivers(&room).await?.len(), 0)?;
        }
        until_drivers(&room, left).await?;
        deployment.run_well(&conversation, "@say hello").await?;
    }
    Ok(())
}

async fn two_servers(context: &Context) -> Result<(), Failure> {
    let redis = context.redis().await?;
    let (first, second) = both(context, &redis, Launch::new()).await?;
    let conversation = first.conversation(context).await?;
    let word = context.unique("word");
    let ask = json!({"user_input": format!("@say I know {word}.\n@tool Bash {{\"command\": \"echo ran\", \"description\": \"Do\"}}\n@say done"),
        "configuration": {"permissions": {"ask": ["Bash"]}}});
    let mut stream = first.api.open_stream(&conversation.path("/stream"), &ask).await?;
    let id = stream.until("approval_required").await?.text("request_id").to_owned();
    // Any server answers for the one that has the run.
    let listed = second.api.get(&conversation.path("/approvals")).await?.expect(200)?.json()?;
    check_eq("what the other server lists", listed["approvals"][0]["request_id"].as_str(), Some(id.as_str()))?;
    let decision = json!({"decision": "allow"});
    second.api.post(&conversation.path(&format!("/approvals/{id}")), &decision).await?.expect(200)?;
    let events = stream.finish().await?;
    check_eq("status", events.last().map(|done| done.text("status")), Some("success"))?;
    recalls(&first, &conversation, &word).await?;
    let room = first.only_room().await?;
    let driver = until_drivers(&room, 1).await?;
    recalls(&second, &conversation, &word).await?;
    check_eq("drivers after a turn on the other server", drivers(&room).await?, driver)
}
