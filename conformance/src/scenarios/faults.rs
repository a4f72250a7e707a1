//! What befalls the machine under a deployment: its engine ends and starts again, its disk is full. CHAOS.

use std::time::Duration;

use serde_json::json;

use super::recovery::{ended_badly, endless};
use crate::client::form::Form;
use crate::context::Context;
use crate::failure::{Failure, check, check_eq};
use crate::poll::eventually;
use crate::scenario::{Capability, Profile, Scenario, Severity};
use crate::target::deployment::{Conversation, Deployment};
use crate::target::launch::Launch;

/// How long everything may take to be as it should be again.
const HEALED_LIMIT: Duration = Duration::from_secs(30);

/// How much the state directory of a deployment may take whose disk is going to be full.
const STATE_MIB: u32 = 32;
/// How many conversations are made, at most, until one is refused: what a database has written before it can write over.
const UNTIL_REFUSED: usize = 3_000;

/// What the scenarios here have in common.
const SCENARIO: Scenario = Scenario {
    id: "CHAOS",
    title: "",
    severity: Severity::High,
    requirement: "",
    requires: &[
        Capability::Launch,
        Capability::Docker,
        Capability::Image,
        Capability::Model,
        Capability::Mount,
        Capability::OwnEngine,
    ],
    profile: Profile::Full,
    destructive: false,
    limit: Duration::from_secs(180),
    body: body!(engine_restarted),
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        id: "CHAOS-008",
        title: "an engine that is restarted, or loses its power, in the middle of a run: the run ends with an error, and all heals",
        requirement: "Docker daemon restarted: degrades and heals without a restart of the server; nothing is left over",
        ..SCENARIO
    },
    Scenario {
        id: "DEP-004",
        title: "on an engine with userns-remap, rooms work and nothing of them is left",
        requirement: "userns-remap: what is to be set, and that it works",
        body: body!(numbers_are_remapped),
        ..SCENARIO
    },
    Scenario {
        id: "CHAOS-009",
        title: "a full state directory is told, costs the run that was going on and no other, and heals once there is room",
        requirement: "disk full: degrades and heals without a restart; 503 with Retry-After for what cannot be kept; nothing is lost",
        requires: &[Capability::Launch, Capability::Docker, Capability::Image, Capability::Model, Capability::Mount],
        limit: Duration::from_secs(120),
        body: body!(disk_full),
        ..SCENARIO
    },
];

async fn engine_restarted(context: &Context) -> Result<(), Failure> {
    let (own, engine) = context.own_engine().await?;
    let launch = Launch::new().on(&engine).set("CONTAINER_GC_INTERVAL", 1).set("WARM_POOL_MIN_SIZE", 1).set("WARM_POOL_MAX_SIZE", 1);
    let deployment = context.launch(launch).await?;
    let conversation = deployment.conversation(context).await?;
    for what in ["restarted", "without power"] {
        let told = |failure: Failure| failure.during(format!("an engine that is {what}"));
        deployment.metric("workspace_warm_pool_size", |waiting| waiting == 1.0, HEALED_LIMIT).await.map_err(told)?;
        let stream = endless(&deployment, &conversation).await.map_err(told)?;
        let before = deployment.rooms().await?;
        if what == "restarted" { own.stop().await? } else { own.cut_off().await? }
        let events = stream.finish().await.map_err(told)?;
        let done = ended_badly(&events).map_err(told)?;
        check(done["errors"].as_array().is_some_and(|errors| !errors.is_empty()), format!("done names no error: {done}"))?;
        deployment.api.get("/health/live").await?.expect(200)?;
        deployment.api.get("/health/ready").await?.expect_error(503, "SERVICE_UNAVAILABLE")?;

        own.start_again().await?;
        deployment.ready(HEALED_LIMIT).await.map_err(told)?;
        deployment.run_well(&conversation, "@say after").await.map_err(told)?;
        two_rooms(&deployment).await.map_err(told)?;
        for room in &before {
            check_eq(format!("whether room {} of before runs", room.id), room.is_running().await?, false)?;
        }
    }
    deployment.stop().await?;
    check_eq("containers left", deployment.all_rooms().await?.len(), 0)
}

async fn numbers_are_remapped(context: &Context) -> Result<(), Failure> {
    let (_own, engine) = context.remapping_engine().await?;
    check(engine.remaps().await?, "the engine does not remap")?;
    let deployment = context.launch(Launch::new().on(&engine)).await?;
    let conversation = deployment.conversation(context).await?;
    let tool = json!({"command": "id -u; touch /workspace/mine && echo made", "description": "Look"});
    let events = deployment.run_well(&conversation, &format!("@tool Bash {tool}\n@say done")).await?;
    let seen: String = events.iter().filter(|event| event.name == "tool_result").map(|event| event.text("content").to_owned()).collect();
    check(seen.contains("1000") && seen.contains("made"), format!("what the room says: {seen}"))?;
    super::security::check_locked(&deployment, &deployment.only_room().await?).await?;
    deployment.api.delete(&conversation.path("")).await?.expect(204)?;
    check_eq("directories", std::fs::read_dir(&deployment.server()?.sockets)?.count(), 0)?;
    deployment.stop().await
}

