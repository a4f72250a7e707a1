//! What is told of workspaces in each state of theirs: by the operator's list, the metrics, garbage collection, and the trail.

use std::path::Path;

use serde_json::{Value, json};

use crate::harness::context::Context;
use crate::harness::engine::Room;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::limits::HEALED_LIMIT;
use crate::target::deployment::{Conversation, Deployment};
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "LIFE-013",
    "In each state of its life a workspace is once in the operator's list, the gauges, the counters and the trail",
    "list of workspaces, gauges and counters agree after each of: cold, warm, paused, dead, idle, removed, deleted",
    body!(each_state),
)
.severity(Severity::High)
.profile(Profile::Full)
.requires(&[Capability::Launch, Capability::Docker, Capability::Image, Capability::Files, Capability::Admin])
.limit(120)];

/// Idle time after which a workspace is reclaimed, in seconds, where that is what is looked at.
const TTL: u64 = 3;

/// What is told at a moment: each workspace's state and conversation; gauges (containers, pool, proxies); counters (cold and warm starts, pool
/// found empty, cycles that failed); and what was reclaimed for which reason.
async fn told(deployment: &Deployment, names: &[(&str, &Conversation)]) -> Result<Value, Failure> {
    let list = deployment.api.get("/api/admin/workspaces").await?.expect(200)?.json()?;
    let page = deployment.api.metrics().await?;
    let mut workspaces = Vec::new();
    for one in list.as_array().ok_or_else(|| Failure::assertion(format!("no list: {list}")))? {
        let of = one["conversation_id"].as_str();
        let name = names.iter().find(|(_, conversation)| Some(conversation.id.as_str()) == of);
        check_eq(
            format!("tenant of {one}"),
            one["tenant_id"].as_str(),
            name.map(|(_, conversation)| conversation.tenant.as_str()),
        )?;
        check(one["idle_seconds"].is_u64(), format!("idle_seconds of {one}"))?;
        let age = one["created_at"].as_str().and_then(|at| at.parse::<jiff::Timestamp>().ok());
        let age = age.map(|at| jiff::Timestamp::now().as_second() - at.as_second());
        check(age.is_some_and(|age| (-1..120).contains(&age)), format!("created_at of {one}"))?;
        workspaces.push(json!([one["state"], name.map(|(name, _)| *name).or(of)]));
    }
    let count = |name: &str, labels: &[(&str, &str)]| page.get(name, labels).unwrap_or(-1.0);
    let gauges =
        ["workspace_active_containers", "workspace_warm_pool_size", "workspace_proxies"].map(|name| count(name, &[]));
    let started =
        ["cold", "warm"].map(|source| count("workspace_container_startup_seconds_count", &[("source", source)]));
    let failed = count("workspace_gc_cycles_total", &[("result", "error")]);
    let reclaimed = page.named("workspace_gc_reclaimed_total").filter(|sample| sample.value > 0.0);
    let reclaimed: Vec<Value> = reclaimed.map(|sample| json!([sample.labels.get("reason"), sample.value])).collect();
    Ok(json!({
        "workspaces": workspaces, "gauges": gauges, "cold and warm": started, "pool found empty": count("workspace_warm_pool_exhausted_total", &[]),
        "failed cycles": failed, "reclaimed": reclaimed,
    }))
}

fn expected(workspaces: Value, pooled: f64, started: [f64; 2], reclaimed: Value) -> Value {
    #[allow(clippy::cast_precision_loss, reason = "a handful of workspaces")]
    let all = workspaces.as_array().map_or(0, Vec::len) as f64;
    json!({
        "workspaces": workspaces, "gauges": [all, pooled, all], "cold and warm": started, "pool found empty": 0.0, "failed cycles": 0.0,
        "reclaimed": reclaimed,
    })
}

async fn upload(deployment: &Deployment, to: &Conversation, name: &str) -> Result<(), Failure> {
    deployment.api.upload(&to.path(&format!("/files?path={name}")), name.to_owned().into()).await?.expect(204).map(drop)
}

/// Runs a cycle of garbage collection; returns the reason for each workspace that it removed.
async fn collect(deployment: &Deployment) -> Result<Vec<(String, String)>, Failure> {
    let report = deployment.api.post("/api/admin/gc", &json!({})).await?.expect(200)?.json()?;
    check_eq(format!("errors in {report}"), &report["errors"], &json!([]))?;
    let reclaimed = report["reclaimed"].as_array().into_iter().flatten();
    let text = |one: &Value, field: &str| one[field].as_str().unwrap_or_default().to_owned();
    let all: Vec<_> =
        reclaimed.map(|one| (text(one, "workspace_id"), text(one, "reason"), text(one, "explanation"))).collect();
    check(all.iter().all(|(_, _, why)| why.len() > 10), format!("explanations in {report}"))?;
    Ok(all.into_iter().map(|(id, reason, _)| (id, reason)).collect())
}

