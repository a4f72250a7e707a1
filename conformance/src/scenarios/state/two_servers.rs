//! Two servers of one deployment that share Redis.

use http::Method;
use serde_json::json;

use crate::client::stream::{RunEvent, check_whole, names};
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::durable_run::waiting;
use crate::scenarios::common::limits::HEALED_LIMIT;
use crate::scenarios::common::shared_redis::{both, keeps_room, mark};
use crate::target::deployment::Deployment;
use crate::target::launch::Launch;

const NEEDS: &[Capability] =
    &[Capability::Launch, Capability::Docker, Capability::Image, Capability::Model, Capability::Redis];

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "STATE-002",
        "Two servers that share Redis have one workspace for a conversation, whichever is asked and whichever dies",
        "one workspace per conversation even under concurrent requests and several server processes sharing Redis",
        body!(two_servers),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(NEEDS)
    .limit(120),
    Scenario::new(
        "STATE-003",
        "A pool size set on one server is applied by the other, and by a server that starts later",
        "min/max changeable at run time (kept in Redis when there is one, followed by every server)",
        body!(pool_size),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(&[
        Capability::Launch,
        Capability::Docker,
        Capability::Image,
        Capability::Model,
        Capability::Redis,
        Capability::Admin,
    ])
    .limit(120),
    Scenario::new(
        "STATE-004",
        "A run on one server can be followed, cancelled and deleted with its conversation through another",
        "journals: with Redis, shared between servers",
        body!(other_servers_run),
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
    ])
    .limit(120),
];

/// The result of a run that competes with another server's: it succeeded, or was refused as the contract says.
fn outcome(run: Result<Vec<RunEvent>, Failure>) -> Result<&'static str, Failure> {
    let events = match run {
        Ok(events) => events,
        Err(failure) if failure.to_string().contains("RESOURCE_LOCKED") => return Ok("locked"),
        Err(failure) => return Err(failure),
    };
    let locked = events.iter().any(|event| event.text("error_type") == "conversation_locked");
    let done = events.last().map(|done| done.data.to_string()).unwrap_or_default();
    let ran = done.contains("\"status\":\"success\"");
    check(ran || locked, format!("neither success nor conversation_locked: {done}"))?;
    Ok(if ran { "ran" } else { "locked" })
}

async fn two_servers(context: &Context) -> Result<(), Failure> {
    let redis = context.redis().await?;
    let (first, second) = both(context, &redis, Launch::new()).await?;
    let conversation = first.conversation(context).await?;
    let prompt = "@tool Bash {\"command\": \"tail -f /dev/null\", \"description\": \"Wait\"}\n@say never said";
    let mut stream = first.start(&conversation, prompt).await?;
    stream.until("tool_call").await?;
    let locked = second.api.post(&conversation.path("/stream"), &json!({"user_input": "@say no"})).await?;
    locked.expect_error(409, "RESOURCE_LOCKED")?;
    check_eq("workspaces while one server runs and the other was asked", first.rooms().await?.len(), 1)?;
    first.api.post(&conversation.path("/cancel"), &json!({})).await?.expect(202)?;
    stream.finish().await?;
    mark(&first, &conversation).await?;

    // From server to server and back, in the same workspace.
    keeps_room(&second, &conversation, 1).await.map_err(|failure| failure.during("the second server"))?;
    keeps_room(&first, &conversation, 1).await.map_err(|failure| failure.during("back on the first"))?;
    keeps_room(&second, &conversation, 1).await.map_err(|failure| failure.during("the second again"))?;
    second.kill().await?;
    eventually(HEALED_LIMIT, "the first server to take over the workspace of the one that was killed", async || {
        keeps_room(&first, &conversation, 1).await
    })
    .await?;

    // Both at once, for conversations without a workspace: one of the two creates it, and each conversation has one workspace.
    let mut second = second;
    second.restart(context).await?;
    for _ in 0..3 {
        let contested = first.another_conversation(context, &conversation.tenant, &conversation.model).await?;
        let (one, other) = tokio::join!(first.run(&contested, "@say one"), second.run(&contested, "@say other"));
        let (one, other) = (outcome(one)?, outcome(other)?);
        check(one == "ran" || other == "ran", format!("neither server ran anything: {one}, {other}"))?;
        let mut names = Vec::new();
        for room in first.rooms().await? {
            names.push(room.workspace.unwrap_or_default());
        }
        check_eq(format!("workspaces of two conversations: {names:?}"), names.len(), 2)?;
        first.api.delete(&contested.path("")).await?.expect(204)?;
    }
    Ok(())
}

