//! Containers that no server knows, or that were stopped or never started.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{StartContainerOptions, StopContainerOptionsBuilder};
use serde_json::json;

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::ledger::Made;
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::limits::HEALED_LIMIT;
use crate::scenarios::common::needs::RUN;
use crate::scenarios::common::single_room::only;
use crate::target::launch::Launch;

/// The grace period for containers that no server knows.
const GRACE: Duration = Duration::from_secs(12);

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "LIFE-006",
        "A container of the deployment that no server knows is removed once it is old enough, and not before",
        "orphans older than the grace are reclaimed, younger are not",
        body!(orphans),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(&[Capability::Launch, Capability::Docker, Capability::Image])
    .limit(120),
    Scenario::new(
        "LIFE-007",
        "A workspace stopped without the server's knowledge is replaced by the next run and removed completely",
        "container stopped behind our back",
        body!(stopped),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(120),
    Scenario::new(
        "LIFE-008",
        "A workspace that is created and cannot be started leaves nothing behind, and its run reports the error",
        "create that fails half-way leaves nothing",
        body!(half_made),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(120),
];

async fn orphans(context: &Context) -> Result<(), Failure> {
    let launch = Launch::new().without_model().set("CONTAINER_GC_INTERVAL", 1).set("WARM_POOL_MIN_SIZE", 1);
    let deployment = context.launch(launch.set("CONTAINER_GRACE_PERIOD", GRACE.as_secs())).await?;
    deployment.metric("workspace_warm_pool_size", |waiting| waiting == 1.0, HEALED_LIMIT).await?;
    let known = deployment.only_room().await?;
    let (engine, id) = deployment.engine()?;
    // As if created by a server that was killed before it recorded it: with labels of this deployment.
    let mut workspace = known.workspace.clone().unwrap_or_default();
    let last = if workspace.pop() == Some('0') { '1' } else { '0' };
    workspace.push(last);
    let look = engine.containers();
    let name = look.name(&workspace);
    context.run.will_make(&Made::Container(name.clone()))?;
    let orphan = engine.container(&name);
    let to_remove = orphan.clone();
    context.resources.add(format!("container {name}"), move || async move { to_remove.remove().await });
    let label = |label: &str, value: &str| (label.to_owned(), value.to_owned());
    let body = ContainerCreateBody {
        image: Some(context.run.capabilities.image.clone()),
        // It handles SIGTERM: a first process without a handler would run until it is killed.
        cmd: Some(["sh", "-c", "trap 'exit 0' TERM; sleep 300 & wait"].map(str::to_owned).to_vec()),
        labels: Some(HashMap::from([
            label(&look.deployment_label, id),
            label(&look.workspace_label, &workspace),
            label(&look.created_label, &jiff::Timestamp::now().to_string()),
        ])),
        host_config: Some(HostConfig { network_mode: Some("none".to_owned()), ..HostConfig::default() }),
        ..ContainerCreateBody::default()
    };
    let made = Instant::now();
    engine.create(context.run.ledger(), &name, body).await?;
    engine.docker().start_container(&name, None::<StartContainerOptions>).await?;
    let cycles =
        async || Ok::<_, Failure>(deployment.api.metrics().await?.sum("workspace_gc_cycles_total").unwrap_or(0.0));
    let before = cycles().await?;
    // Only observations during the grace period count; the engine's timestamps have a resolution of one second.
    let is_young = || made.elapsed() + Duration::from_secs(2) < GRACE;
    let looked = eventually(GRACE, "two garbage collections, or the end of the grace period", async || {
        let (there, looked) = (orphan.is_running().await?, cycles().await? - before);
        check(!there || looked >= 2.0 || !is_young(), looked).map(|()| looked)
    })
    .await?;
    check(!is_young() || orphan.is_running().await?, "a container that had just been created was removed")?;
    if looked < 1.0 {
        return Err(Failure::harness("no garbage collection ran during the grace period: nothing was checked"));
    }
    context.note(format!("{looked} collections while it was young"));

    let gone = async || check(!orphan.is_running().await?, "it runs");
    eventually(GRACE + HEALED_LIMIT, "the removal of the container that no server knows", gone).await?;
    check(!is_young(), format!("it was removed after {:?}", made.elapsed()))?;
    eventually(HEALED_LIMIT, "one workspace", async || check_eq("containers", deployment.all_rooms().await?.len(), 1))
        .await?;
    check_eq("the workspace that waits in the pool", &deployment.only_room().await?.id, &known.id)
}

async fn stopped(context: &Context) -> Result<(), Failure> {
    let deployment = context.launch(Launch::new().set("CONTAINER_GC_INTERVAL", 1)).await?;
    let conversation = deployment.conversation(context).await?;
    deployment.run_well(&conversation, "@say before").await?;
    let room = deployment.only_room().await?;
    let options = StopContainerOptionsBuilder::new().t(5).build();
    deployment.engine()?.0.docker().stop_container(&room.id, Some(options)).await?;
    check(!room.is_running().await?, "the workspace that was stopped runs")?;
    deployment.run_well(&conversation, "@say after").await?;
    only(&deployment, 1).await?;
    let next = deployment.only_room().await?;
    check(next.id != room.id, "the workspace that was stopped is used again, without what was in its memory")?;
    deployment.api.delete(&conversation.path("")).await?.expect(204)?;
    only(&deployment, 0).await
}

async fn half_made(context: &Context) -> Result<(), Failure> {
    let tag = context.derived_image_with("true", "ENTRYPOINT [\"/no/such/program\"]").await?;
    // It may never become ready, because no workspace can be started.
    let launch = Launch::new().set("CONTAINER_IMAGE", &tag).set("CONTAINER_GC_INTERVAL", 1).without_waiting();
    let deployment = context.launch(launch).await?;
    let conversation = deployment.conversation(context).await?;
    eventually(HEALED_LIMIT, "a message about the missing program, from a run or from /health/ready", async || {
        let reply = deployment.api.post(&conversation.path("/stream"), &json!({"user_input": "@say no room"})).await?;
        let text = reply.text();
        match reply.status.as_u16() {
            503 => reply.expect_error(503, "SERVICE_UNAVAILABLE")?,
            200 => {
                check(text.contains("\"status\":\"error\""), format!("the run succeeded without a workspace: {text}"))?;
            }
            other => {
                return Err(Failure::mismatch(
                    "a run whose workspace cannot be started",
                    "503, or an error at its end",
                    other,
                ));
            }
        }
        let ready = deployment.api.get("/health/ready").await?.text();
        check(text.contains("/no/such/program") || ready.contains("/no/such/program"), format!("{text}; {ready}"))
    })
    .await?;
    only(&deployment, 0).await?;
    deployment.api.get("/health/live").await?.expect(200).map(drop)
}
