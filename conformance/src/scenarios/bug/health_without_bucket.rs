//! BUG-03: `/health` while object storage refuses requests or is down.

use std::time::Duration;

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check_eq};
use crate::harness::poll::eventually;
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

/// How long `/health` may take to tell what has happened.
const TOLD: Duration = Duration::from_secs(15);

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
        // What it says may be some seconds old.
        eventually(TOLD, format!("the state of the bucket with fault {fault}"), async || {
            let health = deployment.api.get("/health").await?.expect(200)?.json()?;
            check_eq(
                format!("s3 with fault {fault}: {health}"),
                health["checks"]["s3"]["status"].as_str(),
                Some(component),
            )?;
            check_eq(format!("status with fault {fault}: {health}"), health["status"].as_str(), Some(whole))
        })
        .await?;
        deployment.api.get("/health/ready").await?.expect(200)?;
    }
    Ok(())
}
