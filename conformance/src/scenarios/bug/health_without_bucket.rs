//! BUG-03: `/health` while object storage refuses requests or is down.

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::Profile;
use crate::scenarios::common::needs::RUN;
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "BUG-03-S3",
    "/health reports degraded, never unhealthy, while the bucket refuses requests or is down, and recovers",
    "/health in each combination: s3 is not critical",
    body!(health),
)
.profile(Profile::Full)
.requires(RUN)
.limit(120)];

async fn health(context: &Context) -> Result<(), Failure> {
    let storage = context.storage().await?;
    let deployment = context.launch(Launch::new().bucket(&storage)).await?;
    for (fault, component, whole) in [
        ("none", "healthy", "healthy"),
        ("refuse", "unhealthy", "degraded"),
        ("none", "healthy", "healthy"),
        ("down", "unhealthy", "degraded"),
        ("hang", "unhealthy", "degraded"),
        ("none", "healthy", "healthy"),
    ] {
        storage.fault(fault).await?;
        let health = deployment.api.get("/health").await?.expect(200)?.json()?;
        check_eq(
            format!("s3 with fault {fault}: {health}"),
            health["checks"]["s3"]["status"].as_str(),
            Some(component),
        )?;
        check_eq(format!("status with fault {fault}: {health}"), health["status"].as_str(), Some(whole))?;
        deployment.api.get("/health/ready").await?.expect(200)?;
    }
    Ok(())
}
