//! State that servers share, and what becomes of it: BUG-03, BUG-15, STATE.

use std::time::Duration;

use serde_json::{Value, json};

use super::durable::waiting;
use crate::client::stream::{RunEvent, check_whole, names};
use crate::context::Context;
use crate::failure::{Failure, check, check_eq};
use crate::poll::eventually;
use crate::scenario::{Capability, Profile, Scenario, Severity};
use crate::target::deployment::{Conversation, Deployment};
use crate::target::launch::Launch;
use crate::target::redis::Redis;

const NEEDS: &[Capability] =
    &[Capability::Launch, Capability::Docker, Capability::Image, Capability::Model, Capability::Redis];
/// How long everything may take to be as it should be again.
const HEALED_LIMIT: Duration = Duration::from_secs(30);

/// What the scenarios here have in common.
const SCENARIO: Scenario = Scenario {
    id: "STATE",
    title: "",
    severity: Severity::High,
    requirement: "redis is not critical: restarted, flushed or slow, it degrades the service and heals without a restart",
    requires: NEEDS,
    profile: Profile::Full,
    destructive: false,
    limit: Duration::from_secs(120),
    body: body!(redis_faults),
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        id: "BUG-03-REDIS",
        title: "/health answers 200 and says degraded while Redis is down, and only then",
        severity: Severity::Critical,
        requirement: "/health answers correctly in every combination of component states; never 5xx",
        body: body!(health),
        ..SCENARIO
    },
    Scenario {
        id: "BUG-15",
        title: "a record in Redis that is no record costs one conversation its room, is told of, and harms no other",
        requirement: "records are text, decoded once, at one place; a corrupt record harms no other",
        body: body!(corrupt_record),
        ..SCENARIO
    },
    Scenario {
        id: "STATE-001",
        title: "Redis killed, standing still or empty: rooms that are there go on, new ones wait, and all is well again afterwards",
        ..SCENARIO
    },
    Scenario {
        id: "STATE-005",
        title: "a Redis that takes nothing more: rooms that are there go on, new ones wait, and all is well once there is room",
        body: body!(redis_full),
        ..SCENARIO
    },
    Scenario {
        id: "STATE-002",
        title: "two servers that share Redis have one room for a conversation, whichever is asked, and whichever dies",
        requirement: "one room per conversation even under concurrent requests and several server processes sharing Redis",
        body: body!(two_servers),
        ..SCENARIO
    },
    Scenario {
        id: "STATE-003",
        title: "the pool's size, set on one server, is followed by the other, and by a server that starts later",
        requirement: "min/max changeable at run time (kept in Redis when there is one, followed by every server)",
        requires: &[Capability::Launch,Capability::Docker,Capability::Image,Capability::Model,Capability::Redis,Capability::Admin],
        body: body!(pool_size),
        ..SCENARIO
    },
    Scenario {
        id: "STATE-004",
        title: "a run that one server has is followed, cancelled and deleted with its conversation by way of another",
        requirement: "journals: with Redis, shared between servers",
        requires: &[Capability::Launch,Capability::Docker,Capability::Image,Capability::Model,Capability::Redis,Capability::Resume],
        body: body!(other_servers_run),
        ..SCENARIO
    },
];

/// Waits until `/health`, which must always answer 200, says this of Redis, and gives what it says.
async fn redis_is(deployment: &Deployment, expected: &str) -> Result<Value, Failure> {
    eventually(HEALED_LIMIT, format!("redis {expected} in /health"), async || {
        let health = deployment.api.get("/health").await?.expect(200)?.json()?;
        check_eq(health.to_string(), health["checks"]["redis"]["status"].as_str(), Some(expected))?;
        Ok::<_, Failure>(health)
    })
    .await
}

