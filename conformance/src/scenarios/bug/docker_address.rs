//! BUG-02: the address of the Docker engine, and an engine that starts later than the server.

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::command::{effective, is_refused, setting_text};
use crate::target::deployment::READY_LIMIT;
use crate::target::launch::Launch;
use crate::target::relay::Relay;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "BUG-02",
        "The default Docker address and every other valid form of it work, and an invalid one is refused",
        "DOCKER_SOCKET_PATH: default unix:///var/run/docker.sock; unix://, bare path, tcp://, http://",
        body!(docker_addresses),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(&[Capability::Launch, Capability::Docker, Capability::Image])
    .limit(90),
    Scenario::new(
        "BUG-02-LATE",
        "Without Docker the server is live but not ready, and becomes ready without a restart once Docker is up",
        "Docker not running: the server starts, says so on /health and /health/ready, and recovers by itself",
        body!(docker_comes_late),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(&[Capability::Launch, Capability::Docker, Capability::Image]),
];

async fn docker_addresses(context: &Context) -> Result<(), Failure> {
    let config = effective(context, &[]).await?;
    let default = setting_text(&config, "DOCKER_SOCKET_PATH")?;
    check_eq("DOCKER_SOCKET_PATH with nothing set", default.as_str(), "unix:///var/run/docker.sock")?;

    let socket = context.engine()?.socket();
    let tcp = Relay::tcp(socket).await?;
    let (plain, http) = (socket.display().to_string(), tcp.address().replace("tcp://", "http://"));
    let forms = [format!("unix://{plain}"), plain, tcp.address().to_owned(), http];
    for form in forms {
        let launch = Launch::new().without_model().set("DOCKER_SOCKET_PATH", &form);
        let deployment =
            context.launch(launch).await.map_err(|failure| failure.during(format!("DOCKER_SOCKET_PATH={form}")))?;
        let health = deployment.api.get("/health").await?.expect(200)?.json()?;
        check_eq(
            format!("docker in /health with {form}"),
            health["checks"]["docker"]["status"].as_str(),
            Some("healthy"),
        )?;
        deployment.stop().await?;
    }
    tcp.stop().await?;
    for junk in ["ftp://somewhere", "var/run/docker.sock"] {
        is_refused(context, "DOCKER_SOCKET_PATH", junk).await?;
    }
    Ok(())
}

async fn docker_comes_late(context: &Context) -> Result<(), Failure> {
    let path = context.socket_dir()?.join("docker.sock");
    let launch = Launch::new().without_model().without_waiting().set("DOCKER_SOCKET_PATH", path.display());
    let deployment = context.launch(launch).await?;
    let docker = async || {
        let health = deployment.api.get("/health").await?.expect(200)?.json()?;
        let check = &health["checks"]["docker"];
        Ok::<_, Failure>((
            health["status"].as_str().unwrap_or("none").to_owned(),
            check["status"].as_str().unwrap_or("none").to_owned(),
            check["message"].as_str().unwrap_or_default().to_owned(),
        ))
    };
    deployment.api.get("/health/live").await?.expect(200)?;
    let not_ready = deployment.api.get("/health/ready").await?;
    not_ready.expect_error(503, "SERVICE_UNAVAILABLE")?;
    check(not_ready.header("retry-after").is_some(), "503 from /health/ready without Retry-After")?;
    check(
        not_ready.text().to_lowercase().contains("docker"),
        format!("the reason does not name Docker: {}", not_ready.text()),
    )?;
    let (status, component, message) = docker().await?;
    check_eq(
        "status and docker in /health without Docker",
        (status.as_str(), component.as_str()),
        ("unhealthy", "unhealthy"),
    )?;
    check(!message.is_empty(), "docker in /health is unhealthy and does not say why")?;

    let relay = Relay::unix(&path, context.engine()?.socket())?;
    deployment.ready(READY_LIMIT).await?;
    eventually(READY_LIMIT, "healthy in /health", async || match docker().await {
        Ok((status, component, _)) if status == "healthy" && component == "healthy" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await?;
    deployment.stop().await?;
    relay.stop().await
}
