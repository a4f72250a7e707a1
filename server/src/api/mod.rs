//! The HTTP API: routing, authentication, validation and error mapping; one file per resource.

mod admin;
mod approvals;
mod attempts;
pub mod auth;
mod client_tools;
mod configuration;
mod conversations;
mod description;
mod docs;
pub mod error;
mod extract;
mod file_path;
mod files;
mod form;
mod forward;
mod fresh;
mod health;
mod idempotency;
mod keys;
mod log;
mod models;
mod order;
pub mod rate_limit;
pub mod request_id;
mod run_request;
mod schemas;
mod skills;
mod steering;
mod stream;
mod tenant_keys;
mod tenants;
mod vaults;

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
use crate::providers::{Provider, Providers};
use crate::tenancy::Tenancy;
use auth::{Credential, Keys, Oidc};
use description::Description;
use error::{ApiError, Code};
pub use forward::peer_router;
pub use health::Probes;
pub use idempotency::Idempotency;
use nagaya_telemetry::audit::Audit;
use nagaya_telemetry::metrics::Metrics;
use nagaya_workspace::Workspaces;
use nagaya_workspace::state::directory::StateDir;
use rate_limit::RateLimits;

/// The deployment's environment (`APP_ENV`), which decides where keys are required.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Environment {
    /// Keys are optional on a loopback address, and `/metrics` is open.
    Development,
    /// Keys are required, also for `/metrics`: an operator's, or one that is only for metrics.
    Production,
}

impl Environment {
    /// The name used in settings and responses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Development => "development",
            Self::Production => "production",
        }
    }
}

/// The state that all handlers share.
#[derive(Debug, Clone)]
pub struct AppState {
    /// The deployment's environment.
    pub environment: Environment,
    /// The keys: the configured ones, and those that were created at run time.
    pub keys: Arc<Keys>,
    /// The issuer whose tokens are accepted, if any.
    pub oidc: Option<Arc<Oidc>>,
    /// Work on requests with `Idempotency-Key`.
    pub idempotency: Arc<Idempotency>,
    /// The rate limit of each key; `None` if requests are not limited.
    pub rate_limits: Option<Arc<RateLimits>>,
    /// This server's state directory.
    pub state_dir: Arc<StateDir>,
    /// The database of tenants, models, conversations and messages.
    pub store: Store,
    /// Configurations and vaults of tenants.
    pub tenancy: Arc<Tenancy>,
    /// Files that were sent with a run's request and are not in its workspace yet.
    pub uploads: Uploads,
    /// Runs of this server.
    pub runs: Arc<Runs>,
    /// Workspaces of all servers of the deployment.
    pub cluster: Arc<Cluster>,
    /// Workspaces of this server.
    pub workspaces: Arc<Workspaces>,
    /// Prometheus metrics.
    pub metrics: Arc<Metrics>,
    /// The audit trail.
    pub audit: Arc<Audit>,
    /// The latest checks of the server's dependencies.
    pub probes: Arc<Probes>,
    /// What workspaces reach.
    pub reach: Arc<dyn Reach>,
    /// Where models are called.
    pub providers: Arc<Providers>,
}

/// What workspaces can reach through the egress proxy.
pub trait Reach: std::fmt::Debug + Send + Sync {
    /// Whether they may send requests to a host and port.
    fn allows(&self, host: &str, port: u16) -> bool;
}

impl AppState {
    /// Why a model of this provider, at Bedrock in this region, cannot be called, and what to set; `None` if it can.
    fn unreachable(&self, provider: Provider, region: Option<&str>) -> Option<String> {
        self.providers.unreachable(provider, region, |host, port| self.reach.allows(host, port))
    }
}