async fn health(context: &Context) -> Result<(), Failure> {
    let redis = context.redis().await?;
    let deployment = context.launch(Launch::new().without_model().set("REDIS_URL", redis.url())).await?;
    for _ in 0..2 {
        let health = redis_is(&deployment, "healthy").await?;
        check_eq("status with Redis up", health["status"].as_str(), Some("healthy"))?;
        redis.kill().await?;
        let health = redis_is(&deployment, "unhealthy").await?;
        check_eq("status with Redis down, which is not critical", health["status"].as_str(), Some("degraded"))?;
        let told = health["checks"]["redis"]["message"].as_str().unwrap_or_default();
        check(!told.is_empty(), format!("no message: {health}"))?;
        check_eq("docker meanwhile", health["checks"]["docker"]["status"].as_str(), Some("healthy"))?;
        deployment.api.get("/health/live").await?.expect(200)?;
        deployment.api.get("/health/ready").await?.expect(200)?;
        redis.start_again().await?;
    }
    redis_is(&deployment, "healthy").await.map(|_| ())
}

/// Runs a prompt well in the room that was marked as the conversation's.
async fn in_own_room(deployment: &Deployment, conversation: &Conversation) -> Result<(), Failure> {
    let prompt = "@tool Bash {\"command\": \"cat /workspace/mark\", \"description\": \"Look\"}\n@say looked";
    let events = deployment.run_well(conversation, prompt).await?;
    let results = events.iter().filter(|event| event.name == "tool_result");
    let content: String = results.map(|event| event.data["content"].to_string()).collect();
    check(content.contains(&conversation.id), format!("the conversation is in another room: {content}"))
}

/// The same, and that there are so many rooms in all.
async fn keeps_room(deployment: &Deployment, conversation: &Conversation, rooms: usize) -> Result<(), Failure> {
    in_own_room(deployment, conversation).await?;
    check_eq("rooms", deployment.rooms().await?.len(), rooms)
}

/// Gives a conversation a room, and leaves its name in there.
async fn mark(deployment: &Deployment, conversation: &Conversation) -> Result<(), Failure> {
    let command = format!("echo {} > /workspace/mark", conversation.id);
    let tool = json!({"command": command, "description": "Mark"});
    deployment.run_well(conversation, &format!("@tool Bash {tool}\n@say marked")).await.map(|_| ())
}

async fn corrupt_record(context: &Context) -> Result<(), Failure> {
    let redis = context.redis().await?;
    let launch = Launch::new().set("REDIS_URL", redis.url()).set("SHUTDOWN_WORKSPACES", "keep").set("CONTAINER_GC_INTERVAL", 1);
    let mut deployment = context.launch(launch).await?;
    let hurt = deployment.conversation(context).await?;
    let whole = deployment.another_conversation(context, &hurt.tenant, &hurt.model).await?;
    for conversation in [&hurt, &whole] {
        mark(&deployment, conversation).await?;
    }
    deployment.stop().await?;
    // However an implementation names its keys: what holds the conversation's id is about the conversation.
    let mut spoilt = 0;
    for key in redis.command(["--scan"]).await?.lines() {
        if redis.command(["TYPE", key]).await?.trim() == "string" && redis.command(["GET", key]).await?.contains(&hurt.id) {
            redis.command(["SET", key, "{\u{1}no record", "KEEPTTL"]).await?;
            spoilt += 1;
        }
    }
    check(spoilt > 0, "no value in Redis holds the conversation's id: nothing was spoilt")?;
    deployment.start_again(context).await?;
    in_own_room(&deployment, &whole).await?;
    deployment.run_well(&hurt, "@say in another room").await?;
    let told = deployment.server()?.log().to_lowercase();
    let reported = told.lines().any(|line| line.contains("record") && (line.contains("error") || line.contains("warn")));
    check(reported, "nothing in the log tells of the record")?;
    for conversation in [&hurt, &whole] {
        deployment.api.delete(&conversation.path("")).await?.expect(204)?;
    }
    eventually(HEALED_LIMIT, "no room left", async || check_eq("rooms", deployment.all_rooms().await?.len(), 0)).await
}

