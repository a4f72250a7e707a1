//! Deployments as they are delivered: the server in a container, and by Compose. BUG-05, BUG-07, DEP.

use std::time::Duration;

use serde_json::{Value, json};

use super::durable;
use crate::client::http::Api;
use crate::context::Context;
use crate::failure::{Failure, check, check_eq};
use crate::poll::eventually;
use crate::scenario::{Capability, Profile, Scenario, Severity};
use crate::target::compose;
use crate::target::contained::{SOCKETS_INSIDE, image, user};
use crate::target::deployment::{Conversation, Deployment, READY_LIMIT};
use crate::target::engine::Room;
use crate::target::launch::Launch;

/// Where a wrong host path leads: nowhere.
const NOWHERE: &str = "/var/run/nagaya-conformance-nowhere";

const WITH_MODEL: &[Capability] =
    &[Capability::Launch, Capability::Docker, Capability::Image, Capability::Model, Capability::ServerImage];

const WITH_RESUME: &[Capability] = &[Capability::Launch, Capability::Docker, Capability::Image, Capability::Model, Capability::ServerImage, Capability::Resume];

/// What the scenarios here have in common.
const SCENARIO: Scenario = Scenario {
    id: "DEP",
    title: "",
    severity: Severity::Critical,
    requirement: "WORKSPACE_SOCKET_HOST_PATH names the host's path; works from inside a container",
    requires: &[Capability::Launch, Capability::Docker, Capability::Image, Capability::ServerImage],
    profile: Profile::Full,
    destructive: false,
    limit: Duration::from_secs(120),
    body: body!(wrong_host_path),
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        id: "BUG-05-COMPOSE",
        title: "the Compose file and the server's image have the same socket base path as the server",
        severity: Severity::High,
        requirement: "one default: /var/run/workspace-sockets, in code, Compose file, image and docs",
        requires: &[Capability::Launch, Capability::Docker, Capability::ServerImage, Capability::Compose],
        body: body!(one_default),
        ..SCENARIO
    },
    Scenario {
        id: "BUG-07",
        title: "a server in a container, not root, whose socket directories have another path on the host, serves a whole run",
        requires: WITH_MODEL,
        body: body!(in_container),
        ..SCENARIO
    },
    Scenario {
        id: "BUG-07-WRONG",
        title: "a wrong host path is known before anybody asks for a run, and the reason names its variable",
        ..SCENARIO
    },
    Scenario {
        id: "DEP-001",
        title: "Compose up: three health endpoints say 200, a run ends well; down leaves nothing",
        requirement: "Compose up → three health endpoints 200 → a run → down leaves nothing",
        requires: &[
            Capability::Launch,
            Capability::Docker,
            Capability::Image,
            Capability::ServerImage,
            Capability::Compose,
        ],
        body: body!(up_and_down),
        limit: Duration::from_secs(170),
        ..SCENARIO
    },
    Scenario {
        id: "DEP-002",
        title: "a server's container that is replaced by another loses no event of a run",
        requirement: "rolling restart loses no run's events",
        requires: WITH_RESUME,
        body: body!(replaced),
        ..SCENARIO
    },
    Scenario {
        id: "DEP-003",
        title: "of two servers in containers, replaced one after the other, one always answers, and no event of a run is lost",
        requirement: "rolling restart loses no run's events",
        requires: &[
            Capability::Launch,
            Capability::Docker,
            Capability::Image,
            Capability::Model,
            Capability::Redis,
            Capability::ServerImage,
            Capability::Resume,
        ],
        body: body!(rolling),
        ..SCENARIO
    },
];

/// The container that a launched server is in.
fn container(deployment: &Deployment) -> Result<Room, Failure> {
    let container = deployment.server()?.container.clone();
    container.ok_or_else(|| Failure::could_not_run("the server is not in a container"))
}

