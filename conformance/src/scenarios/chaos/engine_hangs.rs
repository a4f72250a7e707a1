//! A Docker engine that accepts connections and never responds.

use std::time::Duration;

use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::limits::HEALED_LIMIT;
use crate::scenarios::common::needs::RUN;
use crate::target::far_side::To;
use crate::target::launch::Launch;
use crate::target::relay::Relay;
use crate::target::wire::Wire;

/// Longest time without an event, by the contract.
const SILENT_LIMIT: Duration = Duration::from_secs(25);
/// How long `/health` may take while a component does not respond; a load balancer would time out eventually.
const HEALTH_LIMIT: Duration = Duration::from_secs(10);

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "CHAOS-003",
        "An engine that accepts connections and never responds degrades the server only as long as that lasts",
        "/health is never 5xx; docker critical; what is unavailable is answered 503 with Retry-After",
        body!(engine_hangs),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(90),
    Scenario::new(
        "CHAOS-011",
        "A run whose workspace takes long to start says all the time that it is there, and succeeds",
        "no more than 25 s without an event; ping is sent every ten",
        body!(slow_start),
    )
    .profile(Profile::Full)
    .requires(RUN),
];

async fn engine_hangs(context: &Context) -> Result<(), Failure> {
    let path = context.socket_dir()?.join("docker.sock");
    let relay = Relay::unix(&path, context.engine()?.socket())?;
    let deployment = context.launch(Launch::new().set("DOCKER_SOCKET_PATH", path.display())).await?;
    let conversation = deployment.conversation(context).await?;
    deployment.run_well(&conversation, "@say before").await?;
    let other = deployment.another_conversation(context, &conversation.tenant, &conversation.model).await?;
    relay.stop().await?;
    // The kernel accepts connections, but no process reads from them.
    let silent = tokio::net::UnixListener::bind(&path)?;

    let status = async || {
        let asked = tokio::time::timeout(HEALTH_LIMIT, deployment.api.get("/health")).await;
        let health =
            asked.map_err(|_| Failure::assertion(format!("no response from /health within {HEALTH_LIMIT:?}")))??;
        let health = health.expect(200)?.json()?;
        Ok::<_, Failure>(health["checks"]["docker"]["status"].as_str().unwrap_or_default().to_owned())
    };
    // The result of a moment ago may be told for a second.
    eventually(HEALED_LIMIT, "docker in /health while it hangs", async || {
        check_eq("docker", status().await?.as_str(), "unhealthy")
    })
    .await?;
    deployment.api.get("/health/live").await?.expect(200)?;
    deployment.api.get("/health/ready").await?.expect_error(503, "SERVICE_UNAVAILABLE")?;
    deployment.api.metrics().await?;
    let refused = deployment.api.post(&other.path("/stream"), &json!({"user_input": "@say no room"})).await?;
    refused.expect_error(503, "SERVICE_UNAVAILABLE")?;
    check(refused.header("retry-after").is_some(), "503 without Retry-After")?;
    // An existing workspace needs no engine.
    deployment.run_well(&conversation, "@say meanwhile").await?;

    drop(silent);
    std::fs::remove_file(&path)?;
    let relay = Relay::unix(&path, context.engine()?.socket())?;
    deployment.ready(HEALED_LIMIT).await?;
    deployment.run_well(&other, "@say after").await?;
    deployment.stop().await?;
    relay.stop().await
}

async fn slow_start(context: &Context) -> Result<(), Failure> {
    let path = context.socket_dir()?.join("docker.sock");
    let (engine, started) = (To::Unix(context.engine()?.socket().to_owned()), CancellationToken::new());
    let relay = Relay::unix_with(&path, engine, Wire::Waiting("/start HTTP/1.1", started.clone()))?;
    let deployment = context.launch(Launch::new().set("DOCKER_SOCKET_PATH", path.display())).await?;
    let conversation = deployment.conversation(context).await?;
    let mut run = deployment.start(&conversation, "@say late").await?;
    let ping = tokio::time::timeout(SILENT_LIMIT, run.until("ping")).await;
    ping.map_err(|_| Failure::assertion(format!("no ping within {SILENT_LIMIT:?} while a container starts")))??;
    started.cancel();
    let run = run.finish().await?;
    let done = run.last().map(|done| done.data.clone()).unwrap_or_default();
    check_eq(format!("status in {done}"), done["status"].as_str(), Some("success"))?;
    deployment.stop().await?;
    relay.stop().await
}
