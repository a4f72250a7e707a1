//! BUG-03: `/health` while Redis is down.

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::shared_redis::redis_is;
use crate::target::launch::Launch;

const NEEDS: &[Capability] =
    &[Capability::Launch, Capability::Docker, Capability::Image, Capability::Model, Capability::Redis];

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "BUG-03-REDIS",
    "/health answers 200 and reports degraded while Redis is down, and only then",
    "/health answers correctly in every combination of component states; never 5xx",
    body!(health),
)
.severity(Severity::Critical)
.profile(Profile::Full)
.requires(NEEDS)
.limit(120)];

async fn health(context: &Context) -> Result<(), Failure> {
    let redis = context.redis().await?;
    let deployment = context.launch(Launch::new().without_model().set("REDIS_URL", redis.url())).await?;
    for _ in 0..2 {
        let health = redis_is(&deployment, "healthy").await?;
        check_eq("status with Redis up", health["status"].as_str(), Some("healthy"))?;
        redis.kill().await?;
        let health = redis_is(&deployment, "unhealthy").await?;
        check_eq("status with Redis down, which is not critical", health["status"].as_str(), Some("degraded"))?;
        let reason = health["checks"]["redis"]["message"].as_str().unwrap_or_default();
        check(!reason.is_empty(), format!("no message: {health}"))?;
        check_eq("docker meanwhile", health["checks"]["docker"]["status"].as_str(), Some("healthy"))?;
        deployment.api.get("/health/live").await?.expect(200)?;
        deployment.api.get("/health/ready").await?.expect(200)?;
        redis.restart().await?;
    }
    redis_is(&deployment, "healthy").await.map(|_| ())
}