async fn in_container(context: &Context) -> Result<(), Failure> {
    let deployment = context.launch(Launch::new().in_container()).await?;
    let sockets = deployment.server()?.sockets.clone();
    // That it is as said: the same directory under two names, locked, and not root.
    let server = container(&deployment)?.inspect_json().await?;
    let mounts = server["Mounts"].as_array().cloned().unwrap_or_default();
    let mount = mounts.iter().find(|mount| mount["Destination"] == SOCKETS_INSIDE);
    check_eq("source of the sockets", mount.and_then(|mount| mount["Source"].as_str()), sockets.to_str())?;
    check_eq("user", server["Config"]["User"].as_str(), Some(format!("{0}:{0}", user()).as_str()))?;
    check_eq("read-only root", server["HostConfig"]["ReadonlyRootfs"].as_bool(), Some(true))?;

    let conversation = deployment.conversation(context).await?;
    let prompt = "@tool Bash {\"command\": \"id -u > uid.txt; cat uid.txt\", \"description\": \"Who\"}\n@say done";
    let events = deployment.run_well(&conversation, prompt).await?;
    let told: String = events.iter().filter(|event| event.name == "tool_result").map(|event| event.data.to_string()).collect();
    check(told.contains(&user().to_string()), format!("the room's user is another: {told}"))?;
    let room = deployment.only_room().await?;
    let dir = room.socket_dir().await?;
    check_eq("parent of the room's directory on the host", dir.parent(), Some(sockets.as_path()))?;
    // What Docker's own health check sees is what the server says of itself.
    eventually(READY_LIMIT, "healthy, by the image's own check", async || {
        let asked = container(&deployment)?.exec(["nagaya", "health"]).await?;
        check_eq(format!("status of nagaya health: {}", asked.printed), asked.status, 0)
    })
    .await?;
    deployment.api.delete(&conversation.path("")).await?.expect(204)?;
    eventually(READY_LIMIT, "no room and no directory of it", async || {
        check_eq("rooms", deployment.all_rooms().await?.len(), 0)?;
        check(!dir.exists(), format!("{} is still there", dir.display()))
    })
    .await
}

async fn wrong_host_path(context: &Context) -> Result<(), Failure> {
    check(!std::path::Path::new(NOWHERE).exists(), format!("{NOWHERE} exists: nothing can be shown with it"))?;
    // Named wrongly, and forgotten: then the server looks for the host's directory where its own is.
    for wrong in [NOWHERE, SOCKETS_INSIDE] {
        let launch = Launch::new().in_container().without_model().not_waiting();
        let launch = launch.set("WORKSPACE_SOCKET_HOST_PATH", wrong).set("SHUTDOWN_TIMEOUT", 1);
        let deployment = context.launch(launch).await?;
        let reason = eventually(READY_LIMIT, "a reason in /health/ready that tells of a try", async || {
            let reply = deployment.api.get("/health/ready").await?;
            reply.expect_error(503, "SERVICE_UNAVAILABLE")?;
            let text = reply.text();
            check(text.contains("does not have") || text.contains("did not answer"), &text)?;
            Ok::<_, Failure>(text)
        })
        .await?;
        check(reason.contains("WORKSPACE_SOCKET_HOST_PATH"), format!("the reason does not name the variable: {reason}"))?;
        let asked = container(&deployment)?.exec(["nagaya", "health"]).await?;
        check(asked.status != 0 && asked.printed.contains("WORKSPACE_SOCKET_HOST_PATH"), format!("nagaya health: {asked:?}"))?;
        deployment.api.get("/health/live").await?.expect(200)?;
        let health = deployment.api.get("/health").await?.expect(200)?.json()?;
        check_eq("status in /health", health["status"].as_str(), Some("degraded"))?;
        deployment.stop().await?;
        check_eq("rooms left", deployment.all_rooms().await?.len(), 0)?;
    }
    // The control: the same but for the path is ready, and has taken down the room it made to know.
    let deployment = context.launch(Launch::new().in_container().without_model()).await?;
    let made = deployment.server()?.log();
    check(made.contains("room ready"), "ready, and no room was made to prove the path")?;
    eventually(READY_LIMIT, "no room, with a pool of none", async || {
        check_eq("rooms", deployment.all_rooms().await?.len(), 0)
    })
    .await
}

