//! Rooms that somebody else stops, makes, or that cannot be made: LIFE; and runs that take too long: RUN.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{StartContainerOptions, StopContainerOptionsBuilder};
use serde_json::json;

use super::recovery::ended_badly;
use crate::client::stream::names;
use crate::context::Context;
use crate::failure::{Failure, check, check_eq};
use crate::poll::eventually;
use crate::run::Made;
use crate::scenario::{Capability, Profile, Scenario, Severity};
use crate::target::deployment::Deployment;
use crate::target::engine::{LABEL_DEPLOYMENT, LABEL_WORKSPACE};
use crate::target::launch::Launch;

/// How long everything may take to be as it should be again.
const HEALED_LIMIT: Duration = Duration::from_secs(30);
/// How old a container must be that no server knows, to be taken down.
const GRACE: Duration = Duration::from_secs(12);
/// How long a run may take.
const RUN_LIMIT: Duration = Duration::from_secs(6);

const SCENARIO: Scenario = Scenario {
    id: "LIFE",
    title: "",
    severity: Severity::High,
    requirement: "",
    requires: &[Capability::Launch, Capability::Docker, Capability::Image, Capability::Model],
    profile: Profile::Full,
    destructive: false,
    limit: Duration::from_secs(120),
    body: body!(orphans),
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        id: "LIFE-006",
        title: "a container of the deployment that no server knows is taken down once it is old enough, and not before",
        requirement: "orphans older than the grace are reclaimed, younger are not",
        requires: &[Capability::Launch, Capability::Docker, Capability::Image],
        ..SCENARIO
    },
    Scenario {
        id: "LIFE-007",
        title: "a room that somebody stops behind the server's back is replaced by the next run, and nothing of it is left",
        requirement: "container stopped behind our back",
        body: body!(stopped),
        ..SCENARIO
    },
    Scenario {
        id: "LIFE-008",
        title: "a room that is made and cannot be started leaves nothing, and the run that wanted it says so",
        requirement: "create that fails half-way leaves nothing",
        body: body!(half_made),
        ..SCENARIO
    },
    Scenario {
        id: "RUN-006",
        title: "a run that takes too long ends with timeout_error, its processes are gone, and the next one works",
        requirement: "timeout → error, room replaced",
        body: body!(timed_out),
        ..SCENARIO
    },
];

async fn orphans(context: &Context) -> Result<(), Failure> {
    let launch = Launch::new().without_model().set("CONTAINER_GC_INTERVAL", 1).set("WARM_POOL_MIN_SIZE", 1);
    let deployment = context.launch(launch.set("CONTAINER_GRACE_PERIOD", GRACE.as_secs())).await?;
    deployment.metric("workspace_warm_pool_size", |waiting| waiting == 1.0, HEALED_LIMIT).await?;
    let known = deployment.only_room().await?;
    let (engine, id) = deployment.engine()?;
    // As one that a server made which had no time left to write it down: with an id of this deployment's kind.
    let mut workspace = known.workspace.clone().unwrap_or_default();
    let last = if workspace.pop() == Some('0') { '1' } else { '0' };
    workspace.push(last);
    let name = format!("nagaya-ws-{workspace}");
    context.run.will_make(&Made::Container(name.clone()))?;
    let orphan = engine.container(&name);
    let to_remove = orphan.clone();
    context.resources.add(format!("container {name}"), move || async move { to_remove.remove().await });
    let label = |label: &str, value: &str| (label.to_owned(), value.to_owned());
    let body = ContainerCreateBody {
        image: Some(context.run.options.image.clone()),
        // It obeys at once: a first process that has no handler would go on until it is killed.
        cmd: Some(["sh", "-c", "trap 'exit 0' TERM; sleep 300 & wait"].map(str::to_owned).to_vec()),
        labels: Some(HashMap::from([
            label(LABEL_DEPLOYMENT, id),
            label(LABEL_WORKSPACE, &workspace),
            label("nagaya.created-at", &jiff::Timestamp::now().to_string()),
        ])),
        host_config: Some(HostConfig { network_mode: Some("none".to_owned()), ..HostConfig::default() }),
        ..ContainerCreateBody::default()
    };
    let made = Instant::now();
    engine.create(&context.run, &name, body).await?;
    engine.docker().start_container(&name, None::<StartContainerOptions>).await?;
    let cycles = async || Ok::<_, Failure>(deployment.api.metrics().await?.sum("workspace_gc_cycles_total").unwrap_or(0.0));
    let before = cycles().await?;
    // Only what was so while it was young says anything; some of a second is the engine's, which counts in whole ones.
    let is_young = || made.elapsed() + Duration::from_secs(2) < GRACE;
    let looked = eventually(GRACE, "two collections, or the end of its youth", async || {
        let (there, looked) = (orphan.is_running().await?, cycles().await? - before);
        check(!there || looked >= 2.0 || !is_young(), looked).map(|()| looked)
    })
    .await?;
    check(!is_young() || orphan.is_running().await?, "a container that had just been made was taken down")?;
    if looked < 1.0 {
        return Err(Failure::harness("no collection went by while the container was young: nothing was shown"));
    }
    context.note(format!("{looked} collections while it was young"));

    let gone = async || check(!orphan.is_running().await?, "it runs");
    eventually(GRACE + HEALED_LIMIT, "an end of the container that no server knows", gone).await?;
    check(!is_young(), format!("it was taken down after {:?}", made.elapsed()))?;
    eventually(HEALED_LIMIT, "one room", async || check_eq("containers", deployment.all_rooms().await?.len(), 1)).await?;
    check_eq("the room that waits in the pool", &deployment.only_room().await?.id, &known.id)
}

