//! What a room does to itself or loses, and what the deployment makes of it: CHAOS, LIFE, BOOT, SOCK.

use std::time::Duration;

use bollard::query_parameters::TagImageOptionsBuilder;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::client::stream::{EventStream, RunEvent, names};
use crate::client::unix;
use crate::context::Context;
use crate::failure::{Failure, check, check_eq};
use crate::poll::eventually;
use crate::scenario::{Capability, Profile, Scenario, Severity};
use crate::target::deployment::{Conversation, Deployment, STOP_LIMIT};
use crate::target::engine::{ROOM_SOCKETS, Room};
use crate::target::image;
use crate::target::launch::Launch;
use crate::target::relay::Relay;

const NEEDS: &[Capability] = &[Capability::Launch, Capability::Docker, Capability::Image, Capability::Model];
/// How long everything may take to be as it should be again.
const HEALED_LIMIT: Duration = Duration::from_secs(30);

/// What the scenarios here have in common.
const SCENARIO: Scenario = Scenario {
    id: "CHAOS",
    title: "",
    severity: Severity::High,
    requirement: "each fault degrades as the contract says and heals without a restart",
    requires: NEEDS,
    profile: Profile::Full,
    destructive: false,
    limit: Duration::from_secs(120),
    body: body!(agent_ends),
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario { id: "CHAOS-004", title: "a room whose agent ends in the middle of a run is replaced, and the run ends with an error", ..SCENARIO },
    Scenario {
        id: "CHAOS-005",
        title: "a room that is frozen is given up: out of the pool, and by the conversation that has it",
        body: body!(frozen),
        ..SCENARIO
    },
    Scenario {
        id: "CHAOS-006",
        title: "a CLI that is killed ends the run with execution_error, and the room goes on",
        body: body!(cli_killed),
        ..SCENARIO
    },
    Scenario {
        id: "CHAOS-007",
        title: "an engine that goes down takes its rooms along: the run ends with an error, and all works again once it is back",
        body: body!(engine_restarts),
        ..SCENARIO
    },
    Scenario {
        id: "RUN-004",
        title: "a room that eats all its memory, forks without end or fills its disk hurts nobody else",
        requirement: "fork bomb and memory hog hurt only their own room",
        body: body!(greedy),
        ..SCENARIO
    },
    Scenario {
        id: "LIFE-005",
        title: "an image that is removed stops new rooms, says so, and no more once it is back",
        requirement: "image gone: degrades and heals without a restart; a create that fails half-way leaves nothing",
        body: body!(image_gone),
        ..SCENARIO
    },
    Scenario {
        id: "SOCK-002",
        title: "a way out that the room removes, or puts something else in place of, is there again",
        requirement: "proxy.sock deleted by the room → restored or the room replaced",
        body: body!(way_out_removed),
        ..SCENARIO
    },
    Scenario {
        id: "BOOT-001",
        title: "a second SIGTERM ends the wait for runs, and nothing is left",
        requirement: "shutdown drains runs up to SHUTDOWN_TIMEOUT; a second SIGTERM hastens",
        body: body!(hastened),
        ..SCENARIO
    },
];

/// Starts a run that goes on until something ends it, and waits until its tool runs.
pub(super) async fn endless(deployment: &Deployment, conversation: &Conversation) -> Result<EventStream, Failure> {
    let prompt = "@tool Bash {\"command\": \"tail -f /dev/null\", \"description\": \"Wait\"}\n@say never said";
    let mut stream = deployment.start(conversation, prompt).await?;
    stream.until("tool_call").await?;
    eventually(Duration::from_secs(10), "the tool to run in a room", async || {
        for room in deployment.rooms().await? {
            let found = room.shell("grep -lz '^/dev/null$' /proc/[0-9]*/cmdline 2>/dev/null").await?;
            if !found.printed.trim().is_empty() {
                return Ok(());
            }
        }
        Err(Failure::assertion("no process has /dev/null as an argument"))
    })
    .await?;
    Ok(stream)
}

/// The `done` of a run that ended with an error, which was told before.
pub(super) fn ended_badly(events: &[RunEvent]) -> Result<&Value, Failure> {
    check(events.iter().any(|event| event.name == "error"), format!("no error among: {}", names(events)))?;
    let done = events.last().map_or(&Value::Null, |done| &done.data);
    check_eq(format!("status in done: {done}"), done["status"].as_str(), Some("error"))?;
    Ok(done)
}

