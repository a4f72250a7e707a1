//! BUG-08 and BUG-09: the workspace image's default command and health check.

use std::time::Duration;

use bollard::models::HealthConfig;
use bytes::Bytes;
use http::Method;

use crate::client::unix;
use crate::harness::context::Context;
use crate::harness::engine::Room;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::bare_container::{agent_answers, start};

/// How long Docker may take beyond the intervals of the image's check.
const SLACK: Duration = Duration::from_secs(15);
/// Longest interval of the check that the scenarios wait for.
const LONGEST_INTERVAL: Duration = Duration::from_secs(20);

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "BUG-08",
        "The image's default command is the agent, which runs as uid 1000 and answers",
        "image builds, agent starts as the image's default command; runs as uid 1000",
        body!(default_command),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(&[Capability::Docker, Capability::Image]),
    Scenario::new(
        "BUG-09",
        "Docker reports the container as healthy within two intervals of its check, which also succeeds by hand",
        "Docker reports the container healthy, and unhealthy once the agent is gone",
        body!(healthy),
    )
    .severity(Severity::Critical)
    .profile(Profile::Host)
    .requires(&[Capability::Docker, Capability::Image]),
    Scenario::new(
        "BUG-09-GONE",
        "Docker reports the container as unhealthy once its agent no longer answers",
        "Docker reports the container healthy, and unhealthy once the agent is gone",
        body!(unhealthy),
    )
    .severity(Severity::High)
    .profile(Profile::Host)
    .requires(&[Capability::Docker, Capability::Image])
    .limit(120),
];

async fn default_command(context: &Context) -> Result<(), Failure> {
    let (room, sockets) = start(context).await?;
    let health = agent_answers(&room, &sockets).await?;
    check_eq(format!("status in the agent's /health: {health}"), health["status"].as_str(), Some("ok"))?;
    check(health["version"].is_string() && health["driver"].is_string(), format!("the agent's /health: {health}"))?;
    let user = room.shell("id -u; cat /proc/1/comm; stat -c %u /proc/1").await?;
    let lines: Vec<&str> = user.printed.lines().collect();
    check(lines.len() == 3, format!("`id -u` and others in the workspace: {:?}", user.printed))?;
    check_eq("uid in the workspace", lines[0], &*crate::target::image::room_uid())?;
    check_eq("uid of the first process", lines[2], &*crate::target::image::room_uid())?;
    check(room.is_running().await?, "the container has ended")
}

async fn healthy(context: &Context) -> Result<(), Failure> {
    let (room, _sockets) = start(context).await?;
    let state =
        eventually(intervals(&room, 2).await?, "healthy, by Docker's account", async || match room.health().await {
            Ok(health) if health == "healthy" => Ok(()),
            other => Err(format!("{other:?}")),
        });
    state.await?;
    let check_of_image =
        room.inspect().await?.config.and_then(|config| config.healthcheck).and_then(|check| check.test);
    let command = match check_of_image.as_deref() {
        Some([kind, command @ ..]) if kind == "CMD" => command.to_vec(),
        Some([kind, line]) if kind == "CMD-SHELL" => vec!["sh".to_owned(), "-c".to_owned(), line.clone()],
        other => return Err(Failure::assertion(format!("the image's HEALTHCHECK is {other:?}"))),
    };
    let by_hand = room.exec(command.clone()).await?;
    check_eq(format!("status of {command:?} by hand ({})", by_hand.printed), by_hand.status, 0)
}

/// The health check of a container's image.
async fn check_of(room: &Room) -> Result<HealthConfig, Failure> {
    let check = room.inspect().await?.config.and_then(|config| config.healthcheck);
    check.ok_or_else(|| Failure::assertion("the image has no HEALTHCHECK"))
}

/// How long Docker may take for so many health checks.
async fn intervals(room: &Room, count: u32) -> Result<Duration, Failure> {
    // The default is Docker's, in seconds.
    let duration = |value: Option<i64>| match value.unwrap_or(0) {
        0 => Duration::from_secs(30),
        value => Duration::from_nanos(value.unsigned_abs()),
    };
    let found = check_of(room).await?;
    let interval = duration(found.interval) + duration(found.timeout);
    check(interval <= LONGEST_INTERVAL, format!("the image's HEALTHCHECK takes {interval:?}"))?;
    Ok(interval * count + SLACK)
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
    becomes("healthy", intervals(&room, 2).await?).await?;
    // Frozen, not killed: if the first process exited, the container would stop and have no health at all.
    room.kill("SIGSTOP").await?;
    check(
        unix::request(&sockets.join("agent.sock"), Method::GET, "/health", Bytes::new()).await.is_err(),
        "a stopped agent answers",
    )?;
    // As many failures as the image allows, and the one that was under way.
    let retries = check_of(&room).await?.retries.and_then(|retries| u32::try_from(retries).ok()).unwrap_or(3);
    becomes("unhealthy", intervals(&room, retries + 1).await?).await
}
