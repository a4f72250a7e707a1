//! Things that break at the wrong moment: CHAOS.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;

use super::release::{bound_below, Descriptors};
use crate::context::Context;
use crate::failure::{Failure, check, check_eq};
use crate::poll::eventually;
use crate::scenario::{Capability, Profile, Scenario, Severity};
use crate::target::deployment::{Conversation, Deployment};
use crate::target::launch::Launch;

const NEEDS: &[Capability] = &[Capability::Launch, Capability::Docker, Capability::Image, Capability::Model];
const NEEDS_ADMIN: &[Capability] = &[
    Capability::Launch,
    Capability::Docker,
    Capability::Image,
    Capability::Model,
    Capability::Admin,
];
/// How often the server is killed; `make chaos` repeats the scenario with other seeds.
const ROUNDS: usize = 5;
/// How many conversations have work going on when it is.
const CONVERSATIONS: usize = 3;
/// The kill comes at most so long after the work has begun: by then some of it is over.
const LATEST_KILL_MS: u64 = 2_500;
/// How long everything may take to be as it should be again.
const HEALED_LIMIT: Duration = Duration::from_secs(30);

/// How long `/health` may take while a component does not answer; a load balancer gives up sooner or later.
const HEALTH_LIMIT: Duration = Duration::from_secs(10);

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        id: "CHAOS-001",
        title: "a server killed at random moments of a random workload leaves nothing behind and no conversation stuck",
        severity: Severity::Critical,
        requirement: "after kill -9 at any moment, nothing leaks and nothing is lost",
        requires: NEEDS_ADMIN,
        profile: Profile::Full,
        destructive: false,
        limit: Duration::from_secs(150),
        body: body!(kill_nine),
    },
    Scenario {
        id: "CHAOS-002",
        title: "a room killed in the middle of a run ends that run with an error, and the next one works",
        severity: Severity::High,
        requirement: "room killed mid-run → error + container_recovered + done/error, next run works",
        requires: NEEDS,
        profile: Profile::Full,
        destructive: false,
        limit: Duration::from_secs(90),
        body: body!(room_killed),
    },
    Scenario {
        id: "CHAOS-003",
        title: "an engine that accepts and never answers degrades the server for as long as it does, and no longer",
        severity: Severity::High,
        requirement: "/health is never 5xx; docker critical; what is unavailable is answered 503 with Retry-After",
        requires: NEEDS,
        profile: Profile::Full,
        destructive: false,
        limit: Duration::from_secs(90),
        body: body!(engine_hangs),
    },
];

async fn kill_nine(context: &Context) -> Result<(), Failure> {
    let mut rng = SmallRng::seed_from_u64(context.seed);
    context.note(format!("seed {}", context.seed));
    let launch = Launch::new().set("SHUTDOWN_WORKSPACES", "keep").set("WARM_POOL_MIN_SIZE", 1).set("CONTAINER_GC_INTERVAL", 1);
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
        // Its end, good or bad, is not looked at: it is there to be interrupted.
        let _ = tokio::time::timeout(moment, workload(&deployment, &conversations, doomed)).await;
        seen += deployment.all_rooms().await?.len();
        deployment.kill().await?;
        deployment.start_again(context).await.map_err(|failure| failure.during(&what))?;
        if let Some(doomed) = doomed {
            delete(&deployment, &conversations.swap_remove(doomed)).await?;
            conversations.push(deployment.another_conversation(context, &tenant, &model).await?);
        }
        let again = conversations.iter().map(|conversation| works(&deployment, conversation));
        futures::future::try_join_all(again).await.map_err(|failure| failure.during(&what))?;
    }
    check(seen > 0, "no room was ever there when the server was killed: nothing was looked at")?;
    for conversation in &conversations {
        delete(&deployment, conversation).await?;
    }
    deployment.api.put("/api/admin/pool", &json!({"min_size": 0, "max_size": 0})).await?.expect(200)?;
    nothing_left(&deployment).await?;
    // What a fresh server holds is what one that has lived through all this may hold.
    let after = Descriptors::of(deployment.server()?);
    deployment.stop().await?;
    deployment.server.as_mut().map(|server| server.program.env.insert("WARM_POOL_MIN_SIZE".into(), "0".into()));
    deployment.start_again(context).await?;
    let more = after.others_beyond(&Descriptors::of(deployment.server()?));
    check(more.is_empty(), format!("descriptors that a fresh server does not have: {}", more.join(", ")))?;
    nothing_left(&deployment).await
}

/// Runs in all conversations, a deletion, a collection: all at once.
async fn workload(deployment: &Deployment, conversations: &[Conversation], doomed: Option<usize>) {
    let prompt = "@tool Bash {\"command\": \"sleep 0.3; echo on >> /workspace/f\", \"description\": \"Work\"}\n@say worked";
    let runs = futures::future::join_all(conversations.iter().map(|conversation| deployment.run(conversation, prompt)));
    let deletion = async {
        if let Some(doomed) = doomed {
            let _ = deployment.api.delete(&conversations[doomed].path("")).await;
        }
    };
    let empty = json!({});
    let _ = tokio::join!(runs, deletion, deployment.api.post("/api/admin/gc", &empty));
}