/// Waits until nothing of a room is left, neither container nor directory.
async fn gone(room: &Room, dir: &std::path::Path) -> Result<(), Failure> {
    eventually(HEALED_LIMIT, format!("nothing of room {}", room.id), async || {
        let running = room.is_running().await?;
        check(!running && !dir.exists(), format!("running {running}, {} there: {}", dir.display(), dir.exists()))
    })
    .await
}

async fn agent_ends(context: &Context) -> Result<(), Failure> {
    let deployment = context.launch(Launch::new()).await?;
    let conversation = deployment.conversation(context).await?;
    let stream = endless(&deployment, &conversation).await?;
    let room = deployment.only_room().await?;
    let dir = room.socket_dir().await?;
    // The room's own doing: its first process is the agent, and obeys.
    let told = room.shell("kill -TERM 1").await?;
    check_eq(format!("status of kill in the room ({})", told.printed), told.status, 0)?;
    let events = stream.finish().await?;
    ended_badly(&events)?;
    check(names(&events).contains("container_recovered"), format!("no container_recovered among: {}", names(&events)))?;
    gone(&room, &dir).await?;
    let again = deployment.run_well(&conversation, "@say alive again").await;
    again.map(|_| ()).map_err(|failure| failure.during("the run after the agent ended"))
}

async fn frozen(context: &Context) -> Result<(), Failure> {
    let launch = Launch::new().set("WARM_POOL_MIN_SIZE", 1).set("WARM_POOL_MAX_SIZE", 1).set("CONTAINER_GC_INTERVAL", 1);
    let deployment = context.launch(launch).await?;
    deployment.metric("workspace_warm_pool_size", |waiting| waiting == 1.0, HEALED_LIMIT).await?;
    let waiting = deployment.only_room().await?;
    let dir = waiting.socket_dir().await?;
    waiting.pause().await?;
    gone(&waiting, &dir).await.map_err(|failure| failure.during("a frozen room in the pool"))?;
    // The pool has another one by then, or soon.
    deployment.metric("workspace_warm_pool_size", |waiting| waiting == 1.0, HEALED_LIMIT).await?;

    let conversation = deployment.conversation(context).await?;
    deployment.run_well(&conversation, "@tool Bash {\"command\": \"touch /workspace/mine\", \"description\": \"Mark\"}\n@say marked").await?;
    let mut own = None;
    for room in deployment.rooms().await? {
        if room.exec(["test", "-e", "/workspace/mine"]).await?.status == 0 {
            own = Some(room);
        }
    }
    let own = own.ok_or_else(|| Failure::assertion("no room has the file that the run made"))?;
    let dir = own.socket_dir().await?;
    own.pause().await?;
    deployment.run_well(&conversation, "@say thawed").await?;
    gone(&own, &dir).await.map_err(|failure| failure.during("a frozen room of a conversation"))
}

async fn cli_killed(context: &Context) -> Result<(), Failure> {
    let deployment = context.launch(Launch::new()).await?;
    let conversation = deployment.conversation(context).await?;
    let stream = endless(&deployment, &conversation).await?;
    let room = deployment.only_room().await?;
    // The agent's child is the CLI, whatever it is called.
    let killed = room.shell("pid=$(cat /proc/1/task/1/children) && kill -KILL ${pid%% *}").await?;
    check_eq(format!("status of kill in the room ({})", killed.printed), killed.status, 0)?;
    let events = stream.finish().await?;
    ended_badly(&events)?;
    let error = events.iter().find(|event| event.name == "error").map_or("", |error| error.text("error_type"));
    check_eq("error_type", error, "execution_error")?;
    eventually(Duration::from_secs(10), "no process of the run in its room", async || {
        let left = room.shell("grep -lz '^/dev/null$' /proc/[0-9]*/cmdline 2>/dev/null").await?;
        check(left.printed.trim().is_empty(), left.printed)
    })
    .await?;
    deployment.run_well(&conversation, "@say alive again").await?;
    check_eq("the room of the next run", &deployment.only_room().await?.id, &room.id)
}

