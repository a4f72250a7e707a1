//! A Docker engine that is restarted or killed.

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::broken_run::{ended_badly, endless};
use crate::scenarios::common::limits::HEALED_LIMIT;
use crate::target::deployment::Deployment;
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "CHAOS-008",
    "An engine that is restarted or killed during a run ends that run with an error, and everything recovers",
    "Docker daemon restarted: degrades and heals without a restart of the server; nothing is left over",
    body!(engine_restarted),
)
.severity(Severity::High)
.profile(Profile::Full)
.requires(&[
    Capability::Launch,
    Capability::Docker,
    Capability::Image,
    Capability::Model,
    Capability::Mount,
    Capability::OwnEngine,
])
.limit(180)];

async fn engine_restarted(context: &Context) -> Result<(), Failure> {
    let (own, engine) = context.own_engine().await?;
    let launch = Launch::new()
        .on(&engine)
        .set("CONTAINER_GC_INTERVAL", 1)
        .set("WARM_POOL_MIN_SIZE", 1)
        .set("WARM_POOL_MAX_SIZE", 1);
    let deployment = context.launch(launch).await?;
    let conversation = deployment.conversation(context).await?;
    for what in ["restarted", "without power"] {
        let in_context = |failure: Failure| failure.during(format!("an engine that is {what}"));
        deployment
            .metric("workspace_warm_pool_size", |waiting| waiting == 1.0, HEALED_LIMIT)
            .await
            .map_err(in_context)?;
        let stream = endless(&deployment, &conversation).await.map_err(in_context)?;
        let before = deployment.rooms().await?;
        if what == "restarted" {
            own.stop().await?;
        } else {
            own.kill_all().await?;
        }
        let events = stream.finish().await.map_err(in_context)?;
        let done = ended_badly(&events).map_err(in_context)?;
        check(
            done["errors"].as_array().is_some_and(|errors| !errors.is_empty()),
            format!("done has no error: {done}"),
        )?;
        deployment.api.get("/health/live").await?.expect(200)?;
        deployment.api.get("/health/ready").await?.expect_error(503, "SERVICE_UNAVAILABLE")?;

        own.restart().await?;
        deployment.ready(HEALED_LIMIT).await.map_err(in_context)?;
        deployment.run_well(&conversation, "@say after").await.map_err(in_context)?;
        two_rooms(&deployment).await.map_err(in_context)?;
        for room in &before {
            check_eq(format!("whether workspace {} of before runs", room.id), room.is_running().await?, false)?;
        }
    }
    deployment.stop().await?;
    check_eq("containers left", deployment.all_rooms().await?.len(), 0)
}

/// Waits until only the conversation's workspace and one in the pool exist, as containers, as directories, and in the gauge.
async fn two_rooms(deployment: &Deployment) -> Result<(), Failure> {
    let sockets = &deployment.server()?.sockets;
    eventually(HEALED_LIMIT, "two workspaces, and nothing of those before", async || {
        let containers = deployment.all_rooms().await?.len();
        let directories = std::fs::read_dir(sockets)?.count();
        let page = deployment.api.metrics().await?;
        let gauge = page.sum("workspace_active_containers").unwrap_or(-1.0);
        let waiting = page.sum("workspace_warm_pool_size").unwrap_or(-1.0);
        let seen = format!("{containers} containers (gauge {gauge}), {directories} directories, {waiting} waiting");
        check((containers, directories) == (2, 2) && gauge == 2.0 && waiting == 1.0, seen)
    })
    .await
}
