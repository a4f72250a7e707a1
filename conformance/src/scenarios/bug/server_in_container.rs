//! BUG-07: a server in a container, whose socket directories have another path on the host.

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::server_container::container;
use crate::target::contained::{SOCKETS_INSIDE, user};
use crate::target::deployment::READY_LIMIT;
use crate::target::launch::Launch;

/// A host path that does not exist.
const NOWHERE: &str = "/var/run/conformance-nowhere";
const WITH_MODEL: &[Capability] =
    &[Capability::Launch, Capability::Docker, Capability::Image, Capability::Model, Capability::ServerImage];

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "BUG-07",
        "A server in a container, without root and with other socket paths than the host's, serves a whole run",
        "WORKSPACE_SOCKET_HOST_PATH names the host's path; works from inside a container",
        body!(in_container),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(WITH_MODEL)
    .limit(120),
    Scenario::new(
        "BUG-07-WRONG",
        "A wrong host path is reported before the first run, and the reason names the setting",
        "WORKSPACE_SOCKET_HOST_PATH names the host's path; works from inside a container",
        body!(wrong_host_path),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(&[Capability::Launch, Capability::Docker, Capability::Image, Capability::ServerImage])
    .limit(120),
];

async fn in_container(context: &Context) -> Result<(), Failure> {
    let deployment = context.launch(Launch::new().in_container()).await?;
    let sockets = deployment.server()?.sockets.clone();
    // The precondition: the same directory under two paths, locked down, and without root.
    let server = container(&deployment)?.inspect_json().await?;
    let mounts = server["Mounts"].as_array().cloned().unwrap_or_default();
    let mount = mounts.iter().find(|mount| mount["Destination"] == SOCKETS_INSIDE);
    check_eq("source of the sockets", mount.and_then(|mount| mount["Source"].as_str()), sockets.to_str())?;
    check_eq("user", server["Config"]["User"].as_str(), Some(format!("{0}:{0}", user()).as_str()))?;
    check_eq("read-only root", server["HostConfig"]["ReadonlyRootfs"].as_bool(), Some(true))?;

    let conversation = deployment.conversation(context).await?;
    let prompt = "@tool Bash {\"command\": \"id -u > uid.txt; cat uid.txt\", \"description\": \"Who\"}\n@say done";
    let events = deployment.run_well(&conversation, prompt).await?;
    let printed: String =
        events.iter().filter(|event| event.name == "tool_result").map(|event| event.data.to_string()).collect();
    let room = deployment.only_room().await?;
    let own = room.shell("id -u").await?.printed.trim().to_owned();
    check(own != "0" && printed.contains(&own), format!("user of the workspace: {own}, of its tools: {printed}"))?;
    let dir = room.socket_dir().await?;
    check_eq("parent of the workspace's directory on the host", dir.parent(), Some(sockets.as_path()))?;
    // Docker's health check agrees with the server.
    eventually(READY_LIMIT, "healthy, by the image's own check", async || {
        let asked = container(&deployment)?.exec(health_command(context)?).await?;
        check_eq(format!("status of the health command: {}", asked.printed), asked.status, 0)
    })
    .await?;
    deployment.api.delete(&conversation.path("")).await?.expect(204)?;
    eventually(READY_LIMIT, "no workspace and no directory of it", async || {
        check_eq("rooms", deployment.all_rooms().await?.len(), 0)?;
        check(!dir.exists(), format!("{} is still there", dir.display()))
    })
    .await
}

async fn wrong_host_path(context: &Context) -> Result<(), Failure> {
    check(!std::path::Path::new(NOWHERE).exists(), format!("{NOWHERE} exists: nothing can be shown with it"))?;
    // A wrong host path, and a missing one: the server then uses its own path for the host's.
    for wrong in [NOWHERE, SOCKETS_INSIDE] {
        let launch = Launch::new().in_container().without_model().without_waiting();
        let launch = launch.set("WORKSPACE_SOCKET_HOST_PATH", wrong).set("SHUTDOWN_TIMEOUT", 1);
        let deployment = context.launch(launch).await?;
        let reason = eventually(READY_LIMIT, "a reason in /health/ready that reports an attempt", async || {
            let reply = deployment.api.get("/health/ready").await?;
            reply.expect_error(503, "SERVICE_UNAVAILABLE")?;
            let text = reply.text();
            check(text.contains("does not have") || text.contains("did not answer"), &text)?;
            Ok::<_, Failure>(text)
        })
        .await?;
        check(
            reason.contains("WORKSPACE_SOCKET_HOST_PATH"),
            format!("the reason does not name the setting: {reason}"),
        )?;
        let asked = container(&deployment)?.exec(health_command(context)?).await?;
        check(
            asked.status != 0 && asked.printed.contains("WORKSPACE_SOCKET_HOST_PATH"),
            format!("the health command: {asked:?}"),
        )?;
        deployment.api.get("/health/live").await?.expect(200)?;
        let health = deployment.api.get("/health").await?.expect(200)?.json()?;
        check_eq("status in /health", health["status"].as_str(), Some("degraded"))?;
        deployment.stop().await?;
        check_eq("workspaces left", deployment.all_rooms().await?.len(), 0)?;
    }
    // The control: with the correct path the server is ready, and has removed the workspace that it created as a test.
    let deployment = context.launch(Launch::new().in_container().without_model()).await?;
    let server = deployment.server()?;
    // The engine passes a container's log on a moment after it is written.
    eventually(READY_LIMIT, "a workspace that was created to prove the path", async || {
        check(server.log().contains("workspace ready"), "ready, but the log names no workspace")
    })
    .await?;
    eventually(READY_LIMIT, "no workspace, with a pool of none", async || {
        check_eq("rooms", deployment.all_rooms().await?.len(), 0)
    })
    .await
}

/// The command in the server's image that asks for its health.
fn health_command(context: &Context) -> Result<Vec<String>, Failure> {
    let command = &context.description().images.server_health;
    let why = "the target file has no images.server_health";
    if command.is_empty() { Err(Failure::could_not_run(why)) } else { Ok(command.clone()) }
}
