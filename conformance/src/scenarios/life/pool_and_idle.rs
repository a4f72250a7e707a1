//! The warm pool, idle workspaces, and the ownership of containers.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::needs::RUN;
use crate::scenarios::common::trail;
use crate::target::launch::Launch;

/// How long filling a pool of two may take.
const FULL_LIMIT: Duration = Duration::from_secs(20);

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "LIFE-001",
        "The warm pool is filled, a run takes a workspace from it, and the pool is refilled",
        "warm pool keeps N started, healthy workspaces waiting; pre-heats at start-up; refills in the background",
        body!(warm_pool),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(90),
    Scenario::new(
        "LIFE-002",
        "An idle workspace is reclaimed after its idle time, a busy one is not",
        "CONTAINER_TTL: idle time after which a workspace is reclaimed",
        body!(idle_rooms_go),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(90),
    Scenario::new(
        "LIFE-003",
        "Two runs of one conversation use one workspace; another conversation has its own",
        "get_or_create(conversation): reuse, else take one from the warm pool, else start cold",
        body!(one_room_each),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(90),
    Scenario::new(
        "LIFE-004",
        "A container that the server did not create is never touched",
        "two deployments on one host never touch each other's containers",
        body!(neighbours),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(90),
];

async fn warm_pool(context: &Context) -> Result<(), Failure> {
    let trail = context.dir().join("trail.jsonl");
    let launch = Launch::new().set("WARM_POOL_MIN_SIZE", 2).set("AUDIT_LOG", trail.display());
    let deployment = context.launch(launch).await?;
    let pool = "workspace_warm_pool_size";
    deployment.metric(pool, |waiting| waiting == 2.0, FULL_LIMIT).await?;
    let warm: Vec<String> = deployment.rooms().await?.into_iter().map(|room| room.id).collect();
    check_eq("workspaces that run when the pool is full", warm.len(), 2)?;
    let started = |page: &crate::client::metrics::Metrics, source| {
        page.get("workspace_container_startup_seconds_count", &[("source", source)]).unwrap_or(0.0)
    };
    let before = deployment.api.metrics().await?;

    let conversation = deployment.conversation(context).await?;
    deployment
        .run_well(
            &conversation,
            "@tool Bash {\"command\": \"echo used > /workspace/used\", \"description\": \"Use\"}\n@say ok",
        )
        .await?;
    let after = deployment.api.metrics().await?;
    check_eq("warm starts, by the metric", started(&after, "warm"), started(&before, "warm") + 1.0)?;
    check_eq("cold starts, by the metric", started(&after, "cold"), started(&before, "cold"))?;
    deployment.metric(pool, |waiting| waiting == 2.0, FULL_LIMIT).await?;
    let rooms = deployment.rooms().await?;
    check_eq("workspaces that run when the pool is full again", rooms.len(), 3)?;
    let mut used = Vec::new();
    for room in &rooms {
        if room.exec(["test", "-e", "/workspace/used"]).await?.status == 0 {
            used.push(room.id.clone());
        }
    }
    check(used.len() == 1 && warm.contains(&used[0]), format!("the run was in {used:?}, waiting were {warm:?}"))?;
    let entries = trail::entries(&trail)?;
    let assigned: Vec<&Value> = entries.iter().filter(|entry| entry["event"] == "room_assigned").collect();
    check(
        assigned.len() == 1 && assigned[0]["conversation"] == *conversation.id && assigned[0]["workspace"].is_string(),
        format!("what the trail has of the workspace that was handed over: {assigned:?}"),
    )
}

async fn idle_rooms_go(context: &Context) -> Result<(), Failure> {
    let launch = Launch::new().set("CONTAINER_GC_INTERVAL", 1).set("CONTAINER_TTL", 2);
    let deployment = context.launch(launch).await?;
    let conversation = deployment.conversation(context).await?;
    // The run takes longer than the idle time: a workspace with a run is not idle, even without any output.
    let busy = "@tool Bash {\"command\": \"sleep 5; echo woke\", \"description\": \"Wait\"}\n@say done";
    let run_began = Instant::now();
    let events = deployment.run_well(&conversation, busy).await?;
    check(
        run_began.elapsed() >= Duration::from_secs(5),
        "the run was shorter than the idle time: nothing was checked",
    )?;
    check(!events.iter().any(|event| event.name == "container_recovered"), "the workspace was lost during the run")?;
    check_eq("workspaces just after the run", deployment.all_rooms().await?.len(), 1)?;
    eventually(Duration::from_secs(15), "no workspace", async || match deployment.all_rooms().await {
        Ok(rooms) if rooms.is_empty() => Ok(()),
        Ok(rooms) => Err(format!("{} workspaces", rooms.len())),
        Err(failure) => Err(failure.to_string()),
    })
    .await?;
    // It is counted once all of it is removed, a moment after its container.
    deployment.metric("workspace_gc_reclaimed_total", |reclaimed| reclaimed == 1.0, Duration::from_secs(5)).await?;
    deployment.run_well(&conversation, "@say in a new room").await.map(|_| ())
}

async fn one_room_each(context: &Context) -> Result<(), Failure> {
    let deployment = context.launch(Launch::new()).await?;
    let first = deployment.conversation(context).await?;
    let second = deployment.another_conversation(context, &first.tenant, &first.model).await?;
    let write = "@tool Bash {\"command\": \"echo mine >> /workspace/mine\", \"description\": \"Write\"}\n@say ok";
    deployment.run_well(&first, write).await?;
    let room = deployment.only_room().await?;
    deployment.run_well(&first, write).await?;
    check_eq("the workspace of the second run", &deployment.only_room().await?.id, &room.id)?;
    check_eq(
        "the file that both runs wrote",
        room.exec(["cat", "/workspace/mine"]).await?.printed.as_str(),
        "mine\nmine\n",
    )?;

    deployment.run_well(&second, "@say hello").await?;
    let others: Vec<_> = deployment.rooms().await?.into_iter().filter(|other| other.id != room.id).collect();
    check_eq("workspaces besides the first conversation's", others.len(), 1)?;
    let seen = others[0].exec(["ls", "-A", "/workspace"]).await?;
    check_eq("files in the other conversation's workspace", seen.printed.as_str(), "")?;
    // The operator's list has both, the oldest first.
    let listed = deployment.api.get("/api/admin/workspaces").await?.expect(200)?.json()?;
    let field = |name: &str| -> Vec<Option<&str>> {
        listed.as_array().into_iter().flatten().map(|entry| entry[name].as_str()).collect()
    };
    let ids = [&room, &others[0]].map(|room| room.workspace.as_deref());
    check_eq(format!("workspaces in {listed}"), field("workspace_id"), ids.to_vec())?;
    let conversations = [&first, &second].map(|conversation| Some(&*conversation.id));
    check_eq(format!("conversations in {listed}"), field("conversation_id"), conversations.to_vec())?;
    let tenants = [&first, &second].map(|conversation| Some(&*conversation.tenant));
    check_eq(format!("tenants in {listed}"), field("tenant_id"), tenants.to_vec())?;
    let idle: Vec<u64> =
        listed.as_array().into_iter().flatten().filter_map(|entry| entry["idle_seconds"].as_u64()).collect();
    check(idle.len() == 2 && idle.iter().all(|seconds| *seconds < 60), format!("idle seconds in {listed}"))
}

async fn neighbours(context: &Context) -> Result<(), Failure> {
    let quick = || Launch::new().set("CONTAINER_GC_INTERVAL", 1).set("CONTAINER_GRACE_PERIOD", 1);
    let one = context.launch(quick().without_model().set("WARM_POOL_MIN_SIZE", 1)).await?;
    one.metric("workspace_warm_pool_size", |waiting| waiting == 1.0, FULL_LIMIT).await?;
    let room = one.only_room().await?;
    let other = context.launch(quick().without_model()).await?;
    let cycles = "workspace_gc_cycles_total";
    let now = other.metric(cycles, |_| true, FULL_LIMIT).await?;
    other.metric(cycles, |later| later >= now + 3.0, FULL_LIMIT).await?;
    other.stop().await?;
    check(room.is_running().await?, "the other deployment removed a workspace that was not its own")?;
    check_eq("workspaces of the first deployment", &one.only_room().await?.id, &room.id)
}
