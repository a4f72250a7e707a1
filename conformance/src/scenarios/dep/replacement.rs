//! Servers in containers that are replaced.

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::durable_run;
use crate::scenarios::common::server_container::container;
use crate::target::deployment::READY_LIMIT;
use crate::target::launch::Launch;

const WITH_RESUME: &[Capability] = &[
    Capability::Launch,
    Capability::Docker,
    Capability::Image,
    Capability::Model,
    Capability::ServerImage,
    Capability::Resume,
];

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "DEP-002",
        "Replacing a server's container by another loses no event of a run",
        "rolling restart loses no run's events",
        body!(replaced),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(WITH_RESUME)
    .limit(120),
    Scenario::new(
        "DEP-003",
        "While two servers in containers are replaced in turn, one always answers, and no event of a run is lost",
        "rolling restart loses no run's events",
        body!(rolling),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(&[
        Capability::Launch,
        Capability::Docker,
        Capability::Image,
        Capability::Model,
        Capability::Redis,
        Capability::ServerImage,
        Capability::Resume,
    ])
    .limit(120),
];

async fn replaced(context: &Context) -> Result<(), Failure> {
    let launch = Launch::new().in_container().set("SHUTDOWN_WORKSPACES", "keep").set("SHUTDOWN_TIMEOUT", 1);
    let mut deployment = context.launch(launch).await?;
    let conversation = deployment.conversation(context).await?;
    let seen = durable_run::waiting(&deployment, &conversation).await?;
    let room = deployment.only_room().await?;
    let before = container(&deployment)?.inspect().await?.id;
    deployment.stop().await?;
    room.shell("touch /workspace/go").await?;
    deployment.restart(context).await?;
    check(before != container(&deployment)?.inspect().await?.id, "the container is the one that was stopped")?;
    let done = durable_run::whole(&deployment, &conversation, seen).await?;
    durable_run::well(&deployment, &conversation, &done).await?;
    deployment.api.delete(&conversation.path("")).await?.expect(204).map(|_| ())
}

async fn rolling(context: &Context) -> Result<(), Failure> {
    let redis = context.redis().await?;
    let database = format!("sqlite://{}", context.dir().join("both.sqlite").display());
    let launch = Launch::new().in_container().set("REDIS_URL", redis.url()).set("DATABASE_URL", database);
    let launch = launch.set("SHUTDOWN_WORKSPACES", "keep").set("SHUTDOWN_TIMEOUT", 1);
    let mut first = context.launch(launch).await?;
    let mut second = context.launch_beside(&first).await?;
    let runs = first.conversation(context).await?;
    let talks = first.another_conversation(context, &runs.tenant, &runs.model).await?;
    let seen = durable_run::waiting(&first, &runs).await?;
    let room = first.only_room().await?;

    first.stop().await?;
    second.run_well(&talks, "@say by the second").await.map_err(|failure| failure.during("while the first is away"))?;
    first.restart(context).await?;
    second.stop().await?;
    // A server finds the workspace of a conversation that the other one created.
    first.run_well(&talks, "@say by the first").await.map_err(|failure| failure.during("while the second is away"))?;
    second.restart(context).await?;
    room.shell("touch /workspace/go").await?;
    let done = durable_run::whole(&first, &runs, seen).await?;
    durable_run::well(&first, &runs, &done).await?;
    // The workspace with which the second server has proved its host path may still be shutting down.
    eventually(READY_LIMIT, "two workspaces of two conversations", async || {
        check_eq("running workspaces", first.rooms().await?.len(), 2)
    })
    .await?;
    for conversation in [&runs, &talks] {
        first.api.delete(&conversation.path("")).await?.expect(204)?;
    }
    eventually(READY_LIMIT, "no workspace left", async || check_eq("rooms", first.all_rooms().await?.len(), 0)).await
}
