//! The health endpoints and the metrics page.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::client::http::Reply;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::health::check_health;
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "HLTH-001",
        "The three health endpoints and the front page answer, with the state of every component",
        "GET /, /health, /health/live, /health/ready",
        body!(shapes),
    )
    .severity(Severity::High)
    .limit(45),
    Scenario::new(
        "HLTH-002",
        "The metrics page is in the Prometheus text format, with the contract's names and types",
        "GET /metrics: gauges, histograms and counters of section 5; no id is ever a label",
        body!(metrics),
    )
    .limit(45),
    Scenario::new(
        "HLTH-006",
        "However often /health is asked, the dependencies are probed no more than about once a second",
        "open requests must not multiply: answered from a result that is at most a second old",
        body!(probed_once),
    )
    .severity(Severity::High)
    .limit(45),
    Scenario::new(
        "HLTH-007",
        "A warm pool that cannot be filled is degraded and says why, and is healthy once its size needs nothing",
        "GET /health: degraded while the pool is not filled; never 5xx",
        body!(empty_pool),
    )
    .severity(Severity::Medium)
    .profile(Profile::Full)
    .requires(&[Capability::Launch, Capability::Docker, Capability::Admin])
    .limit(45),
];

/// How long a change of the pool may take until it shows.
const SHOWN_LIMIT: Duration = Duration::from_secs(15);
/// Requests to `/health` at the same time, and how often.
const AT_ONCE: usize = 40;
const ROUNDS: usize = 3;
/// How long until another probe has another duration.
const ANOTHER_PROBE: Duration = Duration::from_secs(10);

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
    check(
        openapi["paths"].as_object().is_some_and(|paths| paths.contains_key("/health")),
        "/openapi.json has no /health",
    )?;
    open.get("/docs").await?.expect(200).map(|_| ())
}

async fn probed_once(context: &Context) -> Result<(), Failure> {
    let open = context.deployment().await?.api.with_key(None);
    let began = Instant::now();
    // Each probe has a duration of its own, in microseconds. Equal ones are the same probe.
    let mut probes = BTreeSet::new();
    let probe = |reply: Reply| -> Result<[String; 2], Failure> {
        let health = reply.expect(200)?.json()?;
        let took = |name: &str| health["checks"][name]["latency_ms"].as_f64();
        let [database, docker] = ["database", "docker"].map(took);
        check(database.is_some() || docker.is_some(), format!("no latency_ms in /health: {health}"))?;
        Ok([format!("{database:?}"), format!("{docker:?}")])
    };
    for _ in 0..ROUNDS {
        for reply in futures::future::join_all((0..AT_ONCE).map(|_| open.get("/health"))).await {
            probes.insert(probe(reply?)?);
        }
    }
    let asked = AT_ONCE * ROUNDS;
    // One that began before the first request, one in each interval, and one that has not ended with the last.
    let intervals = began.elapsed().as_millis() / context.description().limits.health_interval.as_millis().max(1);
    let most = 2 + usize::try_from(intervals).unwrap_or(usize::MAX) + 1;
    check(
        probes.len() <= most,
        format!("{asked} requests caused {} probes, more than {most}: {probes:?}", probes.len()),
    )?;
    // The control: another probe has another duration, or nothing was counted.
    let another = eventually(ANOTHER_PROBE, "a probe with another duration", async || {
        let now = probe(open.get("/health").await?)?;
        check(!probes.contains(&now), format!("{now:?}"))
    });
    another.await.map_err(|failure| Failure::could_not_run(format!("probes cannot be told apart: {failure}")))
}

async fn empty_pool(context: &Context) -> Result<(), Failure> {
    const IMAGE: &str = "conformance/no-such-image:1";
    let launch = Launch::new().without_model().without_waiting();
    let launch = launch.set("CONTAINER_IMAGE", IMAGE).set("WARM_POOL_MIN_SIZE", 1).set("WARM_POOL_MAX_SIZE", 2);
    let deployment = context.launch(launch).await?;
    let shows = async |status: &str, says: &str| {
        eventually(SHOWN_LIMIT, format!("the status {status} in /health"), async || {
            let health = deployment.api.get("/health").await?.expect(200)?.json()?;
            check_health(&health)?;
            let pool = health["container_system"]["message"].as_str().unwrap_or_default();
            check(health["status"] == status && pool.contains(says), health.to_string())
        })
        .await
    };
    shows("degraded", IMAGE).await?;
    deployment.api.put("/api/admin/pool", &serde_json::json!({"min_size": 0, "max_size": 0})).await?.expect(200)?;
    shows("healthy", "ok").await
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