/// The routes that require a key, if keys are configured.
fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(tenants::list, tenants::create))
        .routes(routes!(tenants::get, tenants::update, tenants::delete))
        .routes(routes!(tenants::usage))
        .routes(routes!(tenant_keys::list, tenant_keys::create))
        .routes(routes!(tenant_keys::get, tenant_keys::update, tenant_keys::revoke))
        .routes(routes!(tenant_keys::rotate))
        .routes(routes!(models::list, models::create))
        .routes(routes!(models::get, models::update, models::delete))
        .routes(routes!(models::set_status))
        .routes(routes!(conversations::list, conversations::create))
        .routes(routes!(conversations::get, conversations::update, conversations::delete))
        .routes(routes!(conversations::archive))
        .routes(routes!(conversations::messages, steering::send))
        .routes(routes!(conversations::delete_workspace))
        .routes(routes!(stream::start, stream::follow))
        .routes(routes!(stream::cancel))
        .routes(routes!(steering::interrupt))
        .routes(routes!(log::log))
        .routes(routes!(approvals::list))
        .routes(routes!(approvals::decide))
        .routes(routes!(client_tools::answer))
        .routes(routes!(files::list, files::upload, files::delete))
        .routes(routes!(files::presented))
        .routes(routes!(files::download))
        .routes(routes!(configuration::of_tenant, configuration::write_of_tenant))
        .routes(routes!(configuration::of_conversation, configuration::write_of_conversation))
        .routes(routes!(configuration::effective_of_tenant))
        .routes(routes!(configuration::effective_of_conversation))
        .routes(routes!(configuration::explain))
        .routes(routes!(configuration::schema))
        .routes(routes!(skills::list))
        .routes(routes!(skills::upload, skills::delete))
        .routes(routes!(vaults::list, vaults::create))
        .routes(routes!(vaults::get, vaults::delete))
        .routes(routes!(vaults::credentials, vaults::add))
        .routes(routes!(vaults::credential, vaults::replace, vaults::remove))
        .routes(routes!(vaults::rekey))
        .routes(routes!(admin::workspaces))
        .routes(routes!(admin::release))
        .routes(routes!(admin::pool, admin::set_pool))
        .routes(routes!(admin::collect))
        .routes(routes!(keys::list, keys::create))
        .routes(routes!(keys::get, keys::update, keys::revoke))
        .routes(routes!(keys::rotate))
}

/// The routes that never require a key.
fn open_routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(health::root))
        .routes(routes!(health::health))
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
}

/// `/metrics` requires a key only in the production environment.
fn metrics_route() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(health::metrics))
}

/// The OpenAPI document of the service.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    let guarded = description::guarded(routes().into_openapi());
    schemas::complete(description::open(open_routes().merge(metrics_route()).into_openapi()).merge_from(guarded))
}

/// The router of the whole service, with its middleware.
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
        .merge(
            guarded
                .route_layer(from_fn_with_state(app.clone(), forward::layer))
                .route_layer(from_fn_with_state(app.clone(), idempotency::layer))
                .route_layer(authenticated()),
        )
        .merge(open)
        .merge(metrics)
        .merge(docs::router())
        .fallback(async || ApiError::not_found("route; see /docs for all routes"))
        .method_not_allowed_fallback(async || {
            ApiError::new(Code::MethodNotAllowed, "the route does not support this method; see /docs")
        })
        .layer(DefaultBodyLimit::max(extract::MAX_BODY_BYTES))
        .layer(from_fn(extract::read_on))
        .layer(CatchPanicLayer::custom(after_panic))
        .layer(from_fn_with_state(app.clone(), measure))
        .layer(from_fn(request_id::layer))
        .with_state(app)
}

/// Counts the request in the metrics and logs its result.
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
    let key = response.extensions().get::<Credential>().filter(|key| **key != Credential::None);
    let key = key.map(tracing::field::display);
    // Load balancers and Prometheus send these every few seconds.
    if route.starts_with("/health") || route == auth::METRICS_PATH {
        tracing::debug!(method, route, status, took_ms, key, "answered");
    } else {
        tracing::info!(method, route, status, took_ms, key, "answered");
    }
    response
}

/// Answers 500 after a handler has panicked, with the panic's message in the log.
fn after_panic(panic: Box<dyn Any + Send>) -> Response {
    let message = panic.downcast_ref::<String>().map(String::as_str);
    let message = message.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
    ApiError::internal(&format!("panic: {message}")).into_response()
}
