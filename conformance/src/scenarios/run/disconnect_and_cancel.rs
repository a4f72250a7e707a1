//! A client that disconnects, and a client that cancels.

use std::time::Duration;

use crate::client::stream::RunEvent;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::needs::RUN;

const NEEDS_RESUME: &[Capability] =
    &[Capability::Launch, Capability::Docker, Capability::Image, Capability::Model, Capability::Resume];

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "RUN-002",
        "A client that disconnects does not end the run, and a later one receives every event it missed",
        "a client that leaves does not end the run; with Last-Event-ID what came after it is replayed",
        body!(client_leaves),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(NEEDS_RESUME)
    .limit(90),
    Scenario::new(
        "RUN-003",
        "A cancelled run ends with done/cancelled, and its processes are gone from the workspace",
        "POST …/cancel: 202; the run ends with done / cancelled",
        body!(cancelled),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(90),
];

async fn client_leaves(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    let prompt = "@delay 150\n@chunk 4\n@say one two three four five six seven eight nine ten";
    let mut stream = deployment.start(&conversation, prompt).await?;
    let seen = stream.until("text_delta").await?;
    drop(stream);
    let rest = deployment.follow(&conversation, &seen.id).await?;
    let seq = |event: &RunEvent| event.data["seq"].as_u64().unwrap_or(0);
    let from = seq(&seen);
    for (index, event) in rest.iter().enumerate() {
        check_eq(
            format!("seq of event {index} after the one seen ({})", event.name),
            seq(event),
            from + 1 + index as u64,
        )?;
    }
    let done = rest.last().map(|done| done.data.clone()).unwrap_or_default();
    check_eq(format!("status in the last event: {done}"), done["status"].as_str(), Some("success"))?;
    let text: String = rest.iter().filter(|event| event.name == "text_delta").map(|event| event.text("text")).collect();
    check(text.ends_with("nine ten"), format!("the text that came after: {text:?}"))?;
    // The whole run again, from the beginning.
    let run = seen.id.rsplit_once(':').map_or("", |(run, _)| run);
    let all = deployment.follow(&conversation, &format!("{run}:0")).await?;
    crate::client::stream::check_whole(&all)
}

async fn cancelled(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    let prompt = "@tool Bash {\"command\": \"tail -f /dev/null\", \"description\": \"Wait\"}\n@say never said";
    let mut stream = deployment.start(&conversation, prompt).await?;
    stream.until("tool_call").await?;
    let room = deployment.only_room().await?;
    eventually(Duration::from_secs(10), "the tool's process in the workspace", async || {
        let found = room.shell("pgrep -x tail || true").await.map_err(|failure| failure.to_string())?;
        if found.printed.trim().is_empty() { Err("no process named tail".to_owned()) } else { Ok(()) }
    })
    .await?;
    deployment.api.post(&conversation.path("/cancel"), &serde_json::json!({})).await?.expect(202)?;
    let events = stream.finish().await?;
    let done = events.last().map(|done| done.data.clone()).unwrap_or_default();
    check_eq(format!("status in done: {done}"), done["status"].as_str(), Some("cancelled"))?;
    let left = room.shell("pgrep -x tail || true").await?;
    check_eq("processes of the run after it ended", left.printed.trim(), "")?;
    deployment.run_well(&conversation, "@say and on we go").await.map(|_| ())
}
