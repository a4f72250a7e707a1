//! Health endpoints: BUG-03, HLTH.

use std::time::Duration;

use serde_json::Value;

use crate::context::Context;
use crate::failure::{Failure, check, check_eq};
use crate::poll::eventually;
use crate::scenario::{Capability, Profile, Scenario, Severity};
use crate::target::launch::Launch;
use crate::target::relay::Relay;

/// How long a change of a component may take to be seen.
const SEEN_LIMIT: Duration = Duration::from_secs(15);

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        id: "BUG-03",
        title: "/health answers 200 with every component's state, whether Docker is there or not",
        severity: Severity::Critical,
        requirement: "/health answers correctly in every combination of component states; never 5xx",
        requires: &[Capability::Launch, Capability::Docker, Capability::Image],
        profile: Profile::Full,
        destructive: false,
        limit: Duration::from_secs(60),
        body: body!(docker_up_and_down),
    },
    Scenario {
        id: "HLTH-001",
        title: "the three health endpoints and the front page have the contract's shape",
        severity: Severity::High,
        requirement: "GET /, /health, /health/live, /health/ready",
        requires: &[],
        profile: Profile::Core,
        destructive: false,
        limit: Duration::from_secs(45),
        body: body!(shapes),
    },
    Scenario {
        id: "HLTH-002",
        title: "metrics are in the Prometheus text format, with the contract's names and types",
        severity: Severity::Medium,
        requirement: "GET /metrics: gauges, histograms and counters of section 5; no id is ever a label",
        requires: &[],
        profile: Profile::Core,
        destructive: false,
        limit: Duration::from_secs(45),
        body: body!(metrics),
    },
];

/// What holds for `/health` whatever the components' states are.
fn check_health(health: &Value) -> Result<(), Failure> {
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
        check(message.to_lowercase().contains("not configured"), format!("{name} does not say that it is not configured: {message:?}"))?;
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

async fn shapes(context: &Context) -> Result<(), Failure> {
    let api = context.deployment().await?.api;
    let open = api.with_key(None);
    let front = open.get("/").await?.expect(200)?.json()?;
    for field in ["name", "version", "docs_url"] {
        check(front[field].as_str().is_some_and(|text| !text.is_empty()), format!("{field} in /: {front}"))?;
    }
    check_health(&open.get("/health").await?.expect(200)?.json()?)?;
    check_eq("/health/live", open.get("/health/live").await?.expect(200)?.json()?["status"].as_str(), Some("alive"))?;
    let ready = open.get("/health/ready").await?;
    match ready.status.as_u16() {
        200 => check_eq("/health/ready", ready.json()?["status"].as_str(), Some("ready"))?,
        _ => ready.expect_error(503, "SERVICE_UNAVAILABLE")?,
    }
    let openapi = open.get("/openapi.json").await?.expect(200)?.json()?;
    let version = openapi["openapi"].as_str().unwrap_or_default();
    check(version.starts_with("3.1"), format!("/openapi.json is of version {version:?}, not 3.1"))?;
    check(openapi["paths"].as_object().is_some_and(|paths| paths.contains_key("/health")), "/openapi.json has no /health")?;
    open.get("/docs").await?.expect(200).map(|_| ())
}

async fn metrics(context: &Context) -> Result<(), Failure> {
    let api = context.deployment().await?.api;
    let route = "/api/models/conformance-asks-for-no-such-model";
    api.get(route).await?.expect(404)?;
    let reply = api.get("/metrics").await?.expect(200)?;
    let content_type = reply.header("content-type").unwrap_or_default();
    check(content_type.starts_with("text/plain"), format!("the content type of /metrics is {content_type:?}"))?;
    let page = crate::client::metrics::Metrics::parse(&reply.text()).map_err(Failure::assertion)?;
    for (name, kind) in [
        ("workspace_active_containers", "gauge"),
        ("workspace_warm_pool_size", "gauge"),
        ("workspace_proxies", "gauge"),
        ("http_request_duration_seconds", "histogram"),
        ("workspace_gc_cycles_total", "counter"),
        ("workspace_requests_total", "counter"),
    ] {
        check_eq(format!("type of {name}"), page.types.get(name).map(String::as_str), Some(kind))?;
    }
    let leaked = page.samples.iter().find(|sample| sample.labels.values().any(|value| value.contains("no-such-model")));
    check(leaked.is_none(), format!("an id is a label: {leaked:?}"))
}