async fn engine_restarts(context: &Context) -> Result<(), Failure> {
    let path = context.socket_dir()?.join("docker.sock");
    let relay = Relay::unix(&path, context.engine()?.socket())?;
    let launch = Launch::new().set("DOCKER_SOCKET_PATH", path.display()).set("CONTAINER_GC_INTERVAL", 1);
    let deployment = context.launch(launch).await?;
    let conversation = deployment.conversation(context).await?;
    let stream = endless(&deployment, &conversation).await?;
    let room = deployment.only_room().await?;
    let dir = room.socket_dir().await?;
    // As seen by its clients, an engine's restart is this: nobody listens, and every container has ended.
    relay.stop().await?;
    room.kill("SIGKILL").await?;
    let events = stream.finish().await?;
    let done = ended_badly(&events)?;
    check(!names(&events).contains("container_recovered"), "a new room was promised while there was no engine to make one")?;
    check(done["errors"].as_array().is_some_and(|errors| !errors.is_empty()), format!("done names no error: {done}"))?;
    deployment.api.get("/health/ready").await?.expect_error(503, "SERVICE_UNAVAILABLE")?;
    let refused = deployment.api.post(&conversation.path("/stream"), &json!({"user_input": "@say no room"})).await?;
    refused.expect_error(503, "SERVICE_UNAVAILABLE")?;

    let relay = Relay::unix(&path, context.engine()?.socket())?;
    deployment.ready(HEALED_LIMIT).await?;
    deployment.run_well(&conversation, "@say after").await?;
    gone(&room, &dir).await?;
    deployment.stop().await?;
    relay.stop().await
}

/// What a room may try with what it was given, and what it prints once that was refused. None is to be the end of the run.
const GREEDY: [(&str, &str, &str); 3] = [
    ("eats memory", "python3 -c 'x = []\nwhile True: x.append(bytearray(1 << 24))'; echo status $?", "status 137"),
    // Counted first, so that it is seen to be refused; then the bomb as it is known, which nothing in the room ends.
    (
        "forks without end",
        "python3 -c 'import os, signal\nchildren = []\ntry:\n  while True:\n    child = os.fork()\n    if child == 0: signal.pause()\n    \
         children.append(child)\nexcept OSError: print(\"no more than\", len(children))\nfor child in children: os.kill(child, 9)'; \
         (bomb() { bomb | bomb & }; bomb) >/dev/null 2>&1; echo dropped",
        "no more than",
    ),
    ("fills its disk", "dd if=/dev/zero of=/workspace/fill bs=1M count=400 2>&1; rm -f /workspace/fill", "No space left on device"),
];

async fn greedy(context: &Context) -> Result<(), Failure> {
    let launch = Launch::new()
        .set("CONTAINER_MEMORY", "768MiB")
        .set("CONTAINER_PIDS", 96)
        .set("CONTAINER_DISK", "64MiB")
        .set("CONTAINER_EXECUTION_TIMEOUT", 40);
    let deployment = context.launch(launch).await?;
    let neighbour = deployment.conversation(context).await?;
    deployment.run_well(&neighbour, "@say here").await?;
    let quiet = deployment.only_room().await?;
    for (what, command, refusal) in GREEDY {
        let greedy = deployment.another_conversation(context, &neighbour.tenant, &neighbour.model).await?;
        let tool = json!({"command": command, "description": what});
        let stream = deployment.start(&greedy, &format!("@tool Bash {tool}\n@say survived")).await?;
        let (events, beside) = tokio::join!(stream.finish(), deployment.run_well(&neighbour, "@say still here"));
        beside.map_err(|failure| failure.during(format!("a neighbour of a room that {what}")))?;
        let events = events.map_err(|failure| failure.during(what))?;
        // The run may have been lost with its room before the tool could tell; else it must tell.
        let mut results = events.iter().filter(|event| event.name == "tool_result");
        let refused = results.any(|result| result.data["content"].to_string().contains(refusal));
        check(refused || ended_badly(&events).is_ok(), format!("a room that {what} was not stopped by anything: {events:?}"))?;
        check_eq(format!("the neighbour's room beside one that {what}"), quiet.is_running().await?, true)?;
        let well = eventually(HEALED_LIMIT, format!("a run that ends well in the conversation that {what}"), async || {
            deployment.run_well(&greedy, "@say alive").await.map_err(|failure| failure.to_string())
        });
        well.await?;
        deployment.api.delete(&greedy.path("")).await?.expect(204)?;
    }
    check_eq("rooms at the end", deployment.rooms().await?.len(), 1)
}

