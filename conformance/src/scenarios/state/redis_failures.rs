//! Redis that fails, freezes, loses its data or is full.

use serde_json::json;

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::limits::HEALED_LIMIT;
use crate::scenarios::common::shared_redis::{keeps_room, mark, redis_is};
use crate::target::launch::Launch;

const NEEDS: &[Capability] =
    &[Capability::Launch, Capability::Docker, Capability::Image, Capability::Model, Capability::Redis];

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "STATE-001",
        "While Redis is killed, frozen or empty, existing workspaces work and new ones wait, until it is back",
        "redis is not critical: restarted, flushed or slow, it degrades the service and heals without a restart",
        body!(redis_faults),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(NEEDS)
    .limit(120),
    Scenario::new(
        "STATE-005",
        "While Redis accepts no writes, existing workspaces work and new ones wait, until it does",
        "redis is not critical: restarted, flushed or slow, it degrades the service and heals without a restart",
        body!(redis_full),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(NEEDS)
    .limit(120),
];

async fn redis_faults(context: &Context) -> Result<(), Failure> {
    let redis = context.redis().await?;
    let launch = Launch::new().set("REDIS_URL", redis.url()).set("SHUTDOWN_WORKSPACES", "keep");
    let mut deployment = context.launch(launch).await?;
    let first = deployment.conversation(context).await?;
    mark(&deployment, &first).await?;
    let mut rooms = 1;
    for fault in ["killed", "frozen"] {
        if fault == "killed" {
            redis.kill().await?;
        } else {
            redis.pause().await?;
        }
        redis_is(&deployment, "unhealthy").await.map_err(|failure| failure.during(fault))?;
        keeps_room(&deployment, &first, rooms).await.map_err(|failure| failure.during(fault))?;
        let other = deployment.another_conversation(context, &first.tenant, &first.model).await?;
        let refused = deployment.api.post(&other.path("/stream"), &json!({"user_input": "@say no room"})).await?;
        refused.expect_error(503, "SERVICE_UNAVAILABLE").map_err(|failure| failure.during(fault))?;
        check(refused.header("retry-after").is_some(), "503 without Retry-After")?;
        if fault == "killed" {
            redis.restart().await?;
        } else {
            redis.resume().await?;
        }
        redis_is(&deployment, "healthy").await.map_err(|failure| failure.during(fault))?;
        deployment.run_well(&other, "@say a room").await.map_err(|failure| failure.during(fault))?;
        rooms += 1;
    }
    redis.command(["FLUSHALL"]).await?;
    // The server writes its records again, so that a server that starts later finds them.
    eventually(HEALED_LIMIT, "the conversation's workspace in Redis again", async || {
        let mut found = false;
        for key in redis.command(["--scan"]).await?.lines() {
            found |= key.contains(&first.id)
                || redis.command(["TYPE", key]).await?.trim() == "string"
                    && redis.command(["GET", key]).await?.contains(&first.id);
        }
        check(found, "nothing in Redis is about it")
    })
    .await?;
    deployment.stop().await?;
    deployment.restart(context).await?;
    keeps_room(&deployment, &first, rooms).await?;
    deployment.server.as_mut().map(|server| server.program.env.insert("SHUTDOWN_WORKSPACES".into(), "destroy".into()));
    deployment.stop().await?;
    deployment.restart(context).await
}

async fn redis_full(context: &Context) -> Result<(), Failure> {
    let redis = context.redis().await?;
    let deployment = context.launch(Launch::new().set("REDIS_URL", redis.url())).await?;
    let first = deployment.conversation(context).await?;
    mark(&deployment, &first).await?;
    // Less memory than it uses: it answers reads and refuses writes.
    redis.command(["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await?;
    redis.command(["CONFIG", "SET", "maxmemory", "1"]).await?;
    let full = redis.command(["SET", "conformance", "full"]).await;
    check(full.is_err_and(|failure| failure.to_string().contains("OOM")), "Redis is not full")?;

    keeps_room(&deployment, &first, 1).await?;
    let other = deployment.another_conversation(context, &first.tenant, &first.model).await?;
    let refused = deployment.api.post(&other.path("/stream"), &json!({"user_input": "@say no room"})).await?;
    refused.expect_error(503, "SERVICE_UNAVAILABLE")?;
    check(refused.header("retry-after").is_some(), "503 without Retry-After")?;
    check_eq("workspaces while Redis is full", deployment.all_rooms().await?.len(), 1)?;
    deployment.api.get("/health").await?.expect(200)?;

    redis.command(["CONFIG", "SET", "maxmemory", "0"]).await?;
    eventually(HEALED_LIMIT, "a run that ends well in a new workspace", async || {
        deployment.run_well(&other, "@say a room").await.map(drop).map_err(|failure| failure.to_string())
    })
    .await?;
    keeps_room(&deployment, &first, 2).await
}
