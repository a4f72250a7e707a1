//! Health, readiness and metrics, for load balancers and operators.

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
use super::fresh::Fresh;
use crate::providers::Provider;
use nagaya_telemetry::metrics::Counts;

/// Time limit for the check of one component.
const DEADLINE: Duration = Duration::from_secs(2);
/// What a deployment can do that has no credentials for its only provider.
const ANOTHER_WAY: &str = "to call models at the Messages API instead, set ANTHROPIC_API_KEY";
/// How old the checks in a response may be.
const PROBE_AGE: Duration = Duration::from_secs(1);

/// Name and version of the service.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct About {
    /// Name of the service: `nagaya`.
    name: &'static str,
    /// Version of the server.
    version: &'static str,
    /// Path of the API's documentation.
    docs_url: &'static str,
}

/// Returns name and version of the service.
#[utoipa::path(get, path = "/", tag = "health",
    responses((status = 200, body = About, description = "Name and version of the service")))]
pub(super) async fn root() -> Json<About> {
    Json(About { name: "nagaya", version: env!("CARGO_PKG_VERSION"), docs_url: "/docs" })
}

/// Health of the service or of one component. `degraded`: runs work, but an optional component does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Status {
    /// Everything works.
    Healthy,
    /// Runs work, but an optional component does not.
    Degraded,
    /// A component that every run needs does not work.
    Unhealthy,
}

/// Result of the check of one component.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct Check {
    status: Status,
    /// `ok`, why the component is unhealthy, or that it is not configured.
    message: String,
    /// Duration of the check in milliseconds.
    latency_ms: f64,
}

/// Results of the checks of all components. One that is not configured counts as healthy.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct Checks {
    database: Check,
    redis: Check,
    docker: Check,
    s3: Check,
    /// Whether requests to the model get their credentials, as far as is known.
    model_credentials: Check,
}

/// Containers of the deployment and the warm pool of this server.
#[derive(Debug, Serialize, ToSchema)]
struct ContainerSystem {
    /// Number of running containers of the deployment, those in warm pools included.
    active_containers: usize,
    /// Number of workspaces in this server's warm pool.
    warm_pool_size: usize,
    /// `ok`, or why the warm pool is not filled.
    message: String,
}

/// Health of the service and of its dependencies.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Health {
    status: Status,
    /// Version of the server.
    version: &'static str,
    /// The configured environment: `development` or `production`.
    environment: &'static str,
    /// When the response was made.
    #[schema(value_type = String, format = DateTime)]
    timestamp: jiff::Timestamp,
    checks: Checks,
    container_system: ContainerSystem,
}

/// What a probe of all components found. Every open request is answered from one that is at most [`PROBE_AGE`] old: nobody without a
/// key can make the server ask its database, its engine and its bucket more often than that.
#[derive(Debug, Clone)]
struct Probed {
    checks: Checks,
    counts: Counts,
    /// Why the image of workspaces cannot be used.
    image_problem: Option<String>,
}

/// The latest probe of all components, shared by all requests.
#[derive(Debug)]
pub struct Probes(Fresh<Probed>);

impl Default for Probes {
    fn default() -> Self {
        Self(Fresh::new(PROBE_AGE))
    }
}

async fn probed(app: &AppState) -> Probed {
    app.probes.0.get(|| probe(app.clone())).await
}

async fn probe(app: AppState) -> Probed {
    let (database, docker, redis, s3, counts, image_problem) = tokio::join!(
        database(&app),
        check(app.workspaces.engine().ping()),
        shared_state(&app),
        storage(&app),
        app.workspaces.counts(),
        image_problem(&app),
    );
    let model_credentials = model_credentials(&app);
    Probed { checks: Checks { database, redis, docker, s3, model_credentials }, counts, image_problem }
}

/// What is known of the credentials for the model. The AWS credential chain can take seconds, so it is asked in the background.
fn model_credentials(app: &AppState) -> Check {
    let egress = app.workspaces.egress().clone();
    let mut problems = egress.credential_problems();
    if app.providers.anthropic.is_some() {
        problems.extend(app.unreachable(Provider::Anthropic, None));
    } else if !problems.is_empty() {
        problems.push(ANOTHER_WAY.into());
    }
    tokio::spawn(async move { egress.look_for_credentials().await });
    let (status, message) = match problems.is_empty() {
        true => (Status::Healthy, "ok".to_owned()),
        false => (Status::Degraded, problems.join("; ")),
    };
    Check { status, message, latency_ms: 0.0 }
}

async fn image_problem(app: &AppState) -> Option<String> {
    let image = app.workspaces.image();
    match tokio::time::timeout(DEADLINE, app.workspaces.engine().has_image(image)).await {
        Ok(Ok(true)) => app.workspaces.start_problem(),
        Ok(Ok(false)) => Some(format!("the image {image} does not exist; build it with `make image`")),
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("no answer within {DEADLINE:?}")),
    }
}

/// Checks the service and its dependencies. The status is always 200; the result is in the body. The checks are at most a second old.
#[utoipa::path(get, path = "/health", tag = "health",
    responses((status = 200, body = Health, description = "Result of the checks")))]
