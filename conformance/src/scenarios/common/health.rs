//! Reads `/health`.

use serde_json::Value;

use crate::harness::failure::{Failure, check};

/// Checks that `/health` gives the state of the deployment and of each component. SHAPE-002 is about the other fields.
pub(crate) fn check_health(health: &Value) -> Result<(), Failure> {
    let what = |field: &str| format!("{field} in /health: {health}");
    check(matches!(health["status"].as_str(), Some("healthy" | "degraded" | "unhealthy")), what("status"))?;
    check(health["version"].as_str().is_some_and(|text| !text.is_empty()), what("version"))?;
    for name in ["database", "redis", "docker", "s3"] {
        let component = &health["checks"][name];
        check(matches!(component["status"].as_str(), Some("healthy" | "unhealthy" | "degraded")), what(name))?;
    }
    for name in ["active_containers", "warm_pool_size"] {
        check(health["container_system"][name].as_u64().is_some(), what(name))?;
    }
    Ok(())
}
