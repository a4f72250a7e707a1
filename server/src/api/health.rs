//! Health, readiness, metrics: what a load balancer and an operator look at.

use std::future::Future;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::AppState;
use super::error::ApiError;

/// How long one component may take to answer.
const DEADLINE: Duration = Duration::from_secs(2);

/// What the service is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct About {
    name: &'static str,
    version: &'static str,
    docs_url: &'static str,
}

/// What the service is.
#[utoipa::path(get, path = "/", tag = "health", responses((status = 200, body = About)))]
pub(super) async fn root() -> Json<About> {
    Json(About { name: "nagaya", version: env!("CARGO_PKG_VERSION"), docs_url: "/docs" })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Status {
    Healthy,
    /// Runs work, but something does not.
    Degraded,
    Unhealthy,
}

#[derive(Debug, Serialize, ToSchema)]
struct Check {
    status: Status,
    message: String,
    latency_ms: f64,
}

#[derive(Debug, Serialize, ToSchema)]
struct Checks {
    database: Check,
    redis: Check,
    docker: Check,
    s3: Check,
}

#[derive(Debug, Serialize, ToSchema)]
struct ContainerSystem {
    active_containers: usize,
    warm_pool_size: usize,
    /// `ok`, or why the pool is not filled.
    message: String,
}

/// How the service and what it needs are.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Health {
    status: Status,
    version: &'static str,
    environment: &'static str,
    #[schema(value_type = String, format = DateTime)]
    timestamp: jiff::Timestamp,
    checks: Checks,
    container_system: ContainerSystem,
}

/// How the service and what it needs are. Always 200: the answer is in the body.
#[utoipa::path(get, path = "/health", tag = "health", responses((status = 200, body = Health)))]
pub(super) async fn health(State(app): State<AppState>) -> Json<Health> {
    let (database, docker, redis, s3, reality) = tokio::join!(
        database(&app),
        check(app.workspaces.engine().ping()),
        shared_state(&app),
        storage(&app),
        app.workspaces.counts()
    );
    // Nothing depends on what is not configured.
    let critical = [&database, &docker];
    // Without a pool every conversation still gets a room, only later.
    let trouble = app.workspaces.pool_problem();
    let status = match trouble {
        _ if critical.iter().any(|check| check.status != Status::Healthy) => Status::Unhealthy,
        Some(_) => Status::Degraded,
        // Rooms that are there go on, and files wait in them.
        None if [&redis, &s3].iter().any(|check| check.status != Status::Healthy) => Status::Degraded,
        None => Status::Healthy,
    };
    Json(Health {
        status,
        version: env!("CARGO_PKG_VERSION"),
        environment: app.environment.name(),
        timestamp: jiff::Timestamp::now(),
        checks: Checks { database, redis, docker, s3 },
        container_system: ContainerSystem {
            active_containers: reality.active_containers,
            warm_pool_size: reality.warm_pool_size,
            message: trouble.map_or_else(|| "ok".into(), |why| format!("the warm pool is not filled: {why}")),
        },
    })
}

/// Whether the process runs.
#[utoipa::path(get, path = "/health/live", tag = "health", responses((status = 200, body = Word)))]
pub(super) async fn live() -> Json<Word> {
    Json(Word { status: "alive" })
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Word {
    status: &'static str,
}

/// Whether a run could start.
#[utoipa::path(get, path = "/health/ready", tag = "health",
    responses((status = 200, body = Word), (status = 503, body = super::error::ErrorEnvelope)))]
pub(super) async fn ready(State(app): State<AppState>) -> Result<Json<Word>, ApiError> {
    let database = database(&app).await;
    if database.status != Status::Healthy {
        return Err(ApiError::unavailable(format!("database: {}", database.message)));
    }
    let image = app.workspaces.image();
    match app.workspaces.engine().has_image(image).await {
        Ok(true) if !app.workspaces.is_reconciled() => {
            Err(ApiError::unavailable("docker: what an earlier server left is still being looked through"))
        }
        Ok(true) => match app.workspaces.host_path_problem() {
            Some(why) => Err(ApiError::unavailable(format!("sockets: {why}"))),
            None => Ok(Json(Word { status: "ready" })),
        },
        Ok(false) => Err(ApiError::unavailable(format!("docker: there is no image {image}; `make image` builds it"))),
        Err(error) => Err(ApiError::unavailable(format!("docker: {error}"))),
    }
}

/// The metrics in the Prometheus text format. In production a key is needed.
#[utoipa::path(get, path = "/metrics", tag = "health", responses((status = 200, content_type = "text/plain", body = String),
    (status = 401, body = super::error::ErrorEnvelope), (status = 429, body = super::error::ErrorEnvelope)))]
pub(super) async fn metrics(State(app): State<AppState>) -> Result<Response, ApiError> {
    let (Json(health), reality) = tokio::join!(health(State(app.clone())), app.workspaces.counts());
    let Checks { database, redis, docker, s3 } = &health.checks;
    let is_well = |check: &Check| check.status == Status::Healthy;
    let components = [
        ("database", is_well(database)),
        ("redis", is_well(redis)),
        ("docker", is_well(docker)),
        ("s3", is_well(s3)),
        ("pool", app.workspaces.pool_problem().is_none()),
    ];
    let text = app.metrics.render(reality, &components).map_err(|error| ApiError::internal(&error))?;
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}

async fn check<E: std::fmt::Display>(probe: impl Future<Output = Result<(), E>>) -> Check {
    let began = Instant::now();
    let (status, message) = match tokio::time::timeout(DEADLINE, probe).await {
        Ok(Ok(())) => (Status::Healthy, "ok".to_owned()),
        Ok(Err(error)) => (Status::Unhealthy, error.to_string()),
        Err(_) => (Status::Unhealthy, format!("no answer within {DEADLINE:?}")),
    };
    let latency_ms = (began.elapsed().as_secs_f64() * 1e6).round() / 1e3;
    Check { status, message, latency_ms }
}

/// Where conversations and runs are kept. Runs have journals in the state directory, wherever the database is.
async fn database(app: &AppState) -> Check {
    let mut checked = check(app.store.ping()).await;
    if checked.status == Status::Healthy
        && let Err(error) = app.state_dir.check_free_space()
    {
        (checked.status, checked.message) = (Status::Unhealthy, error.to_string());
    }
    checked
}

/// Where workspace records are; what could not be read of them is told, too.
async fn shared_state(app: &AppState) -> Check {
    let state = app.workspaces.state();
    let mut checked = match app.cluster.is_shared() {
        true => check(state.ping()).await,
        false => absent("not configured: workspace records are kept in the state directory"),
    };
    if let Some(told) = state.quarantined() {
        checked.message = format!("{}; {told}", checked.message);
    }
    checked
}

/// Where rooms' files are kept.
async fn storage(app: &AppState) -> Check {
    match app.workspaces.bucket() {
        Some(bucket) => check(bucket.ping(tokio::time::Instant::now() + DEADLINE)).await,
        None => absent("not configured: no file sync"),
    }
}

fn absent(message: &str) -> Check {
    Check { status: Status::Healthy, message: message.into(), latency_ms: 0.0 }
}