async fn other_servers_run(context: &Context) -> Result<(), Failure> {
    let redis = context.redis().await?;
    let (first, second) = both(context, &redis, Launch::new()).await?;
    let conversation = first.conversation(context).await?;
    let mut seen = waiting(&first, &conversation).await?;
    let last = seen.last().map(|event| event.id.clone()).unwrap_or_default();
    let room = first.only_room().await?;
    let live = second.api.follow_stream(&conversation.path("/stream"), &last).await?;
    room.shell("touch /workspace/go").await?;
    seen.extend(live.rest().await?);
    check_whole(&seen)?;
    let run = last.rsplit_once(':').map_or("", |(run, _)| run).to_owned();
    for (which, server) in [("the server that has it", &first), ("the other", &second)] {
        let again = server.follow(&conversation, &format!("{run}:0")).await?;
        check(again == seen, format!("read again from {which}: {}, at first: {}", names(&again), names(&seen)))?;
    }
    // The latest run, whichever server had it; also for a server that has an older one itself.
    let later = second.run_well(&conversation, "@say later").await?;
    for (which, server) in [("the first", &first), ("the second", &second)] {
        let read = server.follow(&conversation, "0").await?;
        check(read == later, format!("the latest run, read from {which}: {}", names(&read)))?;
    }

    let third = first.another_conversation(context, &conversation.tenant, &conversation.model).await?;
    let forever = "@tool Bash {\"command\": \"tail -f /dev/null\", \"description\": \"Wait\"}\n@say never said";
    let mut stream = first.start(&third, forever).await?;
    stream.until("tool_call").await?;
    // A client may claim to be another server: the request is forwarded all the same.
    let forged = [("x-nagaya-forwarded", "1"), ("x-forwarded-for", "127.0.0.1")];
    second.api.send(Method::POST, &third.path("/cancel"), Some("{}"), &forged).await?.expect(202)?;
    let events = stream.finish().await?;
    check_eq("status in done", events.last().map_or("", |done| done.text("status")), "cancelled")?;
    second.api.post(&third.path("/cancel"), &json!({})).await?.expect_error(409, "CONFLICT")?;

    let mut stream = first.start(&third, forever).await?;
    stream.until("tool_call").await?;
    second.api.delete(&third.path("")).await?.expect(204)?;
    let events = stream.finish().await?;
    check_eq(
        "status in done of a deleted conversation's run",
        events.last().map_or("", |done| done.text("status")),
        "cancelled",
    )?;
    first.api.get(&third.path("")).await?.expect_error(404, "NOT_FOUND")?;
    second.api.delete(&conversation.path("")).await?.expect(204)?;
    check_eq("rooms", first.rooms().await?.len(), 0)?;
    // The other server no longer exists.
    second.kill().await?;
    let alone = first.another_conversation(context, &conversation.tenant, &conversation.model).await?;
    first.api.get(&alone.path("/stream")).await?.expect_error(404, "NOT_FOUND")?;
    first.run_well(&alone, "@say alone").await?;
    first.api.delete(&alone.path("")).await?.expect(204).map(drop)
}

async fn pool_size(context: &Context) -> Result<(), Failure> {
    let redis = context.redis().await?;
    let (first, mut second) = both(context, &redis, Launch::new()).await?;
    let size = json!({"min_size": 1, "max_size": 3});
    first.api.put("/api/admin/pool", &size).await?.expect(200)?;
    let followed = async |deployment: &Deployment| {
        eventually(HEALED_LIMIT, "the size that was set on the other server", async || {
            let pool = deployment.api.get("/api/admin/pool").await?.expect(200)?.json()?;
            check_eq(pool.to_string(), (pool["min_size"].as_u64(), pool["max_size"].as_u64()), (Some(1), Some(3)))
        })
        .await
    };
    followed(&second).await?;
    second.metric("workspace_warm_pool_size", |waiting| waiting >= 1.0, HEALED_LIMIT).await?;
    second.stop().await?;
    second.restart(context).await?;
    followed(&second).await
}