pub(super) async fn health(State(app): State<AppState>) -> Json<Health> {
    let Probed { checks, counts, .. } = probed(&app).await;
    // No run works without these two; the others are optional.
    let critical = [&checks.database, &checks.docker];
    // While the pool is not filled, a conversation's workspace is created on demand, which takes longer.
    let pool_problem = app.workspaces.pool_problem();
    let status = match pool_problem {
        _ if critical.iter().any(|check| check.status != Status::Healthy) => Status::Unhealthy,
        Some(_) => Status::Degraded,
        // Without them no run reaches its model, but files and workspaces can be used.
        None if checks.model_credentials.status != Status::Healthy => Status::Degraded,
        // Existing workspaces keep working and keep their files until Redis or the bucket answers again.
        None if [&checks.redis, &checks.s3].iter().any(|check| check.status != Status::Healthy) => Status::Degraded,
        None => Status::Healthy,
    };
    Json(Health {
        status,
        version: env!("CARGO_PKG_VERSION"),
        environment: app.environment.name(),
        timestamp: jiff::Timestamp::now(),
        checks,
        container_system: ContainerSystem {
            active_containers: counts.active_containers,
            warm_pool_size: counts.warm_pool_size,
            message: pool_problem.map_or_else(|| "ok".into(), |why| format!("the warm pool is not filled: {why}")),
        },
    })
}

/// Liveness probe: answers 200 while the process accepts requests.
#[utoipa::path(get, path = "/health/live", tag = "health",
    responses((status = 200, body = ProbeResult, description = "The server is alive")))]
pub(super) async fn live() -> Json<ProbeResult> {
    Json(ProbeResult { status: "alive" })
}

/// Result of a successful probe.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ProbeResult {
    /// Result of the probe: `alive` or `ready`.
    status: &'static str,
}

/// Readiness probe: answers 200 if a run could start, that is, if the database and the container engine work and the image exists.
#[utoipa::path(get, path = "/health/ready", tag = "health",
    responses((status = 200, body = ProbeResult, description = "A run could start"),
        (status = 503, body = super::error::ErrorEnvelope, description = "A run could not start; the message says why")))]
pub(super) async fn ready(State(app): State<AppState>) -> Result<Json<ProbeResult>, ApiError> {
    let Probed { checks: Checks { database, .. }, image_problem, .. } = probed(&app).await;
    if database.status != Status::Healthy {
        return Err(ApiError::unavailable(format!("database: {}", database.message)));
    }
    if let Some(why) = image_problem {
        return Err(ApiError::unavailable(format!("docker: {why}")));
    }
    if !app.workspaces.is_reconciled() {
        let why = "docker: workspaces of an earlier server process are still being reconciled";
        return Err(ApiError::unavailable(why));
    }
    match app.workspaces.host_path_problem() {
        Some(why) => Err(ApiError::unavailable(format!("sockets: {why}"))),
        None => Ok(Json(ProbeResult { status: "ready" })),
    }
}

/// Returns the metrics in the Prometheus text format. In the production environment a key is required.
#[utoipa::path(get, path = "/metrics", tag = "health",
    responses((status = 200, content_type = "text/plain", body = String, description = "Metrics in the Prometheus text format"),
    (status = 401, body = super::error::ErrorEnvelope), (status = 429, body = super::error::ErrorEnvelope)))]
pub(super) async fn metrics(State(app): State<AppState>) -> Result<Response, ApiError> {
    // A scrape counts anew: Prometheus asks rarely, and compares.
    let (probed, counts) = tokio::join!(probed(&app), app.workspaces.counts());
    let Checks { database, redis, docker, s3, model_credentials } = &probed.checks;
    let is_healthy = |check: &Check| check.status == Status::Healthy;
    let components = [
        ("database", is_healthy(database)),
        ("redis", is_healthy(redis)),
        ("docker", is_healthy(docker)),
        ("s3", is_healthy(s3)),
        ("model_credentials", is_healthy(model_credentials)),
        ("pool", app.workspaces.pool_problem().is_none()),
    ];
    let text = app.metrics.render(counts, &components).map_err(|error| ApiError::internal(&error))?;
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

/// Checks the database and the free space of the state directory, where the runs' journals are, whichever database is used.
async fn database(app: &AppState) -> Check {
    let mut result = check(app.store.ping()).await;
    if result.status == Status::Healthy
        && let Err(error) = app.state_dir.check_free_space()
    {
        (result.status, result.message) = (Status::Unhealthy, error.to_string());
    }
    result
}

/// Checks where workspace records are kept. The message also reports records that were set aside because they could not be read.
async fn shared_state(app: &AppState) -> Check {
    let state = app.workspaces.state();
    let mut result = match app.cluster.is_shared() {
        true => check(state.ping()).await,
        false => not_configured("not configured: workspace records are kept in the state directory"),
    };
    if let Some(quarantined) = state.quarantined() {
        result.message = format!("{}; {quarantined}", result.message);
    }
    result
}

/// Checks the bucket in which the workspaces' files are kept.
async fn storage(app: &AppState) -> Check {
    match app.workspaces.bucket() {
        Some(bucket) => check(bucket.ping(tokio::time::Instant::now() + DEADLINE)).await,
        None => not_configured("not configured: no file sync"),
    }
}

fn not_configured(message: &str) -> Check {
    Check { status: Status::Healthy, message: message.into(), latency_ms: 0.0 }
}
