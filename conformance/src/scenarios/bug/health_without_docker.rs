//! BUG-03: `/health` while Docker is down.

use std::time::Duration;

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::health::check_health;
use crate::target::launch::Launch;
use crate::target::relay::Relay;

/// How long a change of a component may take to be reported.
const SEEN_LIMIT: Duration = Duration::from_secs(15);

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "BUG-03",
    "/health answers 200 with the state of every component, whether Docker is up or down",
    "/health answers correctly in every combination of component states; never 5xx",
    body!(docker_up_and_down),
)
.severity(Severity::Critical)
.profile(Profile::Full)
.requires(&[Capability::Launch, Capability::Docker, Capability::Image])];

async fn docker_up_and_down(context: &Context) -> Result<(), Failure> {
    let path = context.socket_dir()?.join("docker.sock");
    let socket = context.engine()?.socket();
    let mut relay = Relay::unix(&path, socket)?;
    let launch = Launch::new().without_model().set("DOCKER_SOCKET_PATH", path.display());
    let deployment = context.launch(launch).await?;

    let settles = async |expected: &str| {
        eventually(SEEN_LIMIT, format!("docker {expected} in /health"), async || {
            let reply = deployment.api.get("/health").await.map_err(|failure| failure.to_string())?;
            let health = reply.expect(200).and_then(|reply| reply.json()).map_err(|failure| failure.to_string())?;
            check_health(&health).map_err(|failure| failure.to_string())?;
            if health["checks"]["docker"]["status"] == expected { Ok(health) } else { Err(health.to_string()) }
        })
        .await
    };
    let health = settles("healthy").await?;
    check_eq("status with all components up", health["status"].as_str(), Some("healthy"))?;
    for name in ["redis", "s3"] {
        let component = &health["checks"][name];
        check_eq(format!("{name}, which is not configured"), component["status"].as_str(), Some("healthy"))?;
        let message = component["message"].as_str().unwrap_or_default();
        check(
            message.to_lowercase().contains("not configured"),
            format!("{name} does not say that it is not configured: {message:?}"),
        )?;
    }
    for _ in 0..2 {
        relay.stop().await?;
        let health = settles("unhealthy").await?;
        check_eq("status without Docker, which is critical", health["status"].as_str(), Some("unhealthy"))?;
        check_eq("database meanwhile", health["checks"]["database"]["status"].as_str(), Some("healthy"))?;
        deployment.api.get("/health/live").await?.expect(200)?;
        deployment.api.get("/health/ready").await?.expect_error(503, "SERVICE_UNAVAILABLE")?;
        relay = Relay::unix(&path, socket)?;
        let health = settles("healthy").await?;
        check_eq("status with Docker back", health["status"].as_str(), Some("healthy"))?;
    }
    deployment.stop().await?;
    relay.stop().await
}