/// The conversation's workspace: its id, and its container.
async fn room_of(deployment: &Deployment, of: &Conversation) -> Result<(String, Room), Failure> {
    let list = deployment.api.get("/api/admin/workspaces").await?.expect(200)?.json()?;
    let found = list.as_array().into_iter().flatten().find(|room| room["conversation_id"] == *of.id).cloned();
    let id = found.and_then(|room| Some(room["workspace_id"].as_str()?.to_owned()));
    let id = id.ok_or_else(|| Failure::mismatch("the conversation's workspace", "one", format!("none in {list}")))?;
    let rooms = deployment.rooms().await?;
    let room = rooms.into_iter().find(|room| room.workspace.as_deref() == Some(id.as_str()));
    room.map(|room| (id, room)).ok_or_else(|| Failure::assertion("the workspace that is listed has no container"))
}

async fn each_state(context: &Context) -> Result<(), Failure> {
    let trail = context.dir().join("trail.jsonl");
    // Collection is asked for; of itself it comes too late for this. So does the end of the idle time, however slow the machine.
    let launch = Launch::new().without_model().set("CONTAINER_TTL", 600).set("CONTAINER_GC_INTERVAL", 600);
    let launch = launch.set("CONTAINER_GRACE_PERIOD", 1).set("AUDIT_LOG", trail.display());
    let mut deployment = context.launch(launch).await?;
    let (one, other) = (deployment.conversation(context).await?, deployment.conversation(context).await?);
    let names = [("one", &one), ("other", &other)];
    used_and_lost(&deployment, &names).await?;

    // From here on what is idle is soon reclaimed, when it is asked for. Counters begin again with the server.
    deployment.stop().await?;
    let server = deployment.server.as_mut().ok_or_else(|| Failure::could_not_run("not launched by this suite"))?;
    server.program.env.insert("CONTAINER_TTL".into(), TTL.to_string());
    deployment.restart(context).await?;
    idle_and_removed(&deployment, &names).await?;
    pooled(&deployment, &names).await?;
    check_eq("directories", std::fs::read_dir(&deployment.server()?.sockets)?.count(), 0)?;
    deployment.stop().await?;
    check_trail(&trail, &names)
}

/// A workspace of each conversation, of which one is paused and the other one killed.
async fn used_and_lost(deployment: &Deployment, names: &[(&str, &Conversation); 2]) -> Result<(), Failure> {
    let [(_, one), (_, other)] = *names;
    let now = async || told(deployment, names).await;
    check_eq("at the start", now().await?, expected(json!([]), 0.0, [0.0, 0.0], json!([])))?;

    upload(deployment, one, "a").await?;
    let first = expected(json!([["idle", "one"]]), 0.0, [1.0, 0.0], json!([]));
    check_eq("with one workspace", now().await?, first.clone())?;
    upload(deployment, one, "b").await?;
    check_eq("after another use of it", now().await?, first)?;
    upload(deployment, other, "a").await?;
    let both = json!([["idle", "one"], ["idle", "other"]]);
    check_eq("with two workspaces", now().await?, expected(both, 0.0, [2.0, 0.0], json!([])))?;
    check_eq("what is collected of two that are well", collect(deployment).await?, vec![])?;

    let (id, room) = room_of(deployment, one).await?;
    room.pause().await?;
    check_eq("what is collected of one that is paused", collect(deployment).await?, vec![(id, "paused".to_owned())])?;
    let left = json!([["idle", "other"]]);
    check_eq("after one was paused", now().await?, expected(left, 0.0, [2.0, 0.0], json!([["paused", 1.0]])))?;

    let (id, room) = room_of(deployment, other).await?;
    room.kill("SIGKILL").await?;
    eventually(HEALED_LIMIT, "a container that has ended", async || check(!room.is_running().await?, "it runs"))
        .await?;
    check_eq("what is collected of one that is dead", collect(deployment).await?, vec![(id, "dead".to_owned())])?;
    let reclaimed = json!([["dead", 1.0], ["paused", 1.0]]);
    check_eq("after one was killed", now().await?, expected(json!([]), 0.0, [2.0, 0.0], reclaimed))
}

