//! HTTP in and out: one file per resource.

mod admin;
pub mod auth;
mod conversations;
mod description;
mod docs;
pub mod error;
mod extract;
mod file_path;
mod files;
mod forward;
mod health;
mod models;
pub mod rate_limit;
mod request_id;
mod run_request;
mod stream;
mod tenants;

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::cluster::Cluster;
use crate::conversation::runs::Runs;
use crate::conversation::store::Store;
use crate::conversation::uploads::Uploads;
use auth::ApiKeys;
use description::Description;
use error::{ApiError, Code};
pub use forward::peer_router;
use nagaya_telemetry::audit::Audit;
use nagaya_telemetry::metrics::Metrics;
use nagaya_workspace::Workspaces;
use nagaya_workspace::state::directory::StateDir;
use rate_limit::RateLimits;

/// Which set of safety rules applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Environment {
    /// Open without keys; `/metrics` is open.
    Development,
    /// Keys are required.
    Production,
}

impl Environment {
    /// The name used in settings and answers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Development => "development",
            Self::Production => "production",
        }
    }
}

/// What every handler may use.
#[derive(Debug, Clone)]
pub struct AppState {
    /// Which safety rules apply.
    pub environment: Environment,
    /// Who may ask.
    pub keys: Arc<ApiKeys>,
    /// How often each key may ask; `None` where nobody counts.
    pub rate_limits: Option<Arc<RateLimits>>,
    /// Where this server keeps what is its own.
    pub state_dir: Arc<StateDir>,
    /// What is kept.
    pub store: Store,
    /// Where files are that came with a run's request.
    pub uploads: Uploads,
    /// Runs.
    pub runs: Arc<Runs>,
    /// The deployment's workspaces.
    pub cluster: Arc<Cluster>,
    /// This server's workspaces.
    pub workspaces: Arc<Workspaces>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Keeps what operators do.
    pub audit: Arc<Audit>,
    /// Whether the way out leads to models of a region.
    pub regions: Arc<dyn Regions>,
}

/// Which regions' models the rooms can reach.
pub trait Regions: std::fmt::Debug + Send + Sync {
    /// Why a model in this region could not be called; `None` where it can.
    fn unreachable(&self, region: &str) -> Option<String>;
}

/// Every route with its description.
fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(tenants::list, tenants::create))
        .routes(routes!(tenants::get, tenants::update, tenants::delete))
        .routes(routes!(models::list, models::create))
        .routes(routes!(models::get, models::update, models::delete))
        .routes(routes!(models::set_status))
        .routes(routes!(conversations::list, conversations::create))
        .routes(routes!(conversations::get, conversations::update, conversations::delete))
        .routes(routes!(conversations::archive))
        .routes(routes!(conversations::messages))
        .routes(routes!(stream::start, stream::follow))
        .routes(routes!(stream::cancel))
        .routes(routes!(files::list, files::upload, files::delete))
        .routes(routes!(files::presented))
        .routes(routes!(files::download))
        .routes(routes!(admin::workspaces))
        .routes(routes!(admin::release))
        .routes(routes!(admin::pool, admin::set_pool))
        .routes(routes!(admin::collect))
}

fn open_routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(health::root))
        .routes(routes!(health::health))
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
}

/// Open in development, guarded in production.
fn metrics_route() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(health::metrics))
}

/// The OpenAPI description of the service.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    let guarded = description::guarded(routes().into_openapi());
    open_routes().merge(metrics_route()).into_openapi().merge_from(guarded)
}

/// The whole service.
pub fn router(app: AppState) -> Router {
    let authenticated = || from_fn_with_state(app.clone(), auth::layer);
    let (guarded, _) = routes().split_for_parts();
    let (open, _) = open_routes().split_for_parts();
    let (metrics, _) = metrics_route().split_for_parts();
    let metrics = match app.environment {
        Environment::Development => metrics,
        Environment::Production => metrics.route_layer(authenticated()),
    };
    Router::new()
        .merge(guarded.route_layer(from_fn_with_state(app.clone(), forward::layer)).route_layer(authenticated()))
        .merge(open)
        .merge(metrics)
        .merge(docs::router())
        .fallback(async || ApiError::not_found("route; /docs lists them"))
        .method_not_allowed_fallback(async || {
            ApiError::new(Code::MethodNotAllowed, "the route does not have this method; /docs lists them")
        })
        .layer(DefaultBodyLimit::max(extract::LARGEST_BODY))
        .layer(CatchPanicLayer::custom(after_panic))
        .layer(from_fn_with_state(app.clone(), measure))
        .layer(from_fn(request_id::layer))
        .with_state(app)
}

async fn measure(State(app): State<AppState>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let method = match request.method().as_str() {
        known @ ("GET" | "POST" | "PUT" | "PATCH" | "DELETE" | "HEAD" | "OPTIONS") => known.to_owned(),
        _ => "OTHER".to_owned(),
    };
    let route =
        request.extensions().get::<MatchedPath>().map_or("unmatched".to_owned(), |path| path.as_str().to_owned());
    let response = next.run(request).await;
    let (status, took) = (response.status().as_u16(), began.elapsed());
    app.metrics.answered(&method, &route, status, took);
    let took_ms = took.as_millis();
    // Load balancers and Prometheus ask all the time.
    if route.starts_with("/health") || route == "/metrics" {
        tracing::debug!(method, route, status, took_ms, "answered");
    } else {
        tracing::info!(method, route, status, took_ms, "answered");
    }
    response
}

fn after_panic(panic: Box<dyn Any + Send>) -> Response {
    let message = panic.downcast_ref::<String>().map(String::as_str);
    let message = message.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
    ApiError::internal(&format!("panic: {message}")).into_response()
}