/// Nothing of other rooms than these is there, neither container nor directory.
async fn only(deployment: &Deployment, rooms: usize) -> Result<(), Failure> {
    let sockets = &deployment.server()?.sockets;
    eventually(HEALED_LIMIT, format!("{rooms} rooms, and nothing of others"), async || {
        check_eq("containers", deployment.all_rooms().await?.len(), rooms)?;
        check_eq("socket directories", std::fs::read_dir(sockets)?.count(), rooms)
    })
    .await
}

async fn stopped(context: &Context) -> Result<(), Failure> {
    let deployment = context.launch(Launch::new().set("CONTAINER_GC_INTERVAL", 1)).await?;
    let conversation = deployment.conversation(context).await?;
    deployment.run_well(&conversation, "@say before").await?;
    let room = deployment.only_room().await?;
    let options = StopContainerOptionsBuilder::new().t(5).build();
    deployment.engine()?.0.docker().stop_container(&room.id, Some(options)).await?;
    check(!room.is_running().await?, "the room that was stopped runs")?;
    deployment.run_well(&conversation, "@say after").await?;
    only(&deployment, 1).await?;
    let next = deployment.only_room().await?;
    check(next.id != room.id, "the room that was stopped is used again, without what was in its memory")?;
    deployment.api.delete(&conversation.path("")).await?.expect(204)?;
    only(&deployment, 0).await
}

async fn half_made(context: &Context) -> Result<(), Failure> {
    let tag = context.derived_image_with("true", "ENTRYPOINT [\"/no/such/program\"]").await?;
    // It may never be ready: that no room can be started is a reason.
    let launch = Launch::new().set("CONTAINER_IMAGE", &tag).set("CONTAINER_GC_INTERVAL", 1).not_waiting();
    let deployment = context.launch(launch).await?;
    let conversation = deployment.conversation(context).await?;
    eventually(HEALED_LIMIT, "a word about the program that is missing, from a run or from /health/ready", async || {
        let told = deployment.api.post(&conversation.path("/stream"), &json!({"user_input": "@say no room"})).await?;
        let text = told.text();
        match told.status.as_u16() {
            503 => told.expect_error(503, "SERVICE_UNAVAILABLE")?,
            200 => check(text.contains("\"status\":\"error\""), format!("the run ended well without a room: {text}"))?,
            other => return Err(Failure::mismatch("a run whose room cannot be started", "503, or an error at its end", other)),
        }
        let ready = deployment.api.get("/health/ready").await?.text();
        check(text.contains("/no/such/program") || ready.contains("/no/such/program"), format!("{text}; {ready}"))
    })
    .await?;
    only(&deployment, 0).await?;
    deployment.api.get("/health/live").await?.expect(200).map(drop)
}

async fn timed_out(context: &Context) -> Result<(), Failure> {
    let deployment = context.launch(Launch::new().set("CONTAINER_EXECUTION_TIMEOUT", RUN_LIMIT.as_secs())).await?;
    let conversation = deployment.conversation(context).await?;
    // Its first run takes whatever a first run takes on this machine; only the endless one is to be too long.
    let begun = Instant::now();
    let prompt = "@tool Bash {\"command\": \"tail -f /dev/null\", \"description\": \"Wait\"}\n@say never said";
    let events = deployment.run(&conversation, prompt).await?;
    check(begun.elapsed() >= RUN_LIMIT, format!("it was ended after {:?}", begun.elapsed()))?;
    ended_badly(&events)?;
    let error = events.iter().find(|event| event.name == "error").map_or("", |error| error.text("error_type"));
    check_eq(format!("error_type among {}", names(&events)), error, "timeout_error")?;
    let counted = deployment.api.metrics().await?.get("workspace_requests_total", &[("status", "timeout")]);
    check_eq("workspace_requests_total{status=timeout}", counted, Some(1.0))?;
    eventually(HEALED_LIMIT, "no process of the run", async || {
        for room in deployment.rooms().await? {
            let left = room.shell("grep -lz '^/dev/null$' /proc/[0-9]*/cmdline 2>/dev/null || true").await?;
            check(left.printed.trim().is_empty(), format!("in room {}: {}", room.id, left.printed))?;
        }
        Ok::<_, Failure>(())
    })
    .await?;
    deployment.run_well(&conversation, "@say in time").await?;
    only(&deployment, 1).await
}
