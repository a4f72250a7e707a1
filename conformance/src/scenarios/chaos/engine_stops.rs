//! A Docker engine that stops with its containers.

use serde_json::json;

use crate::client::stream::names;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::broken_run::{ended_badly, endless, gone};
use crate::scenarios::common::limits::HEALED_LIMIT;
use crate::scenarios::common::needs::RUN;
use crate::target::launch::Launch;
use crate::target::relay::Relay;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "CHAOS-007",
    "An engine that stops with its containers ends the run with an error, and everything works once it is back",
    "each fault degrades as the contract says and heals without a restart",
    body!(engine_restarts),
)
.severity(Severity::High)
.profile(Profile::Full)
.requires(RUN)
.limit(120)];

async fn engine_restarts(context: &Context) -> Result<(), Failure> {
    let path = context.socket_dir()?.join("docker.sock");
    let relay = Relay::unix(&path, context.engine()?.socket())?;
    let launch = Launch::new().set("DOCKER_SOCKET_PATH", path.display()).set("CONTAINER_GC_INTERVAL", 1);
    let deployment = context.launch(launch).await?;
    let conversation = deployment.conversation(context).await?;
    let stream = endless(&deployment, &conversation).await?;
    let room = deployment.only_room().await?;
    let dir = room.socket_dir().await?;
    // To clients, an engine's restart means that nothing listens and every container has exited.
    relay.stop().await?;
    room.kill("SIGKILL").await?;
    let events = stream.finish().await?;
    let done = ended_badly(&events)?;
    check(
        !names(&events).contains("container_recovered"),
        "a new workspace was promised while there was no engine to make one",
    )?;
    check(done["errors"].as_array().is_some_and(|errors| !errors.is_empty()), format!("done has no error: {done}"))?;
    deployment.api.get("/health/ready").await?.expect_error(503, "SERVICE_UNAVAILABLE")?;
    let refused = deployment.api.post(&conversation.path("/stream"), &json!({"user_input": "@say no room"})).await?;
    refused.expect_error(503, "SERVICE_UNAVAILABLE")?;

    let relay = Relay::unix(&path, context.engine()?.socket())?;
    deployment.ready(HEALED_LIMIT).await?;
    deployment.run_well(&conversation, "@say after").await?;
    gone(&room, &dir).await?;
    deployment.stop().await?;
    relay.stop().await
}
