//! Reads `/health`.

use serde_json::Value;

use crate::harness::failure::{Failure, check};

/// Checks the parts of `/health` that do not depend on the state of the components.
pub(crate) fn check_health(health: &Value) -> Result<(), Failure> {
    let what = |field: &str| format!("{field} in /health: {health}");
    check(matches!(health["status"].as_str(), Some("healthy" | "degraded" | "unhealthy")), what("status"))?;
    check(health["version"].as_str().is_some_and(|text| !text.is_empty()), what("version"))?;
    check(matches!(health["environment"].as_str(), Some("development" | "production")), what("environment"))?;
    let stamp = health["timestamp"].as_str().unwrap_or_default();
    check(stamp.parse::<jiff::Timestamp>().is_ok(), what("timestamp"))?;
    for name in ["database", "redis", "docker", "s3"] {
        let component = &health["checks"][name];
        check(matches!(component["status"].as_str(), Some("healthy" | "unhealthy" | "degraded")), what(name))?;
        check(component["message"].is_string(), what(&format!("{name}.message")))?;
        check(component["latency_ms"].as_f64().is_some_and(|ms| ms >= 0.0), what(&format!("{name}.latency_ms")))?;
    }
    for name in ["active_containers", "warm_pool_size"] {
        check(health["container_system"][name].as_u64().is_some(), what(name))?;
    }
    Ok(())
}