async fn one_default(context: &Context) -> Result<(), Failure> {
    let rendered = context.compose_project()?.rendered().await?;
    let values = |name: &str| -> Vec<String> {
        let lines = rendered.lines().filter_map(|line| line.trim().strip_prefix(name)?.strip_prefix(": "));
        lines.map(|value| value.trim_matches('"').to_owned()).collect()
    };
    check_eq("base path in the Compose file", values("WORKSPACE_SOCKET_BASE_PATH"), vec![SOCKETS_INSIDE.to_owned()])?;
    let host = values("WORKSPACE_SOCKET_HOST_PATH").pop().unwrap_or_default();
    check(host.starts_with('/') && host != SOCKETS_INSIDE, format!("host path in the Compose file: {host:?}"))?;
    // In one form or the other: `source:target:mode`, or fields.
    let mounted = rendered.contains(&format!("{host}:{SOCKETS_INSIDE}"))
        || (values("source").contains(&host) && values("target").contains(&SOCKETS_INSIDE.to_owned()))
        || (values("- source").contains(&host) && values("target").contains(&SOCKETS_INSIDE.to_owned()));
    check(mounted, format!("{host} is not mounted at {SOCKETS_INSIDE}: {rendered}"))?;

    let config = context.engine()?.docker().inspect_image(&image()).await?.config.unwrap_or_default();
    let env = config.env.unwrap_or_default();
    check(env.iter().any(|entry| entry.starts_with("STATE_DIR=")), format!("the image sets nothing: {env:?}"))?;
    let other = env.iter().find(|entry| entry.contains("SOCKET") && !entry.ends_with(&format!("={SOCKETS_INSIDE}")));
    check(other.is_none(), format!("the image has another idea of where sockets are: {other:?}"))
}

async fn up_and_down(context: &Context) -> Result<(), Failure> {
    let project = context.compose_project()?;
    let up = project.script("up.sh", &[("PROFILES", "demo"), ("WARM_POOL_MIN_SIZE", "1"), ("CONTAINER_GRACE_PERIOD", "1")]).await?;
    let engine = context.engine()?.clone();
    let address = up.split_whitespace().find_map(|word| word.strip_prefix("http://")).unwrap_or_default().to_owned();
    check(address.starts_with("127.0.0.1:"), format!("up.sh does not say where it serves: {up}"))?;
    let secrets = std::fs::read_to_string(project.dir().join("env"))?;
    let secret = |name: &str| secrets.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default().to_owned();
    let key = secret("API_KEYS");
    for name in ["API_KEYS", "POSTGRES_PASSWORD", "REDIS_PASSWORD"] {
        context.secrets().add(&secret(name));
        check(!up.contains(&secret(name)), format!("up.sh printed {name}"))?;
    }
    let api = Api::new(&format!("http://{address}"), Some(&key), context.exchanges().clone())?;
    let deployment = Deployment { api, id: Some(project.name.clone()), engine: Some(engine.clone()), server: None, model: None };
    for path in ["/health", "/health/live", "/health/ready"] {
        deployment.api.get(path).await?.expect(200)?;
    }
    let health = deployment.api.get("/health").await?.expect(200)?.json()?;
    for component in ["database", "redis", "docker"] {
        check_eq(format!("{component}: {health}"), health["checks"][component]["status"].as_str(), Some("healthy"))?;
    }
    check(!health["checks"]["redis"]["message"].to_string().contains("not configured"), "Redis is not configured")?;
    let conversation = conversation(&deployment.api).await?;
    deployment.run_well(&conversation, "@tool Bash {\"command\": \"echo hello\", \"description\": \"Greet\"}\n@say said").await?;
    // What is to go: all of it is there now.
    let there = compose::parts(&engine, &project.name).await?;
    for kind in ["container", "network", "volume"] {
        check(there.iter().any(|(one, _)| *one == kind), format!("no {kind} among {there:?}"))?;
    }
    not_root(&engine, &there).await?;
    check(!deployment.all_rooms().await?.is_empty(), "no room is there")?;
    check(std::fs::read_dir(project.dir().join("sockets"))?.count() > 0, "no socket directory is there")?;

    project.script("down.sh", &[]).await?;
    check_eq("left of the project", compose::parts(&engine, &project.name).await?, Vec::new())?;
    check_eq("rooms left", deployment.all_rooms().await?.len(), 0)?;
    check(!project.dir().exists(), format!("{} is left", project.dir().display()))
}