/// The conversation's room and one that waits: nothing else, neither container nor directory, and the gauge says the same.
async fn two_rooms(deployment: &Deployment) -> Result<(), Failure> {
    let sockets = &deployment.server()?.sockets;
    eventually(HEALED_LIMIT, "two rooms, and nothing of those before", async || {
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

async fn disk_full(context: &Context) -> Result<(), Failure> {
    let deployment = context.launch(Launch::new().state_of(STATE_MIB).set("CONTAINER_GC_INTERVAL", 1)).await?;
    let server = deployment.server()?;
    let conversation = deployment.conversation(context).await?;
    let other = deployment.another_conversation(context, &conversation.tenant, &conversation.model).await?;
    deployment.run_well(&conversation, "@say before").await?;
    let room = deployment.only_room().await?;

    // The run waits for a file, and then has much to tell.
    let command = "until [ -e /tmp/go ]; do sleep 0.1; done; seq 1 4000";
    let tool = json!({"command": command, "description": "Wait"});
    let mut stream = deployment.start(&conversation, &format!("@tool Bash {tool}\n@say never said")).await?;
    stream.until("tool_call").await?;
    server.fill_state()?;
    let told = while_full(&deployment, &conversation, &other).await;
    let go = room.shell("touch /tmp/go").await?;
    check_eq(format!("status of touch in the room ({})", go.printed), go.status, 0)?;
    let events = stream.finish().await?;
    ended_badly(&events)?;
    told?;
    server.empty_state()?;

    deployment.ready(HEALED_LIMIT).await?;
    for conversation in [&conversation, &other] {
        eventually(HEALED_LIMIT, format!("a run in {} that ends well", conversation.id), async || {
            deployment.run_well(conversation, "@say after").await
        })
        .await?;
    }
    // What the run said before its end is in the conversation's history, although the disk had no room for it then.
    let messages = deployment.api.get(&conversation.path("/messages")).await?.expect(200)?.json()?;
    let kinds: Vec<&str> = messages.as_array().into_iter().flatten().filter_map(|m| m["message_type"].as_str()).collect();
    let place = |kind: &str| kinds.iter().position(|other| *other == kind);
    check(place("tool_call") < place("error") && place("tool_call").is_some(), format!("messages: {kinds:?}"))?;
    check_eq("runs of the conversation that are among its messages", kinds.iter().filter(|kind| **kind == "done").count(), 3)?;
    eventually(HEALED_LIMIT, "two containers, two directories", async || {
        let (containers, directories) = (deployment.all_rooms().await?.len(), std::fs::read_dir(&server.sockets)?.count());
        check((containers, directories) == (2, 2), format!("{containers} containers, {directories} directories"))
    })
    .await
}

/// What a deployment says whose state directory is full.
async fn while_full(deployment: &Deployment, busy: &Conversation, other: &Conversation) -> Result<(), Failure> {
    let api = &deployment.api;
    api.get("/health/live").await?.expect(200)?;
    api.get("/health/ready").await?.expect_error(503, "SERVICE_UNAVAILABLE")?;
    let health = api.get("/health").await?.expect(200)?.json()?;
    check_eq(format!("status in /health: {health}"), health["status"].as_str(), Some("unhealthy"))?;
    check(health["checks"]["database"]["message"].to_string().contains("STATE_DIR"), format!("/health: {health}"))?;
    api.metrics().await?;
    // What is there can be read.
    api.get(&busy.path("/messages")).await?.expect(200)?;
    let refused = api.post(&other.path("/stream"), &json!({"user_input": "@say no"})).await?;
    refused.expect_error(503, "SERVICE_UNAVAILABLE")?;
    check(refused.header("retry-after").is_some(), "503 without Retry-After")?;
    let form = Form::of_run("@say no").file("large", &[b'x'; 1 << 20]);
    let refused = api.post_form(&other.path("/stream"), form.whole()).await?;
    refused.expect_error(503, "SERVICE_UNAVAILABLE")?;
    let path = format!("/api/tenants/{}/conversations", other.tenant);
    for _ in 0..UNTIL_REFUSED {
        let reply = api.post(&path, &json!({"user_id": "u".repeat(200)})).await?;
        if reply.status != 201 {
            reply.expect_error(503, "SERVICE_UNAVAILABLE")?;
            return check(reply.header("retry-after").is_some(), "503 without Retry-After");
        }
    }
    Err(Failure::assertion(format!("{UNTIL_REFUSED} conversations were made on a full disk")))
}