async fn redis_faults(context: &Context) -> Result<(), Failure> {
    let redis = context.redis().await?;
    let launch = Launch::new().set("REDIS_URL", redis.url()).set("SHUTDOWN_WORKSPACES", "keep");
    let mut deployment = context.launch(launch).await?;
    let first = deployment.conversation(context).await?;
    mark(&deployment, &first).await?;
    let mut rooms = 1;
    for fault in ["killed", "standing still"] {
        if fault == "killed" { redis.kill().await? } else { redis.pause().await? }
        redis_is(&deployment, "unhealthy").await.map_err(|failure| failure.during(fault))?;
        keeps_room(&deployment, &first, rooms).await.map_err(|failure| failure.during(fault))?;
        let other = deployment.another_conversation(context, &first.tenant, &first.model).await?;
        let refused = deployment.api.post(&other.path("/stream"), &json!({"user_input": "@say no room"})).await?;
        refused.expect_error(503, "SERVICE_UNAVAILABLE").map_err(|failure| failure.during(fault))?;
        check(refused.header("retry-after").is_some(), "503 without Retry-After")?;
        if fault == "killed" { redis.start_again().await? } else { redis.resume().await? }
        redis_is(&deployment, "healthy").await.map_err(|failure| failure.during(fault))?;
        deployment.run_well(&other, "@say a room").await.map_err(|failure| failure.during(fault))?;
        rooms += 1;
    }
    redis.command(["FLUSHALL"]).await?;
    // What was known is written again, so that a server that comes later finds it.
    eventually(HEALED_LIMIT, "the conversation's room in Redis again", async || {
        let mut found = false;
        for key in redis.command(["--scan"]).await?.lines() {
            found |= key.contains(&first.id)
                || redis.command(["TYPE", key]).await?.trim() == "string" && redis.command(["GET", key]).await?.contains(&first.id);
        }
        check(found, "nothing in Redis is about it")
    })
    .await?;
    deployment.stop().await?;
    deployment.start_again(context).await?;
    keeps_room(&deployment, &first, rooms).await?;
    deployment.server.as_mut().map(|server| server.program.env.insert("SHUTDOWN_WORKSPACES".into(), "destroy".into()));
    deployment.stop().await?;
    deployment.start_again(context).await
}

