//! What the operator sees of the workspaces: the list, the counts in `/health`, the metrics and the engine, at each moment of their lives.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::target::deployment::{Conversation, Deployment};
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "HLTH-008",
    "The list of workspaces, /health, metrics and the engine agree, waiting, running, idle and gone",
    "GET /api/admin/workspaces: id, container, state, whose it is; active_containers, warm_pool_size, proxies",
    body!(agree),
)
.severity(Severity::High)
.profile(Profile::Full)
.requires(&[Capability::Launch, Capability::Docker, Capability::Image, Capability::Model, Capability::Admin])
.limit(90)];

/// How long a change may take until it shows everywhere.
const SHOWN_LIMIT: Duration = Duration::from_secs(20);

/// Waits until everything shows just these workspaces, each with its state and whose it is.
async fn shows(deployment: &Deployment, when: &str, expected: &[(&str, Option<&Conversation>)]) -> Result<(), Failure> {
    let api = &deployment.api;
    let version = api.get("/").await?.expect(200)?.json()?["version"].clone();
    eventually(SHOWN_LIMIT, format!("the workspaces {when}"), async || {
        let list = api.get("/api/admin/workspaces").await?.expect(200)?.json()?;
        let list = list.as_array().cloned().unwrap_or_default();
        let mut shown = Vec::new();
        for one in &list {
            let mut fields = one.clone();
            let of = fields.as_object_mut().ok_or_else(|| Failure::assertion("a workspace that is no object"))?;
            let made = of.remove("created_at").and_then(|made| made.as_str()?.parse::<jiff::Timestamp>().ok());
            check(made.is_some(), format!("created_at of {one}"))?;
            let idle = of.remove("idle_seconds").and_then(|idle| idle.as_u64());
            check(idle.is_some_and(|idle| idle < 60), format!("idle_seconds of {one}"))?;
            let (id, container) = (of.remove("workspace_id"), of.remove("container"));
            check(id.is_some_and(|id| id.is_string()) && container.is_some_and(|name| name.is_string()), one)?;
            shown.push(fields);
        }
        let expected: Vec<Value> = expected
            .iter()
            .map(|(state, of)| {
                json!({"state": state, "conversation_id": of.map(|of| &of.id), "tenant_id": of.map(|of| &of.tenant)})
            })
            .collect();
        let sorted = |mut all: Vec<Value>| {
            all.sort_by_key(ToString::to_string);
            all
        };
        check_eq(format!("the list {when}"), sorted(shown), sorted(expected.clone()))?;
        let created = |one: &Value| one["created_at"].as_str().unwrap_or_default().to_owned();
        check(list.is_sorted_by_key(created), format!("the order of the list {when}: {list:?}"))?;
        let rooms = deployment.all_rooms().await?;
        let in_engine: BTreeSet<String> = rooms.iter().filter_map(|room| room.workspace.clone()).collect();
        let ids = list.iter().map(|one| one["workspace_id"].as_str().unwrap_or_default().to_owned());
        check_eq(format!("workspaces of the engine {when}"), in_engine, ids.collect::<BTreeSet<_>>())?;
        let waiting = expected.iter().filter(|one| one["state"] == "pooled").count();
        let health = api.get("/health").await?.expect(200)?.json()?;
        let counts = json!({"active_containers": expected.len(), "warm_pool_size": waiting, "message": "ok"});
        check_eq(format!("container_system {when}"), &health["container_system"], &counts)?;
        let whole = (&health["status"], &health["version"], &health["environment"]);
        check_eq(format!("/health {when}"), whole, (&json!("healthy"), &version, &json!("development")))?;
        let page = api.metrics().await?;
        for (name, count) in [
            ("workspace_active_containers", expected.len()),
            ("workspace_warm_pool_size", waiting),
            ("workspace_proxies", expected.len()),
        ] {
            #[allow(clippy::cast_precision_loss, reason = "a handful of workspaces")]
            let count = count as f64;
            check_eq(format!("{name} {when}"), page.sum(name), Some(count))?;
        }
        Ok::<_, Failure>(())
    })
    .await
}

async fn agree(context: &Context) -> Result<(), Failure> {
    let launch = Launch::new().set("WARM_POOL_MIN_SIZE", 1).set("WARM_POOL_MAX_SIZE", 1);
    let mut deployment = context.launch(launch.set("SHUTDOWN_WORKSPACES", "keep")).await?;
    shows(&deployment, "at first", &[("pooled", None)]).await?;
    let one = deployment.conversation(context).await?;
    let other = deployment.conversation(context).await?;
    let wait = "@tool Bash {\"command\": \"tail -f /dev/null\", \"description\": \"Wait\"}\n@say never";
    let mut run = deployment.start(&one, wait).await?;
    run.until("tool_call").await?;
    shows(&deployment, "during a run", &[("running", Some(&one)), ("pooled", None)]).await?;
    deployment.run_well(&other, "@say Hello.").await?;
    let both = [("running", Some(&one)), ("idle", Some(&other)), ("pooled", None)];
    shows(&deployment, "during a run and after another", &both).await?;
    deployment.api.post(&one.path("/cancel"), &json!({})).await?.expect(202)?;
    run.finish().await?;
    let both = [("idle", Some(&one)), ("idle", Some(&other)), ("pooled", None)];
    shows(&deployment, "after both runs", &both).await?;
    deployment.stop().await?;
    deployment.restart(context).await?;
    shows(&deployment, "after a restart", &both).await?;
    deployment.api.delete(&one.path("")).await?.expect(204)?;
    shows(&deployment, "after a deletion", &[("idle", Some(&other)), ("pooled", None)]).await?;
    let size = json!({"min_size": 0, "max_size": 0});
    deployment.api.put("/api/admin/pool", &size).await?.expect(200)?;
    shows(&deployment, "without a pool", &[("idle", Some(&other))]).await?;
    deployment.api.delete(&other.path("/workspace")).await?.expect(204)?;
    shows(&deployment, "in the end", &[]).await
}
