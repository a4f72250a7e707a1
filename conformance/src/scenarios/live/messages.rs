//! Messages that are sent while a run is in progress.

use std::time::Duration;

use serde_json::{Value, json};

use crate::client::stream::RunEvent;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::needs::RUN;
use crate::target::deployment::{Conversation, Deployment};
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "LIVE-010",
        "Messages that are sent during a run begin runs of their own, in order, and may interrupt the one in progress",
        "POST …/messages while a run goes begins the next run when this one ends; interrupt: true stops the turn first",
        body!(sent_during_a_run),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(120),
    Scenario::new(
        "LIVE-011",
        "A message that waits survives the death of its server; a cancellation drops it; not too many wait",
        "what waits is on disk before it is accepted; cancel ends the run and drops what waits",
        body!(kept_and_dropped),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(120),
];

/// A prompt whose turn does not end by itself.
const ENDLESS: &str = "@tool Bash {\"command\": \"tail -f /dev/null\", \"description\": \"Wait\"}\n@say never said";

async fn send(
    deployment: &Deployment,
    conversation: &Conversation,
    prompt: &str,
    query: &str,
) -> Result<Value, Failure> {
    let path = conversation.path(&format!("/messages{query}"));
    deployment.api.post(&path, &json!({"user_input": prompt})).await?.expect(202)?.json()
}

/// The events of a run that has begun or will begin.
async fn events_of(
    deployment: &Deployment,
    conversation: &Conversation,
    accepted: &Value,
) -> Result<Vec<RunEvent>, Failure> {
    let run = accepted["run_id"].as_str().unwrap_or_default();
    eventually(Duration::from_secs(30), "the message's run begins", async || {
        let stream = deployment.api.follow_stream(&conversation.path("/stream"), &format!("{run}:0")).await;
        let first =
            stream.map_err(|failure| failure.to_string())?.next().await.map_err(|failure| failure.to_string())?;
        match first {
            Some(event) if event.id.starts_with(run) => Ok(()),
            other => Err(format!("{:?}", other.map(|event| event.id))),
        }
    })
    .await?;
    deployment.follow(conversation, &format!("{run}:0")).await
}

fn end(events: &[RunEvent]) -> (String, String) {
    let of = |field: &str| events.last().map_or_else(String::new, |done| done.text(field).to_owned());
    (of("status"), of("result"))
}

async fn sent_during_a_run(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    let at_once = send(&deployment, &conversation, "@say at once", "").await?;
    check_eq("runs before the first message", &at_once["before"], &json!(0))?;
    check_eq(
        "its run",
        end(&events_of(&deployment, &conversation, &at_once).await?),
        ("success".into(), "at once".into()),
    )?;
    let mut stream = deployment.start(&conversation, ENDLESS).await?;
    stream.until("tool_call").await?;
    let (one, two) = (context.unique("one"), context.unique("two"));
    let first = send(&deployment, &conversation, &format!("@say {one}"), "").await?;
    check_eq("runs before the first message that waits", &first["before"], &json!(1))?;
    let mut last = json!({"user_input": format!("@recall {one}\n@say {two}"), "interrupt": true});
    let path = conversation.path("/messages");
    // Where body and query contradict each other nothing is interrupted, and nothing waits.
    let refused = deployment.api.post(&format!("{path}?interrupt=false"), &last).await?;
    refused.expect_error(422, "VALIDATION_ERROR")?;
    let of_a_run = deployment.api.post(&deployment.conversation(context).await?.path("/stream"), &last).await?;
    of_a_run.expect_error(422, "VALIDATION_ERROR")?;
    let second = deployment.api.post(&path, &last).await?.expect(202)?.json()?;
    check_eq("runs before the second", &second["before"], &json!(2))?;
    check_eq("status of the interrupted run", end(&stream.finish().await?).0.as_str(), "cancelled")?;
    // The second turn follows the first, so the model is sent what that has said.
    let events = events_of(&deployment, &conversation, &second).await?;
    let said: String =
        events.iter().filter(|event| event.name == "text_delta").map(|event| event.text("text")).collect();
    check_eq("status of the last run", end(&events).0.as_str(), "success")?;
    check_eq("what it said", said.replace('\n', ""), format!("{one}: remembered{two}"))?;
    // The query says the same, and both together what each of them says.
    for (query, body) in [("?interrupt=true", Value::Null), ("?interrupt=true", json!(true))] {
        let mut stream = deployment.start(&conversation, ENDLESS).await?;
        stream.until("tool_call").await?;
        last["interrupt"] = body;
        let sent = deployment.api.post(&format!("{path}{query}"), &last).await?.expect(202)?.json()?;
        check_eq("status of a run that the query interrupts", end(&stream.finish().await?).0.as_str(), "cancelled")?;
        check_eq("the run after it", end(&events_of(&deployment, &conversation, &sent).await?).0.as_str(), "success")?;
    }
    Ok(())
}

async fn kept_and_dropped(context: &Context) -> Result<(), Failure> {
    let mut deployment = context.launch(Launch::new()).await?;
    let conversation = deployment.conversation(context).await?;
    let mut stream = deployment.start(&conversation, ENDLESS).await?;
    stream.until("tool_call").await?;
    let kept = send(&deployment, &conversation, "@say kept", "").await?;
    drop(stream);
    deployment.kill().await?;
    deployment.restart(context).await?;
    deployment.api.post(&conversation.path("/interrupt"), &json!({})).await?.expect(202)?;
    check_eq(
        "the run of the message",
        end(&events_of(&deployment, &conversation, &kept).await?),
        ("success".into(), "kept".into()),
    )?;

    let mut stream = deployment.start(&conversation, ENDLESS).await?;
    let called = stream.until("tool_call").await?;
    let most = 20;
    for before in 1..=most {
        let accepted = send(&deployment, &conversation, "@say dropped", "").await?;
        check_eq("runs before a message", &accepted["before"], &json!(before))?;
    }
    let refused = deployment.api.post(&conversation.path("/messages"), &json!({"user_input": "@say no"})).await?;
    refused.expect_error(409, "CONFLICT")?;
    // The server dies when it has accepted the cancellation, and the run has not ended: its workspace does not move.
    let room = deployment.only_room().await?;
    room.pause().await?;
    deployment.api.post(&conversation.path("/cancel"), &json!({})).await?.expect(202)?;
    deployment.kill().await?;
    drop(stream);
    room.unpause().await?;
    deployment.restart(context).await?;
    let ended = deployment.follow(&conversation, &called.id).await?;
    check_eq("status of the cancelled run", end(&ended).0.as_str(), "cancelled")?;
    let next = deployment.run_well(&conversation, "@say next").await?;
    check_eq("what the next run says", end(&next).1.as_str(), "next")?;
    let messages = deployment.api.get(&conversation.path("/messages")).await?.expect(200)?.text();
    check(!messages.contains("@say dropped"), format!("a message that was dropped has begun its run: {messages}"))
}
