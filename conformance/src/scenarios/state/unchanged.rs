//! Everything that can be read, before and after a restart, and at another server of the deployment.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::client::stream::names;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::everything::{Everything, Operation, everything, operations, reads, with_vaults};
use crate::scenarios::common::limits::HEALED_LIMIT;
use crate::scenarios::common::shared_redis::both;
use crate::scenarios::run::whole_events::told_whole;
use crate::target::deployment::{Conversation, Deployment};
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "STATE-018",
        "Everything that can be read is the same after a stop and after a kill, during a run that waits and after it",
        "a restart changes nothing: tenants, keys, vaults, configurations, runs, questions, messages, logs, usage",
        body!(restarted),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(&[
        Capability::Launch,
        Capability::Docker,
        Capability::Image,
        Capability::Model,
        Capability::Resume,
        Capability::Admin,
    ])
    .limit(120),
    Scenario::new(
        "STATE-022",
        "With PostgreSQL, all that can be read outlives stop and kill, and each event is told as with a file",
        "SQLite and PostgreSQL behind one query layer; the log of all servers",
        body!(in_postgres),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(&[
        Capability::Launch,
        Capability::Docker,
        Capability::Image,
        Capability::Model,
        Capability::Postgres,
        Capability::Resume,
        Capability::Admin,
    ])
    .limit(120),
    Scenario::new(
        "STATE-019",
        "Everything that can be read is the same at another server, during a run that waits and after it",
        "servers of a deployment answer alike, whichever has a conversation's run",
        body!(elsewhere),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(&[
        Capability::Launch,
        Capability::Docker,
        Capability::Image,
        Capability::Model,
        Capability::Redis,
        Capability::Resume,
        Capability::Admin,
    ])
    .limit(120),
];

/// How long the rest of the runs may take.
const RUN_LIMIT: Duration = Duration::from_secs(30);

/// Every operation for these ids; what is a server's own (its workspaces) and the keys of operators, whose id this is not, are left out.
async fn shared(deployment: &Deployment, ids: &BTreeMap<&'static str, String>) -> Result<Vec<Operation>, Failure> {
    let mut operations = operations(&deployment.api, ids).await?;
    operations.retain(|one| !matches!(&*one.template, "/api/admin/keys/{key_id}" | "/api/admin/workspaces"));
    let tenants = operations.iter().filter(|one| one.template.contains("{tenant_id}")).count();
    check(tenants > 40 && operations.len() > tenants + 10, format!("{tenants} of {} operations", operations.len()))?;
    Ok(operations)
}

/// Waits until a server answers each of them as it was answered before.
async fn same(
    deployment: &Deployment,
    operations: &[Operation],
    before: &[(String, Value)],
    when: &str,
) -> Result<(), Failure> {
    eventually(HEALED_LIMIT, format!("the same answers {when}"), async || {
        let after = reads(&deployment.api, operations).await?;
        for ((path, before), (_, after)) in before.iter().zip(&after) {
            check_eq(format!("{path} {when}"), after, before)?;
        }
        check_eq("number of answers", after.len(), before.len())
    })
    .await
}

/// Decides what the run waits for, and waits until it and the message behind it have ended.
async fn ended(
    deployment: &Deployment,
    conversation: &Conversation,
    ids: &BTreeMap<&'static str, String>,
) -> Result<(), Failure> {
    let decided = conversation.path(&format!("/approvals/{}", ids["approval_id"]));
    deployment.api.post(&decided, &json!({"decision": "allow"})).await?.expect(200)?;
    eventually(RUN_LIMIT, "the end of the message's run", async || {
        let messages = deployment.api.get(&conversation.path("/messages")).await?.expect(200)?.json()?;
        let ends = messages.as_array().into_iter().flatten().filter(|one| one["message_type"] == "done");
        let ends: Vec<_> = ends.map(|one| one["message_subtype"].clone()).collect();
        check_eq("ends of runs", ends, vec![json!("success"); 3])
    })
    .await
}

async fn restarted(context: &Context) -> Result<(), Failure> {
    outlived(context, with_vaults(context)?).await.map(drop)
}

async fn in_postgres(context: &Context) -> Result<(), Failure> {
    let postgres = context.postgres().await?;
    let deployment = outlived(context, with_vaults(context)?.set("DATABASE_URL", postgres.url().await?)).await?;
    let conversation = deployment.conversation(context).await?;
    told_whole(&deployment, &conversation).await?;
    deployment.api.delete(&conversation.path("")).await?.expect(204).map(drop)
}

/// Ends the server, by a kill or by a stop, and starts it again.
async fn ended_and_begun(context: &Context, deployment: &mut Deployment, killed: bool) -> Result<(), Failure> {
    if killed {
        deployment.kill().await?;
    } else {
        deployment.stop().await?;
    }
    deployment.restart(context).await
}

async fn outlived(context: &Context, launch: Launch) -> Result<Deployment, Failure> {
    let mut deployment = context.launch(launch.set("SHUTDOWN_WORKSPACES", "keep")).await?;
    let conversation = deployment.conversation(context).await?;
    let Everything { conversation, ids, run } = everything(&deployment, conversation).await?;
    drop(run);
    let operations = shared(&deployment, &ids).await?;
    let waiting = reads(&deployment.api, &operations).await?;
    let question = waiting.iter().find(|(path, _)| path.ends_with("/approvals"));
    check(
        question.is_some_and(|(_, asked)| asked["approvals"].as_array().is_some_and(|all| all.len() == 1)),
        "no question",
    )?;
    for (way, killed) in [("while a run waits, after a stop", false), ("while a run waits, after a kill", true)] {
        ended_and_begun(context, &mut deployment, killed).await?;
        same(&deployment, &operations, &waiting, way).await?;
    }
    ended(&deployment, &conversation, &ids).await?;
    let over = reads(&deployment.api, &operations).await?;
    let events = deployment.follow(&conversation, "0").await?;
    for (way, killed) in [("after a kill", true), ("after a stop", false)] {
        ended_and_begun(context, &mut deployment, killed).await?;
        same(&deployment, &operations, &over, way).await?;
        let again = deployment.follow(&conversation, "0").await?;
        check(again == events, format!("the last run, read {way}: {}, and not {}", names(&again), names(&events)))?;
    }
    killed_between_messages(context, &mut deployment, &conversation).await?;
    deployment.api.delete(&conversation.path("")).await?.expect(204)?;
    Ok(deployment)
}

/// How many runs of the conversation have ended well.
async fn ended_well(deployment: &Deployment, of: &Conversation) -> Result<usize, Failure> {
    let messages = deployment.api.get(&of.path("/messages")).await?.expect(200)?.json()?;
    let ends = messages.as_array().into_iter().flatten().filter(|one| one["message_type"] == "done");
    Ok(ends.filter(|one| one["message_subtype"] == "success").count())
}

/// A directive of a tool that ends once this file is there.
fn until(file: &str) -> String {
    let command = format!("until [ -e /workspace/{file} ]; do sleep 0.05; done");
    format!("@tool Bash {}\n@say {file}", json!({"command": command, "description": "Wait"}))
}

/// Of three messages the server dies during the run of the second.
async fn killed_between_messages(
    context: &Context,
    deployment: &mut Deployment,
    conversation: &Conversation,
) -> Result<(), Failure> {
    let before = ended_well(deployment, conversation).await?;
    let mut runs = Vec::new();
    for (at, prompt) in [until("first"), until("second"), "@say third".to_owned()].into_iter().enumerate() {
        let accepted = deployment.api.post(&conversation.path("/messages"), &json!({"user_input": prompt})).await?;
        let accepted = accepted.expect(202)?.json()?;
        check_eq("runs before a message", &accepted["before"], &json!(at))?;
        runs.push(accepted["run_id"].as_str().unwrap_or_default().to_owned());
    }
    let room =
        eventually(RUN_LIMIT, "the workspace of the first message", async || deployment.only_room().await).await?;
    eventually(RUN_LIMIT, "a file in the workspace", async || {
        check_eq("status of touch", room.shell("touch /workspace/first").await?.status, 0)
    })
    .await?;
    eventually(RUN_LIMIT, "the tool of the second message", async || {
        let log =
            deployment.api.get(&conversation.path(&format!("/log?after={}:0", runs[1]))).await?.expect(200)?.json()?;
        let entries = log["entries"].as_array().into_iter().flatten();
        let called = entries.filter(|entry| entry["run_id"] == *runs[1] && entry["type"] == "tool_call").count();
        check_eq("calls of tools", called, 1)
    })
    .await?;
    deployment.kill().await?;
    deployment.restart(context).await?;
    check_eq("status of touch", room.shell("touch /workspace/second").await?.status, 0)?;
    eventually(RUN_LIMIT, "the end of the third message's run", async || {
        check_eq("runs that have ended well", ended_well(deployment, conversation).await?, before + 3)
    })
    .await?;
    let last = deployment.follow(conversation, "0").await?;
    let told = last.last().map(|done| (done.id.starts_with(&runs[2]), done.text("result").to_owned()));
    check_eq("the last run", told, Some((true, "third".to_owned())))
}

async fn elsewhere(context: &Context) -> Result<(), Failure> {
    let redis = context.redis().await?;
    let (first, second) = both(context, &redis, with_vaults(context)?).await?;
    let conversation = first.conversation(context).await?;
    let Everything { conversation, ids, run } = everything(&first, conversation).await?;
    let operations = shared(&first, &ids).await?;
    // The workspace, and so its files, stay with the server that has the run.
    let mut during = shared(&first, &ids).await?;
    during.retain(|one| !one.template.contains("/files"));
    let waiting = reads(&first.api, &during).await?;
    same(&second, &during, &waiting, "at the other server, while a run waits").await?;
    ended(&second, &conversation, &ids).await?;
    let seen = run.finish().await?;
    check_eq(
        "how the run ended that another server decided",
        seen.last().map(|done| done.text("status")),
        Some("success"),
    )?;
    let over = reads(&first.api, &operations).await?;
    same(&second, &operations, &over, "at the other server").await?;
    let (one, other) = (first.follow(&conversation, "0").await?, second.follow(&conversation, "0").await?);
    check(one == other, format!("the last run: {}, at the other server: {}", names(&one), names(&other)))?;
    through_the_other(&first, &second, &conversation).await?;
    let over = reads(&first.api, &operations).await?;
    // What is changed at one is so at the other.
    let of_tenant = format!("/api/tenants/{}", conversation.tenant);
    for (path, change) in [
        (of_tenant.clone(), json!({"system_prompt": "Be brief."})),
        (conversation.path(""), json!({"title": "Changed elsewhere"})),
        (format!("/api/models/{}", conversation.model), json!({"output_token_price": "0.5"})),
        (format!("{of_tenant}/keys/{}", ids["key_id"]), json!({"name": "changed"})),
        (format!("{of_tenant}/configuration"), json!({"version": 1, "configuration": {"limits": {"max_turns": 7}}})),
        (conversation.path("/configuration"), json!({"version": 1, "configuration": {"limits": {"max_turns": 6}}})),
        ("/api/admin/pool".to_owned(), json!({"min_size": 0, "max_size": 4})),
    ] {
        second.api.put(&path, &change).await?.expect(200)?;
    }
    let changed = reads(&second.api, &operations).await?;
    check(changed != over, "nothing has changed")?;
    same(&first, &operations, &changed, "at the first server, after changes at the other").await
}

/// What concerns a run reaches the server that has it, through whichever, with the request's id.
async fn through_the_other(first: &Deployment, second: &Deployment, of: &Conversation) -> Result<(), Failure> {
    let before = ended_well(first, of).await?;
    let mut stream = first.start(of, &until("never")).await?;
    stream.until("tool_call").await?;
    let decision = json!({"decision": "allow"});
    let unknown = second.api.post(&of.path("/approvals/none"), &decision).await?;
    let deviations = unknown.deviations_of_error(404, "NOT_FOUND");
    check(deviations.is_empty(), format!("an error of the other server: {deviations:?}"))?;
    let accepted = second.api.post(&of.path("/messages"), &json!({"user_input": "@say After."})).await?;
    check_eq("runs before the message", &accepted.expect(202)?.json()?["before"], &json!(1))?;
    second.api.post(&of.path("/interrupt"), &json!({})).await?.expect(202)?;
    let events = stream.finish().await?;
    check_eq("status of the interrupted run", events.last().map(|done| done.text("status")), Some("cancelled"))?;
    eventually(RUN_LIMIT, "the end of the message's run", async || {
        check_eq("runs that have ended well", ended_well(second, of).await?, before + 1)
    })
    .await
}