/// A conversation that goes with its deployment: nobody has to delete it.
async fn conversation(api: &Api) -> Result<Conversation, Failure> {
    let model = json!({
        "model_id": "scripted", "display_name": "Scripted", "bedrock_model_id": "anthropic.claude-sonnet-4-20250514-v1:0",
        "context_window": 200_000, "max_output_tokens": 8192, "input_token_price": "0.003", "output_token_price": "0.015",
    });
    api.post("/api/models", &model).await?.expect(201)?;
    api.post("/api/tenants", &json!({"tenant_id": "t", "model_id": "scripted"})).await?.expect(201)?;
    let asked = json!({"user_id": "conformance"});
    let created = api.post("/api/tenants/t/conversations", &asked).await?.expect(201)?.json()?;
    let id = created["conversation_id"].as_str().unwrap_or_default().to_owned();
    Ok(Conversation { tenant: "t".to_owned(), model: "scripted".to_owned(), id, created })
}

/// No container of the project runs as root, or has a writable root or any capability.
async fn not_root(engine: &crate::target::engine::Engine, parts: &[(&'static str, String)]) -> Result<(), Failure> {
    for (_, id) in parts.iter().filter(|(kind, _)| *kind == "container") {
        let container: Value = engine.container(id).inspect_json().await?;
        let name = &container["Name"];
        let user = container["Config"]["User"].as_str().unwrap_or_default();
        check(!["", "0", "root"].contains(&user) && !user.starts_with("0:"), format!("{name} runs as {user:?}"))?;
        check_eq(format!("read-only root of {name}"), container["HostConfig"]["ReadonlyRootfs"].as_bool(), Some(true))?;
        check_eq(format!("dropped by {name}"), container["HostConfig"]["CapDrop"].to_string().as_str(), "[\"ALL\"]")?;
    }
    Ok(())
}

async fn replaced(context: &Context) -> Result<(), Failure> {
    let launch = Launch::new().in_container().set("SHUTDOWN_WORKSPACES", "keep").set("SHUTDOWN_TIMEOUT", 1);
    let mut deployment = context.launch(launch).await?;
    let conversation = deployment.conversation(context).await?;
    let seen = durable::waiting(&deployment, &conversation).await?;
    let room = deployment.only_room().await?;
    let before = container(&deployment)?.inspect().await?.id;
    deployment.stop().await?;
    room.shell("touch /workspace/go").await?;
    deployment.start_again(context).await?;
    check(before != container(&deployment)?.inspect().await?.id, "the container is the one that was stopped")?;
    let done = durable::whole(&deployment, &conversation, seen).await?;
    durable::well(&deployment, &conversation, &done).await?;
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
    let seen = durable::waiting(&first, &runs).await?;
    let room = first.only_room().await?;

    first.stop().await?;
    second.run_well(&talks, "@say by the second").await.map_err(|failure| failure.during("while the first is away"))?;
    first.start_again(context).await?;
    second.stop().await?;
    // The room of a conversation that the other served is found, whoever made it.
    first.run_well(&talks, "@say by the first").await.map_err(|failure| failure.during("while the second is away"))?;
    second.start_again(context).await?;
    room.shell("touch /workspace/go").await?;
    let done = durable::whole(&first, &runs, seen).await?;
    durable::well(&first, &runs, &done).await?;
    // The room with which the second has just proven its path may still be on its way out.
    eventually(READY_LIMIT, "two rooms of two conversations", async || {
        check_eq("running rooms", first.rooms().await?.len(), 2)
    })
    .await?;
    for conversation in [&runs, &talks] {
        first.api.delete(&conversation.path("")).await?.expect(204)?;
    }
    eventually(READY_LIMIT, "no room left", async || check_eq("rooms", first.all_rooms().await?.len(), 0)).await
}
