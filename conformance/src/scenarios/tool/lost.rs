//! Runs that wait for results while something happens to them.

use std::time::Duration;

use serde_json::json;

use super::called::{answer, outcomes, results, script, start};
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::needs::RUN;
use crate::scenarios::common::shared_redis::both;
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "TOOL-020",
        "A request for a result survives the death of its server; the result is delivered by the next one",
        "restarts keep open requests, and their results are written before they are delivered",
        body!(server_killed),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(120),
    Scenario::new(
        "TOOL-021",
        "A run that is cancelled or interrupted withdraws its requests, says so, and refuses results that come late",
        "withdrawn on cancel; late results 409; the conversation goes on",
        body!(withdrawn),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(120),
    Scenario::new(
        "TOOL-022",
        "Another server takes the result for the one that has the run",
        "any server can answer",
        body!(two_servers),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(&[Capability::Launch, Capability::Docker, Capability::Image, Capability::Model, Capability::Redis])
    .limit(120),
];

async fn server_killed(context: &Context) -> Result<(), Failure> {
    let mut deployment = context.launch(Launch::new()).await?;
    let conversation = deployment.conversation(context).await?;
    let mut stream = start(&deployment, &conversation, &script(&["melon", "plum"])).await?;
    let first = stream.until("tool_request").await?.text("request_id").to_owned();
    let second = stream.until("tool_request").await?;
    drop(stream);
    answer(&deployment, &conversation, &first, &json!({"content": "before"})).await?.expect(200)?;
    deployment.kill().await?;
    deployment.restart(context).await?;
    let id = second.text("request_id").to_owned();
    eventually(Duration::from_secs(20), "the restarted server takes the result", async || {
        let sent = answer(&deployment, &conversation, &id, &json!({"content": "after"})).await;
        match sent.map_err(|failure| failure.to_string())? {
            reply if reply.status == 200 => Ok(()),
            reply => Err(format!("{} {}", reply.status, reply.text())),
        }
    })
    .await?;
    // What was answered before is answered alike.
    answer(&deployment, &conversation, &first, &json!({"content": "other"})).await?.expect_error(409, "CONFLICT")?;
    let events = deployment.follow(&conversation, &second.id).await?;
    let mut told: Vec<&str> = results(&events).iter().map(|(_, text, _)| *text).collect();
    told.sort_unstable();
    check_eq("results for the model", told, vec!["after", "before"])?;
    check_eq("status", events.last().map(|done| done.text("status")), Some("success"))
}

async fn withdrawn(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    for how in ["/cancel", "/interrupt"] {
        let conversation = deployment.conversation(context).await?;
        let mut stream = start(&deployment, &conversation, &script(&["melon", "plum"])).await?;
        stream.until("tool_request").await?;
        let id = stream.until("tool_request").await?.text("request_id").to_owned();
        deployment.api.post(&conversation.path(how), &json!({})).await?.expect(202)?;
        let events = stream.finish().await?;
        check_eq(format!("outcomes after POST {how}"), outcomes(&events), vec!["withdrawn", "withdrawn"])?;
        check_eq("status", events.last().map(|done| done.text("status")), Some("cancelled"))?;
        answer(&deployment, &conversation, &id, &json!({"content": "late"})).await?.expect_error(409, "CONFLICT")?;
        let mut stream = start(&deployment, &conversation, &script(&["pear"])).await?;
        let id = stream.until("tool_request").await?.text("request_id").to_owned();
        answer(&deployment, &conversation, &id, &json!({"content": "4"})).await?.expect(200)?;
        check_eq("outcomes in the next run", outcomes(&stream.finish().await?), vec!["answered"])?;
    }
    Ok(())
}

async fn two_servers(context: &Context) -> Result<(), Failure> {
    let redis = context.redis().await?;
    let (first, second) = both(context, &redis, Launch::new()).await?;
    let conversation = first.conversation(context).await?;
    let mut stream = start(&first, &conversation, &script(&["melon"])).await?;
    let id = stream.until("tool_request").await?.text("request_id").to_owned();
    answer(&second, &conversation, &id, &json!({"content": "3"})).await?.expect(200)?;
    let events = stream.finish().await?;
    check_eq("outcomes", outcomes(&events), vec!["answered"])?;
    check_eq("what the model is told", results(&events).first().map(|(_, text, _)| *text), Some("3"))
}
