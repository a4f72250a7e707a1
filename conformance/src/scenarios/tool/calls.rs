//! Calls of tools that the caller carries out.

use std::time::Duration;

use serde_json::{Value, json};

use super::called::{answer, body, outcomes, results, script, start};
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::pace::patient;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::needs::RUN;
use crate::target::deployment::{Conversation, Deployment};
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "TOOL-001",
        "Calls of the caller's tools reach it all at once, and their results reach the model in any order",
        "declared by the caller, tool_request → POST …/tool-results/{id}, several at once",
        body!(several_at_once),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(90),
    Scenario::new(
        "TOOL-002",
        "The same result again is answered alike, another one refused; other tenants and unknown ids get 404",
        "answered twice: the same 200, a different one 409; by the wrong tenant 404; after the run 409 or the same",
        body!(answered_twice),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(90),
    Scenario::new(
        "TOOL-003",
        "A result that nobody sends in time is an error that says so, and the time until then is not the run's",
        "client tools never answered: an error result; time in which only people are waited for is not the run's",
        body!(nobody_answers),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(90),
];

/// Kinds and ids of what a run waits for, as the API lists it.
async fn listed(deployment: &Deployment, conversation: &Conversation) -> Result<Vec<(String, String)>, Failure> {
    let list = deployment.api.get(&conversation.path("/approvals")).await?.expect(200)?.json()?;
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    let entries = list["approvals"].as_array().cloned().unwrap_or_default();
    Ok(entries.iter().map(|entry| (text(entry, "kind"), text(entry, "request_id"))).collect())
}

async fn several_at_once(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    let mut stream = start(&deployment, &conversation, &script(&["melon", "plum"])).await?;
    let mut requests = Vec::new();
    // Neither waits for the result of the other.
    for item in ["melon", "plum"] {
        let request = stream.until("tool_request").await?;
        check_eq("tool_name", request.text("tool_name"), "price")?;
        check_eq("input", &request.data["input"], &json!({"item": item}))?;
        check(!request.text("expires_at").is_empty(), format!("no expires_at: {request:?}"))?;
        requests.push((request.text("request_id").to_owned(), request.text("tool_use_id").to_owned()));
    }
    let waiting = requests.iter().map(|(id, _)| ("tool_request".to_owned(), id.clone())).collect::<Vec<_>>();
    check_eq("what the run waits for", listed(&deployment, &conversation).await?, waiting)?;
    let (melon, plum) = (context.unique("melon"), context.unique("no plums"));
    let reply = answer(&deployment, &conversation, &requests[1].0, &json!({"content": plum, "is_error": true})).await?;
    check_eq("outcome in the answer", reply.expect(200)?.json()?["outcome"].as_str(), Some("answered"))?;
    answer(&deployment, &conversation, &requests[0].0, &json!({"content": melon})).await?.expect(200)?;
    let events = stream.finish().await?;
    check_eq("outcomes", outcomes(&events), vec!["answered", "answered"])?;
    let mut told = results(&events);
    told.sort_unstable();
    let mut expected =
        vec![(requests[0].1.as_str(), melon.as_str(), false), (requests[1].1.as_str(), plum.as_str(), true)];
    expected.sort_unstable();
    check_eq("results for the model", told, expected)?;
    check_eq("status", events.last().map(|done| done.text("status")), Some("success"))?;
    check_eq("what the run waits for after its end", listed(&deployment, &conversation).await?, Vec::new())?;
    // A later turn of the same driver has the tool as well.
    let mut stream = start(&deployment, &conversation, &script(&["pear"])).await?;
    let id = stream.until("tool_request").await?.text("request_id").to_owned();
    answer(&deployment, &conversation, &id, &json!({"content": "4"})).await?.expect(200)?;
    check_eq("outcomes in the second run", outcomes(&stream.finish().await?), vec!["answered"])?;
    // Whoever declares no tool is not asked.
    let events = deployment.run_well(&conversation, &script(&["melon"])).await?;
    check(outcomes(&events).is_empty(), "a run that declares no tool is asked for one")?;
    check(results(&events).iter().all(|(_, _, failed)| *failed), "a tool that is not declared does not fail")
}

async fn answered_twice(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    let stranger = deployment.conversation(context).await?;
    let mut stream = start(&deployment, &conversation, &script(&["melon"])).await?;
    let id = stream.until("tool_request").await?.text("request_id").to_owned();
    let result = json!({"content": "3"});
    for (who, id) in [(&stranger, id.as_str()), (&conversation, "unknown")] {
        answer(&deployment, who, id, &result).await?.expect(404)?;
    }
    let elsewhere = format!("/api/tenants/{}/conversations/{}/tool-results/{id}", stranger.tenant, conversation.id);
    deployment.api.post(&elsewhere, &result).await?.expect(404)?;
    // It is no approval.
    let approval = conversation.path(&format!("/approvals/{id}"));
    deployment.api.post(&approval, &json!({"decision": "allow"})).await?.expect(404)?;
    for bad in
        [json!({}), json!({"content": 3}), json!({"content": "3", "more": 1}), json!({"content": "x".repeat(200_001)})]
    {
        answer(&deployment, &conversation, &id, &bad).await?.expect(422)?;
    }
    for _ in 0..2 {
        answer(&deployment, &conversation, &id, &result).await?.expect(200)?;
    }
    let other = json!({"content": "4"});
    answer(&deployment, &conversation, &id, &other).await?.expect_error(409, "CONFLICT")?;
    let events = stream.finish().await?;
    check_eq("outcomes", outcomes(&events), vec!["answered"])?;
    check_eq("what the model is told", results(&events).first().map(|(_, text, _)| *text), Some("3"))?;
    // Also after the run has ended.
    answer(&deployment, &conversation, &id, &result).await?.expect(200)?;
    answer(&deployment, &conversation, &id, &other).await?.expect_error(409, "CONFLICT")?;
    Ok(())
}

async fn nobody_answers(context: &Context) -> Result<(), Failure> {
    // Enough for the run itself, and less than its wait.
    let longest = patient(Duration::from_secs(12)).as_secs();
    let wait = longest + 1;
    let deployment = context.launch(Launch::new().set("APPROVAL_TIMEOUT", format!("{wait}s"))).await?;
    let conversation = deployment.conversation(context).await?;
    let mut body = body(&script(&["melon"]));
    body["configuration"] = json!({"limits": {"run_seconds": longest}});
    let mut stream = deployment.api.open_stream(&conversation.path("/stream"), &body).await?;
    let id = stream.until("tool_request").await?.text("request_id").to_owned();
    let events = stream.finish().await?;
    let status = events.last().map(|done| done.text("status"));
    let what = format!("status of a run that may take {longest} s and waited {wait} s for its caller");
    check_eq(what, status, Some("success"))?;
    check_eq("outcomes", outcomes(&events), vec!["timeout"])?;
    let told = results(&events);
    check(
        told.len() == 1 && told[0].2 && told[0].1.contains("Nobody has sent the result"),
        format!("what the model is told: {told:?}"),
    )?;
    answer(&deployment, &conversation, &id, &json!({"content": "late"})).await?.expect_error(409, "CONFLICT")
}
