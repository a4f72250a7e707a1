//! `/api/admin`: workspaces, warm pool and garbage collection, for operators only.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::AppState;
use super::auth::Operator;
use super::error::{ApiError, ErrorEnvelope};
use super::extract::{ApiJson, ApiPath};
use nagaya_workspace::ReleaseReason;
use nagaya_workspace::id::RoomId;
use nagaya_workspace::rooms::RoomState;
use nagaya_workspace::state::PoolSize;

/// Upper limit of `max_size`.
const MAX_POOL_SIZE: usize = 1000;

/// A workspace: one locked container with its socket directory and egress proxy.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Workspace {
    /// Id of the workspace, which appears in logs and container labels.
    workspace_id: String,
    /// Name of its Docker container.
    container: String,
    /// State of the workspace: `starting`, `pooled`, `running`, `idle` or `releasing`.
    state: &'static str,
    /// Id of the conversation that occupies it; `null` while it is in the warm pool.
    conversation_id: Option<String>,
    /// Id of that conversation's tenant; `null` while it is in the warm pool.
    tenant_id: Option<String>,
    /// When the workspace was created.
    #[schema(value_type = String, format = DateTime)]
    created_at: jiff::Timestamp,
    /// Seconds since the workspace was last used.
    idle_seconds: u64,
}

/// Path parameter of the routes of one workspace.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct WorkspacePath {
    /// Id of the workspace, as listed.
    workspace_id: String,
}

/// Lists the workspaces of this server, oldest first. Other servers of the deployment list their own.
#[utoipa::path(get, path = "/api/admin/workspaces", tag = "admin",
    responses((status = 200, body = Vec<Workspace>, description = "All workspaces of this server")))]
pub(super) async fn workspaces(_: Operator, State(app): State<AppState>) -> Json<Vec<Workspace>> {
    let mut entries = app.workspaces.rooms().all();
    entries.sort_by_key(|entry| entry.room.created_at);
    let workspaces = entries.into_iter().map(|entry| {
        let occupant = match &entry.state {
            RoomState::Bound { occupant, .. } => Some(occupant.clone()),
            _ => None,
        };
        let (conversation_id, tenant_id) = occupant.map(|o| (o.conversation, o.tenant)).unzip();
        Workspace {
            workspace_id: entry.room.id.to_string(),
            container: entry.room.id.container(),
            state: entry.state.name(),
            conversation_id,
            tenant_id,
            created_at: entry.room.created_at,
            idle_seconds: app.workspaces.idle_time(&entry).as_secs(),
        }
    });
    Json(workspaces.collect())
}

/// Releases a workspace: removes its container, sockets and proxy. A run that uses it ends with an error.
#[utoipa::path(delete, path = "/api/admin/workspaces/{workspace_id}", tag = "admin",
    params(WorkspacePath),
    responses((status = 204, description = "The workspace is released"), (status = 404, body = ErrorEnvelope), (status = 503, body = ErrorEnvelope)))]
pub(super) async fn release(
    _: Operator,
    State(app): State<AppState>,
    ApiPath(WorkspacePath { workspace_id: id }): ApiPath<WorkspacePath>,
) -> Result<StatusCode, ApiError> {
    let known = RoomId::parse(&id).filter(|id| app.workspaces.rooms().all().iter().any(|entry| entry.room.id == *id));
    let id = known.ok_or_else(|| ApiError::not_found("workspace"))?;
    app.workspaces.release(&id, ReleaseReason::Operator).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Size of the warm pool of each server.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Pool {
    /// Number of workspaces kept ready, at most `max_size`; 0 turns the pool off.
    min_size: usize,
    /// Upper limit of pooled workspaces, from 0 to 1,000; a larger pool is shrunk to it.
    max_size: usize,
}

/// Returns the configured size of the warm pool.
#[utoipa::path(get, path = "/api/admin/pool", tag = "admin",
    responses((status = 200, body = Pool, description = "The configured size of the warm pool")))]
pub(super) async fn pool(_: Operator, State(app): State<AppState>) -> Json<Pool> {
    let PoolSize { min, max } = app.workspaces.pool_size();
    Json(Pool { min_size: min, max_size: max })
}

/// Changes the size of the warm pool on every server of the deployment, also after a restart. The pools grow or shrink in the
/// background.
#[utoipa::path(put, path = "/api/admin/pool", tag = "admin", request_body = Pool,
    responses((status = 200, body = Pool, description = "The new size of the warm pool"), (status = 422, body = ErrorEnvelope), (status = 503, body = ErrorEnvelope)))]
pub(super) async fn set_pool(
    _: Operator,
    State(app): State<AppState>,
    ApiJson(pool): ApiJson<Pool>,
) -> Result<Json<Pool>, ApiError> {
    if pool.max_size > MAX_POOL_SIZE {
        return Err(ApiError::invalid("max_size", format!("must be from 0 to {MAX_POOL_SIZE}")));
    }
    if pool.min_size > pool.max_size {
        return Err(ApiError::invalid("min_size", "must not exceed max_size"));
    }
    app.workspaces.resize_pool(PoolSize { min: pool.min_size, max: pool.max_size }).await?;
    Ok(Json(pool))
}

/// Result of one garbage-collection cycle.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Collected {
    /// Workspaces that the cycle removed.
    reclaimed: Vec<Reclaimed>,
    /// What could not be removed or checked, one message each; the next cycle tries again.
    errors: Vec<String>,
}

/// A workspace that garbage collection removed.
#[derive(Debug, Serialize, ToSchema)]
struct Reclaimed {
    /// Id of the removed workspace.
    workspace_id: String,
    /// Reason code, for example `idle`.
    reason: &'static str,
    /// The reason in plain English.
    explanation: &'static str,
}

/// Runs one garbage-collection cycle and waits for its result.
#[utoipa::path(post, path = "/api/admin/gc", tag = "admin",
    responses((status = 200, body = Collected, description = "Result of the cycle")))]
pub(super) async fn collect(_: Operator, State(app): State<AppState>) -> Json<Collected> {
    let report = app.cluster.collect().await;
    let reclaimed = report.reclaimed.into_iter().map(|(id, why)| Reclaimed {
        workspace_id: id.to_string(),
        reason: why.name(),
        explanation: why.explanation(),
    });
    Json(Collected { reclaimed: reclaimed.collect(), errors: report.errors })
}