/// A workspace that is idle for too long, and one that an operator removes.
async fn idle_and_removed(deployment: &Deployment, names: &[(&str, &Conversation); 2]) -> Result<(), Failure> {
    let [(_, one), _] = *names;
    let now = async || told(deployment, names).await;
    check_eq("after a restart", now().await?, expected(json!([]), 0.0, [0.0, 0.0], json!([])))?;
    upload(deployment, one, "c").await?;
    let (idle, _) = room_of(deployment, one).await?;
    let collected = eventually(HEALED_LIMIT, "a workspace that was idle for too long", async || {
        let collected = collect(deployment).await?;
        if collected.is_empty() { Err(Failure::assertion("not yet")) } else { Ok(collected) }
    })
    .await?;
    check_eq("what is collected of one that is idle", collected, vec![(idle, "idle".to_owned())])?;
    let reclaimed = json!([["idle", 1.0]]);
    check_eq("after one was idle", now().await?, expected(json!([]), 0.0, [1.0, 0.0], reclaimed.clone()))?;

    upload(deployment, one, "d").await?;
    let (removed, _) = room_of(deployment, one).await?;
    let path = format!("/api/admin/workspaces/{removed}");
    deployment.api.delete(&path).await?.expect(204)?;
    deployment.api.delete(&path).await?.expect_error(404, "NOT_FOUND")?;
    check_eq("after an operator removed it", now().await?, expected(json!([]), 0.0, [2.0, 0.0], reclaimed))
}

/// A workspace of the pool, which a conversation takes and is deleted with.
async fn pooled(deployment: &Deployment, names: &[(&str, &Conversation); 2]) -> Result<(), Failure> {
    let [(_, one), _] = *names;
    let reclaimed = json!([["idle", 1.0]]);
    let now = async || told(deployment, names).await;
    let pool = async |min: usize, max: usize| {
        let size = json!({"min_size": min, "max_size": max});
        let reply = deployment.api.put("/api/admin/pool", &size).await?.expect(200)?.json()?;
        check_eq("size of the pool as it was set", &reply, &size)?;
        let reply = deployment.api.get("/api/admin/pool").await?.expect(200)?.json()?;
        check_eq("size of the pool", reply, size)
    };
    let becomes = async |what: &str, wanted: Value| {
        eventually(HEALED_LIMIT, what, async || check_eq(what, now().await?, wanted.clone())).await
    };
    pool(1, 1).await?;
    let waiting = expected(json!([["pooled", null]]), 1.0, [2.0, 0.0], reclaimed.clone());
    becomes("one in the pool", waiting).await?;
    upload(deployment, one, "e").await?;
    let taken = json!([["idle", "one"], ["pooled", null]]);
    becomes("one taken from the pool", expected(taken, 1.0, [2.0, 1.0], reclaimed.clone())).await?;
    pool(0, 0).await?;
    let left = json!([["idle", "one"]]);
    becomes("no pool any more", expected(left, 0.0, [2.0, 1.0], reclaimed.clone())).await?;
    deployment.api.delete(&one.path("")).await?.expect(204)?;
    check_eq("after its conversation's deletion", now().await?, expected(json!([]), 0.0, [2.0, 1.0], reclaimed))
}

/// The trail has each workspace's life in order: whose it was, and why it ended.
fn check_trail(trail: &Path, names: &[(&str, &Conversation)]) -> Result<(), Failure> {
    let text = std::fs::read_to_string(trail)?;
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let lines: Vec<Value> =
        lines.filter(|line| line["event"].as_str().is_some_and(|event| event.starts_with("room_"))).collect();
    let mut lives: Vec<(String, Vec<String>)> = Vec::new();
    for line in &lines {
        let id = line["workspace"].as_str().unwrap_or_default();
        let of = line["conversation"].as_str();
        let whose = names.iter().find(|(_, conversation)| Some(conversation.id.as_str()) == of);
        let tenant = whose.map(|(_, conversation)| conversation.tenant.as_str());
        check_eq(format!("tenant of {line}"), line["tenant"].as_str(), tenant)?;
        let words = [line["event"].as_str(), whose.map(|(name, _)| *name).or(of), line["reason"].as_str()];
        let step = words.into_iter().flatten().collect::<Vec<_>>().join(" ");
        match lives.iter_mut().find(|(known, _)| known == id) {
            Some((_, life)) => life.push(step),
            None => lives.push((id.to_owned(), vec![step])),
        }
    }
    let mut lives: Vec<String> = lives.into_iter().map(|(_, life)| life.join(", ")).collect();
    lives.sort();
    let mut expected = vec![
        "room_created one, room_destroyed one paused",
        "room_created other, room_destroyed other dead",
        "room_created one, room_destroyed one idle",
        "room_created one, room_destroyed one operator",
        "room_created, room_assigned one, room_destroyed one deletion",
        "room_created, room_destroyed surplus",
    ];
    expected.sort_unstable();
    check_eq("what the trail says of each workspace's life", lives, expected)
}
