//! A server that is killed at random moments.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::leftovers::{Descriptors, bound_below};
use crate::scenarios::common::limits::HEALED_LIMIT;
use crate::target::deployment::{Conversation, Deployment};
use crate::target::launch::Launch;

const NEEDS_ADMIN: &[Capability] =
    &[Capability::Launch, Capability::Docker, Capability::Image, Capability::Model, Capability::Admin];
/// How often the server is killed; `make chaos` repeats the scenario with other seeds.
const ROUNDS: usize = 5;
/// The latest moment of a kill, in milliseconds after the work has begun; some of the work is done by then.
const LATEST_KILL_MS: u64 = 2_500;
/// How many conversations are active when the server is killed.
const CONVERSATIONS: usize = 3;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "CHAOS-001",
    "A server killed at random moments of a random workload leaves nothing behind and no conversation stuck",
    "after kill -9 at any moment, nothing leaks and nothing is lost",
    body!(kill_nine),
)
.severity(Severity::Critical)
.profile(Profile::Full)
.requires(NEEDS_ADMIN)
.limit(150)];

async fn kill_nine(context: &Context) -> Result<(), Failure> {
    let mut rng = SmallRng::seed_from_u64(context.seed);
    context.note(format!("seed {}", context.seed));
    let launch =
        Launch::new().set("SHUTDOWN_WORKSPACES", "keep").set("WARM_POOL_MIN_SIZE", 1).set("CONTAINER_GC_INTERVAL", 1);
    let mut deployment = context.launch(launch).await?;
    let first = deployment.conversation(context).await?;
    let (tenant, model) = (first.tenant.clone(), first.model.clone());
    let mut conversations = vec![first];
    while conversations.len() < CONVERSATIONS {
        conversations.push(deployment.another_conversation(context, &tenant, &model).await?);
    }
    let mut seen = 0;
    for round in 1..=ROUNDS {
        let doomed = rng.random_bool(0.4).then(|| rng.random_range(0..conversations.len()));
        let moment = Duration::from_millis(rng.random_range(0..LATEST_KILL_MS));
        let what = format!("round {round}, killed after {moment:?}, deleting {doomed:?} (seed {})", context.seed);
        context.note(&what);
        // Its result does not matter: it is there to be interrupted.
        let _ = tokio::time::timeout(moment, workload(&deployment, &conversations, doomed)).await;
        seen += deployment.all_rooms().await?.len();
        deployment.kill().await?;
        deployment.restart(context).await.map_err(|failure| failure.during(&what))?;
        if let Some(doomed) = doomed {
            delete(&deployment, &conversations.swap_remove(doomed)).await?;
            conversations.push(deployment.another_conversation(context, &tenant, &model).await?);
        }
        let again = conversations.iter().map(|conversation| works(&deployment, conversation));
        futures::future::try_join_all(again).await.map_err(|failure| failure.during(&what))?;
    }
    check(seen > 0, "no workspace existed when the server was killed: nothing was checked")?;
    for conversation in &conversations {
        delete(&deployment, conversation).await?;
    }
    deployment.api.put("/api/admin/pool", &json!({"min_size": 0, "max_size": 0})).await?.expect(200)?;
    nothing_left(&deployment).await?;
    // The file descriptors of a fresh server are the baseline.
    let after = Descriptors::of(deployment.server()?);
    deployment.stop().await?;
    deployment.server.as_mut().map(|server| server.program.env.insert("WARM_POOL_MIN_SIZE".into(), "0".into()));
    deployment.restart(context).await?;
    let more = after.others_beyond(&Descriptors::of(deployment.server()?));
    check(more.is_empty(), format!("descriptors that a fresh server does not have: {}", more.join(", ")))?;
    nothing_left(&deployment).await
}

/// Runs in all conversations, a deletion and a garbage collection at the same time.
async fn workload(deployment: &Deployment, conversations: &[Conversation], doomed: Option<usize>) {
    let prompt =
        "@tool Bash {\"command\": \"sleep 0.3; echo on >> /workspace/f\", \"description\": \"Work\"}\n@say worked";
    let runs = futures::future::join_all(conversations.iter().map(|conversation| deployment.run(conversation, prompt)));
    let deletion = async {
        if let Some(doomed) = doomed {
            let _ = deployment.api.delete(&conversations[doomed].path("")).await;
        }
    };
    let empty = json!({});
    let _ = tokio::join!(runs, deletion, deployment.api.post("/api/admin/gc", &empty));
}

/// Checks that a conversation accepts a run that succeeds. A process that still runs in its workspace may cost it the workspace first.
async fn works(deployment: &Deployment, conversation: &Conversation) -> Result<(), Failure> {
    eventually(HEALED_LIMIT, format!("a run in {} that ends well", conversation.id), async || {
        deployment.run_well(conversation, "@say alive").await.map_err(|failure| failure.to_string())
    })
    .await
    .map(|_| ())
}

/// Deletes a conversation whose deletion may have been cut off before.
async fn delete(deployment: &Deployment, conversation: &Conversation) -> Result<(), Failure> {
    let reply = deployment.api.delete(&conversation.path("")).await?;
    let gone = matches!(reply.status.as_u16(), 204 | 404);
    check(gone, format!("DELETE of a conversation answered {} {}", reply.status, reply.text()))
}

async fn nothing_left(deployment: &Deployment) -> Result<(), Failure> {
    let sockets = &deployment.server()?.sockets;
    eventually(HEALED_LIMIT, "no container, directory, socket, workspace or proxy", async || {
        let describe = |failure: Failure| failure.to_string();
        let rooms = deployment.all_rooms().await.map_err(describe)?.len();
        let directories = std::fs::read_dir(sockets).map_err(|error| error.to_string())?.count();
        let bound = bound_below(sockets).len();
        let known = deployment.api.get("/api/admin/workspaces").await.and_then(|reply| reply.json()).map_err(describe)?;
        let known = known.as_array().map_or(usize::MAX, Vec::len);
        let page = deployment.api.metrics().await.map_err(describe)?;
        let proxies = page.sum("workspace_proxies").unwrap_or(-1.0);
        let gauge = page.sum("workspace_active_containers").unwrap_or(-1.0);
        let clean = (rooms, directories, bound, known) == (0, 0, 0, 0) && proxies == 0.0 && gauge == 0.0;
        let seen = format!(
            "{rooms} containers (gauge {gauge}), {directories} directories, {bound} sockets, {known} workspaces, {proxies} proxies"
        );
        if clean { Ok(()) } else { Err(seen) }
    })
    .await
}