/// A conversation takes a run that ends well. What was still running in its room may cost it that room first.
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
    eventually(HEALED_LIMIT, "no container, directory, socket, room or proxy", async || {
        let told = |failure: Failure| failure.to_string();
        let rooms = deployment.all_rooms().await.map_err(told)?.len();
        let directories = std::fs::read_dir(sockets).map_err(|error| error.to_string())?.count();
        let bound = bound_below(sockets).len();
        let known = deployment.api.get("/api/admin/workspaces").await.and_then(|reply| reply.json()).map_err(told)?;
        let known = known.as_array().map_or(usize::MAX, Vec::len);
        let page = deployment.api.metrics().await.map_err(told)?;
        let proxies = page.sum("workspace_proxies").unwrap_or(-1.0);
        let gauge = page.sum("workspace_active_containers").unwrap_or(-1.0);
        let clean = (rooms, directories, bound, known) == (0, 0, 0, 0) && proxies == 0.0 && gauge == 0.0;
        let seen = format!(
            "{rooms} containers (gauge {gauge}), {directories} directories, {bound} sockets, {known} rooms, {proxies} proxies"
        );
        if clean { Ok(()) } else { Err(seen) }
    })
    .await
}

async fn room_killed(context: &Context) -> Result<(), Failure> {
    let deployment = context.launch(Launch::new()).await?;
    let conversation = deployment.conversation(context).await?;
    let prompt = "@tool Bash {\"command\": \"tail -f /dev/null\", \"description\": \"Wait\"}\n@say never said";
    let mut stream = deployment.start(&conversation, prompt).await?;
    stream.until("tool_call").await?;
    let room = deployment.only_room().await?;
    room.kill("SIGKILL").await?;
    let events = stream.finish().await?;
    let names: Vec<&str> = events.iter().map(|event| event.name.as_str()).collect();
    let place = |name: &str| names.iter().position(|other| *other == name);
    let (error, recovered) = (place("error"), place("container_recovered"));
    check(error.is_some() && recovered > error, format!("no error and then container_recovered among: {names:?}"))?;
    let done = events.last().map(|done| done.data.clone()).unwrap_or_default();
    check_eq(format!("status in done: {done}"), done["status"].as_str(), Some("error"))?;
    let new = deployment.only_room().await?;
    check(new.id != room.id, "the room that was killed is the only one")?;
    check_eq("workspace_container_crashes_total", deployment.api.metrics().await?.sum("workspace_container_crashes_total"), Some(1.0))?;
    deployment.run_well(&conversation, "@say alive again").await?;
    check_eq("the room of the next run", &deployment.only_room().await?.id, &new.id)
}

async fn engine_hangs(context: &Context) -> Result<(), Failure> {
    let path = context.socket_dir()?.join("docker.sock");
    let relay = crate::target::relay::Relay::unix(&path, context.engine()?.socket())?;
    let deployment = context.launch(Launch::new().set("DOCKER_SOCKET_PATH", path.display())).await?;
    let conversation = deployment.conversation(context).await?;
    deployment.run_well(&conversation, "@say before").await?;
    let other = deployment.another_conversation(context, &conversation.tenant, &conversation.model).await?;
    relay.stop().await?;
    // Connections are taken by the kernel; nobody reads from them.
    let silent = tokio::net::UnixListener::bind(&path)?;

    let status = async || {
        let asked = tokio::time::timeout(HEALTH_LIMIT, deployment.api.get("/health")).await;
        let health = asked.map_err(|_| Failure::assertion(format!("no answer of /health in {HEALTH_LIMIT:?}")))??;
        let health = health.expect(200)?.json()?;
        Ok::<_, Failure>(health["checks"]["docker"]["status"].as_str().unwrap_or_default().to_owned())
    };
    check_eq("docker in /health while it hangs", status().await?.as_str(), "unhealthy")?;
    deployment.api.get("/health/live").await?.expect(200)?;
    deployment.api.get("/health/ready").await?.expect_error(503, "SERVICE_UNAVAILABLE")?;
    deployment.api.metrics().await?;
    let refused = deployment.api.post(&other.path("/stream"), &json!({"user_input": "@say no room"})).await?;
    refused.expect_error(503, "SERVICE_UNAVAILABLE")?;
    check(refused.header("retry-after").is_some(), "503 without Retry-After")?;
    // A room that is there needs no engine.
    deployment.run_well(&conversation, "@say meanwhile").await?;

    drop(silent);
    std::fs::remove_file(&path)?;
    let relay = crate::target::relay::Relay::unix(&path, context.engine()?.socket())?;
    deployment.ready(HEALED_LIMIT).await?;
    deployment.run_well(&other, "@say after").await?;
    deployment.stop().await?;
    relay.stop().await
}
