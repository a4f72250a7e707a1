//! The room's image: BUG-08, BUG-09.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::Method;

use crate::client::unix;
use crate::context::Context;
use crate::failure::{Failure, check, check_eq};
use crate::poll::eventually;
use crate::scenario::{Capability, Profile, Scenario, Severity};
use crate::target::engine::Room;
use crate::target::image;

/// How long the agent may take until it answers.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// How long Docker may take to call a room healthy, or no longer so.
const HEALTH_LIMIT: Duration = Duration::from_secs(15);
/// The same for "no longer": intervals, retries and the check's own time limit add up.
const UNHEALTHY_LIMIT: Duration = Duration::from_secs(45);

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        id: "BUG-08",
        title: "the image's default command is the agent, it runs as uid 1000 and answers",
        severity: Severity::Critical,
        requirement: "image builds, agent starts as the image's default command; runs as uid 1000",
        requires: &[Capability::Docker, Capability::Image],
        profile: Profile::Full,
        destructive: false,
        limit: Duration::from_secs(60),
        body: body!(default_command),
    },
    Scenario {
        id: "BUG-09",
        title: "Docker calls the room healthy within 15 s, and the health command succeeds by hand",
        severity: Severity::Critical,
        requirement: "Docker reports the container healthy, and unhealthy once the agent is gone",
        requires: &[Capability::Docker, Capability::Image],
        profile: Profile::Host,
        destructive: false,
        limit: Duration::from_secs(60),
        body: body!(healthy),
    },
    Scenario {
        id: "BUG-09-GONE",
        title: "Docker calls the room unhealthy once its agent does not answer any more",
        severity: Severity::High,
        requirement: "Docker reports the container healthy, and unhealthy once the agent is gone",
        requires: &[Capability::Docker, Capability::Image],
        profile: Profile::Host,
        destructive: false,
        limit: Duration::from_secs(90),
        body: body!(unhealthy),
    },
];

/// Starts the image by its default command; gives the container and its socket directory.
pub(super) async fn start(context: &Context) -> Result<(Room, PathBuf), Failure> {
    let engine = context.engine()?.clone();
    // The agent leaves its socket there, so the directory is not one that must be empty at the end.
    let sockets = context.dir().join("ws");
    std::fs::create_dir(&sockets)?;
    // Whoever the suite runs as, uid 1000 must be able to make a socket in it.
    std::fs::set_permissions(&sockets, std::fs::Permissions::from_mode(0o777))?;
    let name = context.own_container("room", &engine)?;
    let container = engine.container(&name);
    image::start_room(&engine, &context.run, &name, &context.run.options.image, &sockets).await?;
    Ok((container, sockets))
}

/// Waits until the agent answers, and gives what it says.
pub(super) async fn agent_answers(room: &Room, sockets: &std::path::Path) -> Result<serde_json::Value, Failure> {
    let socket = sockets.join("agent.sock");
    let answered = eventually(ANSWER_LIMIT, "200 from the agent's /health", async || {
        match unix::request(&socket, Method::GET, "/health", Bytes::new()).await {
            Ok((status, body)) if status == 200 => Ok(body),
            Ok((status, body)) => Err(format!("{status} {}", String::from_utf8_lossy(&body))),
            Err(error) => Err(error),
        }
    });
    match answered.await {
        Ok(body) => serde_json::from_slice(&body).map_err(|error| Failure::assertion(format!("the agent's /health: {error}"))),
        Err(failure) => {
            let printed = room.logs().await.unwrap_or_default();
            Err(failure.during(format!("the container printed {printed:?}")))
        }
    }
}

async fn default_command(context: &Context) -> Result<(), Failure> {
    let (room, sockets) = start(context).await?;
    let health = agent_answers(&room, &sockets).await?;
    check_eq(format!("status in the agent's /health: {health}"), health["status"].as_str(), Some("ok"))?;
    check(health["version"].is_string() && health["driver"].is_string(), format!("the agent's /health: {health}"))?;
    let user = room.shell("id -u; cat /proc/1/comm; stat -c %u /proc/1").await?;
    let lines: Vec<&str> = user.printed.lines().collect();
    check(lines.len() == 3, format!("`id -u` and others in the room: {:?}", user.printed))?;
    check_eq("uid in the room", lines[0], &*crate::target::image::room_uid())?;
    check_eq("uid of the first process", lines[2], &*crate::target::image::room_uid())?;
    check(room.is_running().await?, "the container has ended")
}

async fn healthy(context: &Context) -> Result<(), Failure> {
    let (room, _sockets) = start(context).await?;
    let state = eventually(HEALTH_LIMIT, "healthy, by Docker's account", async || match room.health().await {
        Ok(health) if health == "healthy" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    state.await?;
    let check_of_image = room.inspect().await?.config.and_then(|config| config.healthcheck).and_then(|check| check.test);
    let command = match check_of_image.as_deref() {
        Some([kind, command @ ..]) if kind == "CMD" => command.to_vec(),
        Some([kind, line]) if kind == "CMD-SHELL" => vec!["sh".to_owned(), "-c".to_owned(), line.clone()],
        other => return Err(Failure::assertion(format!("the image's HEALTHCHECK is {other:?}"))),
    };
    let by_hand = room.exec(command.clone()).await?;
    check_eq(format!("status of {command:?} by hand ({})", by_hand.printed), by_hand.status, 0)
}

async fn unhealthy(context: &Context) -> Result<(), Failure> {
    let (room, sockets) = start(context).await?;
    agent_answers(&room, &sockets).await?;
    let becomes = async |wanted: &str, limit| {
        eventually(limit, format!("{wanted}, by Docker's account"), async || match room.health().await {
            Ok(health) if health == wanted => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await
    };
    becomes("healthy", HEALTH_LIMIT).await?;
    // Stopped, not ended: if the first process ended, the container would end with it and have no health at all.
    room.kill("SIGSTOP").await?;
    check(unix::request(&sockets.join("agent.sock"), Method::GET, "/health", Bytes::new()).await.is_err(), "a stopped agent answers")?;
    becomes("unhealthy", UNHEALTHY_LIMIT).await
}