async fn redis_full(context: &Context) -> Result<(), Failure> {
    let redis = context.redis().await?;
    let deployment = context.launch(Launch::new().set("REDIS_URL", redis.url())).await?;
    let first = deployment.conversation(context).await?;
    mark(&deployment, &first).await?;
    // Less than it has: it answers questions, and takes nothing.
    redis.command(["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await?;
    redis.command(["CONFIG", "SET", "maxmemory", "1"]).await?;
    let full = redis.command(["SET", "conformance", "full"]).await;
    check(full.is_err_and(|failure| failure.to_string().contains("OOM")), "Redis is not full")?;

    keeps_room(&deployment, &first, 1).await?;
    let other = deployment.another_conversation(context, &first.tenant, &first.model).await?;
    let refused = deployment.api.post(&other.path("/stream"), &json!({"user_input": "@say no room"})).await?;
    refused.expect_error(503, "SERVICE_UNAVAILABLE")?;
    check(refused.header("retry-after").is_some(), "503 without Retry-After")?;
    check_eq("rooms while Redis is full", deployment.all_rooms().await?.len(), 1)?;
    deployment.api.get("/health").await?.expect(200)?;

    redis.command(["CONFIG", "SET", "maxmemory", "0"]).await?;
    eventually(HEALED_LIMIT, "a run that ends well in a new room", async || {
        deployment.run_well(&other, "@say a room").await.map(drop).map_err(|failure| failure.to_string())
    })
    .await?;
    keeps_room(&deployment, &first, 2).await
}

/// Two servers of one deployment: one Redis, one database, one socket base.
async fn both(context: &Context, redis: &Redis) -> Result<(Deployment, Deployment), Failure> {
    let database = format!("sqlite://{}", context.dir().join("both.sqlite").display());
    let launch = Launch::new().set("REDIS_URL", redis.url()).set("DATABASE_URL", database);
    let first = context.launch(launch).await?;
    let second = context.launch_beside(&first).await?;
    Ok((first, second))
}

/// What became of a run that another server may have been quicker with: it ran, or it was refused as the contract says.
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
    let (first, second) = both(context, &redis).await?;
    let conversation = first.conversation(context).await?;
    let prompt = "@tool Bash {\"command\": \"tail -f /dev/null\", \"description\": \"Wait\"}\n@say never said";
    let mut stream = first.start(&conversation, prompt).await?;
    stream.until("tool_call").await?;
    let locked = second.api.post(&conversation.path("/stream"), &json!({"user_input": "@say no"})).await?;
    locked.expect_error(409, "RESOURCE_LOCKED")?;
    check_eq("rooms while one server runs and the other was asked", first.rooms().await?.len(), 1)?;
    first.api.post(&conversation.path("/cancel"), &json!({})).await?.expect(202)?;
    stream.finish().await?;
    mark(&first, &conversation).await?;

    // From server to server and back: the same room.
    keeps_room(&second, &conversation, 1).await.map_err(|failure| failure.during("the second server"))?;
    keeps_room(&first, &conversation, 1).await.map_err(|failure| failure.during("back on the first"))?;
    keeps_room(&second, &conversation, 1).await.map_err(|failure| failure.during("the second again"))?;
    second.kill().await?;
    eventually(HEALED_LIMIT, "the first server to have the room of the one that died", async || {
        keeps_room(&first, &conversation, 1).await
    })
    .await?;

    // Both at once, for conversations that have no room yet: one of the two gets it, and there is one room for each.
    let mut second = second;
    second.start_again(context).await?;
    for _ in 0..3 {
        let contested = first.another_conversation(context, &conversation.tenant, &conversation.model).await?;
        let (one, other) = tokio::join!(first.run(&contested, "@say one"), second.run(&contested, "@say other"));
        let (one, other) = (outcome(one)?, outcome(other)?);
        check(one == "ran" || other == "ran", format!("neither server ran anything: {one}, {other}"))?;
        let mut names = Vec::new();
        for room in first.rooms().await? {
            names.push(room.workspace.unwrap_or_default());
        }
        check_eq(format!("rooms of two conversations: {names:?}"), names.len(), 2)?;
        first.api.delete(&contested.path("")).await?.expect(204)?;
    }
    Ok(())
}

async fn other_servers_run(context: &Context) -> Result<(), Failure> {
    let redis = context.redis().await?;
    let (first, second) = both(context, &redis).await?;
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
    // The latest, whoever had it; also for a server that has an older one itself.
    let later = second.run_well(&conversation, "@say later").await?;
    for (which, server) in [("the first", &first), ("the second", &second)] {
        let read = server.follow(&conversation, "0").await?;
        check(read == later, format!("the latest run, read from {which}: {}", names(&read)))?;
    }

    let third = first.another_conversation(context, &conversation.tenant, &conversation.model).await?;
    let forever = "@tool Bash {\"command\": \"tail -f /dev/null\", \"description\": \"Wait\"}\n@say never said";
    let mut stream = first.start(&third, forever).await?;
    stream.until("tool_call").await?;
    second.api.post(&third.path("/cancel"), &json!({})).await?.expect(202)?;
    let events = stream.finish().await?;
    check_eq("status in done", events.last().map_or("", |done| done.text("status")), "cancelled")?;
    second.api.post(&third.path("/cancel"), &json!({})).await?.expect_error(409, "CONFLICT")?;

    let mut stream = first.start(&third, forever).await?;
    stream.until("tool_call").await?;
    second.api.delete(&third.path("")).await?.expect(204)?;
    let events = stream.finish().await?;
    check_eq("status in done of a deleted conversation's run", events.last().map_or("", |done| done.text("status")), "cancelled")?;
    first.api.get(&third.path("")).await?.expect_error(404, "NOT_FOUND")?;
    second.api.delete(&conversation.path("")).await?.expect(204)?;
    check_eq("rooms", first.rooms().await?.len(), 0)?;
    // Nobody is there to be asked any more.
    second.kill().await?;
    let alone = first.another_conversation(context, &conversation.tenant, &conversation.model).await?;
    first.api.get(&alone.path("/stream")).await?.expect_error(404, "NOT_FOUND")?;
    first.run_well(&alone, "@say alone").await?;
    first.api.delete(&alone.path("")).await?.expect(204).map(drop)
}

async fn pool_size(context: &Context) -> Result<(), Failure> {
    let redis = context.redis().await?;
    let (first, mut second) = both(context, &redis).await?;
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
    second.start_again(context).await?;
    followed(&second).await
}