async fn image_gone(context: &Context) -> Result<(), Failure> {
    // A name of its own for the image: it is the name that goes, and comes back.
    let engine = context.engine()?.clone();
    let tag = context.image_to_be("image", &engine)?;
    let (name, version) = tag.split_once(':').unwrap_or((&tag, "latest"));
    let named = TagImageOptionsBuilder::new().repo(name).tag(version).build();
    engine.docker().tag_image(&context.run.options.image, Some(named.clone())).await?;

    let launch = Launch::new().set("CONTAINER_IMAGE", &tag).set("CONTAINER_GC_INTERVAL", 1);
    let deployment = context.launch(launch).await?;
    let first = deployment.conversation(context).await?;
    deployment.run_well(&first, "@say before").await?;
    image::remove(&engine, &tag).await?;

    let other = deployment.another_conversation(context, &first.tenant, &first.model).await?;
    let told = deployment.api.post(&other.path("/stream"), &json!({"user_input": "@say no room"})).await?;
    let told = if told.status == 503 {
        check(told.header("retry-after").is_some(), "503 without Retry-After")?;
        told.text()
    } else {
        let events = told.expect(200)?.text();
        check(events.contains("\"status\":\"error\""), format!("the run without an image did not end with an error: {events}"))?;
        events
    };
    check(told.contains(&tag), format!("the image's name {tag} is not in what was told: {told}"))?;
    check_eq("containers: that of the first conversation", deployment.all_rooms().await?.len(), 1)?;
    check_eq("socket directories", std::fs::read_dir(&deployment.server()?.sockets)?.count(), 1)?;
    deployment.run_well(&first, "@say a room that is there needs no image").await?;

    engine.docker().tag_image(&context.run.options.image, Some(named)).await?;
    deployment.run_well(&other, "@say after").await.map(|_| ())
}

/// What a room puts in the place of its way out. The server may restore that between any two commands, so what can be is done in one,
/// and the rest until it was.
const IN_PLACE: [(&str, &str); 4] = [
    ("nothing", "rm proxy.sock"),
    ("a directory", "until rm -rf proxy.sock && mkdir proxy.sock 2>/dev/null; do :; done"),
    ("a link", "ln -s /etc/passwd own && mv -T own proxy.sock"),
    (
        "a socket of its own",
        "python3 -c 'import os, socket; s = socket.socket(socket.AF_UNIX); s.bind(\"own\"); os.rename(\"own\", \"proxy.sock\")'",
    ),
];

async fn way_out_removed(context: &Context) -> Result<(), Failure> {
    let deployment = context.launch(Launch::new()).await?;
    let conversation = deployment.conversation(context).await?;
    deployment.run_well(&conversation, "@say before").await?;
    for (what, line) in IN_PLACE {
        let room = deployment.only_room().await?;
        let path = room.socket_dir().await?.join("proxy.sock");
        let done = room.shell(&format!("cd {ROOM_SOCKETS} && {line}")).await?;
        check_eq(format!("status of the room's attempt at {what} ({})", done.printed), done.status, 0)?;
        eventually(HEALED_LIMIT, format!("a way out again, after {what}"), async || {
            check(unix::accepts(&path).await, "nothing accepts there")
        })
        .await?;
        let through = room.shell("curl -sS -o /dev/null -w '%{http_code}' -x http://127.0.0.1:8080 http://nowhere.invalid/").await?;
        check_eq(format!("what the proxy says after {what}"), through.printed.trim(), "403")?;
        deployment.run_well(&conversation, "@say still here").await.map_err(|failure| failure.during(what))?;
        check_eq(format!("the room after {what}"), &deployment.only_room().await?.id, &room.id)?;
    }
    Ok(())
}

async fn hastened(context: &Context) -> Result<(), Failure> {
    // Longer than the suite waits for a stop: that it ends at all shows that something hastened it.
    let deployment = context.launch(Launch::new().set("SHUTDOWN_TIMEOUT", 600)).await?;
    let conversation = deployment.conversation(context).await?;
    let stream = endless(&deployment, &conversation).await?;
    let other = deployment.another_conversation(context, &conversation.tenant, &conversation.model).await?;
    let process = &deployment.server()?.process;
    process.signal(Signal::TERM).await?;
    // It drains: what is new is refused, while the run goes on.
    eventually(HEALED_LIMIT, "a new run to be refused", async || {
        let refused = deployment.api.post(&other.path("/stream"), &json!({"user_input": "@say no"})).await?;
        refused.expect_error(503, "SERVICE_UNAVAILABLE").map(|_| ())
    })
    .await?;
    deployment.api.get("/health/live").await?.expect(200)?;
    check_eq("whether the server has ended after one SIGTERM", process.ended().await.is_some(), false)?;
    process.signal(Signal::TERM).await?;
    let events = stream.finish().await?;
    ended_badly(&events)?;
    let status = process.wait(STOP_LIMIT).await?;
    check_eq("exit status", status.code(), Some(0))?;
    check_eq("containers left", deployment.all_rooms().await?.len(), 0)?;
    check_eq("directories left", std::fs::read_dir(&deployment.server()?.sockets)?.count(), 0)
}
