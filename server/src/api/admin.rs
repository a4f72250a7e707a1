//! `/api/admin`: for operators.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::AppState;
use super::auth::Operator;
use super::error::{ApiError, ErrorEnvelope};
use super::extract::{ApiJson, ApiPath};
use nagaya_workspace::Why;
use nagaya_workspace::id::RoomId;
use nagaya_workspace::rooms::RoomState;
use nagaya_workspace::state::PoolSize;

/// Largest pool taken.
const LARGEST_POOL: usize = 1000;

/// A room.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Workspace {
    workspace_id: String,
    container: String,
    /// `starting`, `pooled`, `running`, `idle` or `releasing`.
    state: &'static str,
    conversation_id: Option<String>,
    tenant_id: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    created_at: jiff::Timestamp,
    idle_seconds: u64,
}

/// Every room this server has. Other servers of the deployment have theirs.
#[utoipa::path(get, path = "/api/admin/workspaces", tag = "admin", responses((status = 200, body = Vec<Workspace>)))]
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
            idle_seconds: app.workspaces.idle(&entry).as_secs(),
        }
    });
    Json(workspaces.collect())
}

/// Releases a room. A run in it ends with an error.
#[utoipa::path(delete, path = "/api/admin/workspaces/{workspace_id}", tag = "admin",
    params(("workspace_id" = String, Path)),
    responses((status = 204), (status = 404, body = ErrorEnvelope), (status = 503, body = ErrorEnvelope)))]
pub(super) async fn release(
    _: Operator,
    State(app): State<AppState>,
    ApiPath(id): ApiPath<String>,
) -> Result<StatusCode, ApiError> {
    let known = RoomId::parse(&id).filter(|id| app.workspaces.rooms().all().iter().any(|entry| entry.room.id == *id));
    let id = known.ok_or_else(|| ApiError::not_found("workspace"))?;
    app.workspaces.release(&id, Why::Operator).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Size of the warm pool.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Pool {
    /// So many rooms wait; 0 turns the pool off.
    min_size: usize,
    /// Never more than so many.
    max_size: usize,
}

/// Size of the warm pool as wanted.
#[utoipa::path(get, path = "/api/admin/pool", tag = "admin", responses((status = 200, body = Pool)))]
pub(super) async fn pool(_: Operator, State(app): State<AppState>) -> Json<Pool> {
    let PoolSize { min, max } = app.workspaces.pool_size();
    Json(Pool { min_size: min, max_size: max })
}

/// Changes the size of the warm pool, for every server of the deployment and for its later starts; the pools follow in the
/// background.
#[utoipa::path(put, path = "/api/admin/pool", tag = "admin", request_body = Pool,
    responses((status = 200, body = Pool), (status = 422, body = ErrorEnvelope), (status = 503, body = ErrorEnvelope)))]
pub(super) async fn set_pool(
    _: Operator,
    State(app): State<AppState>,
    ApiJson(pool): ApiJson<Pool>,
) -> Result<Json<Pool>, ApiError> {
    if pool.max_size > LARGEST_POOL {
        return Err(ApiError::invalid("max_size", format!("0 to {LARGEST_POOL} is accepted")));
    }
    if pool.min_size > pool.max_size {
        return Err(ApiError::invalid("min_size", "must not exceed max_size"));
    }
    app.workspaces.resize_pool(PoolSize { min: pool.min_size, max: pool.max_size }).await?;
    Ok(Json(pool))
}

/// What one garbage-collection cycle did.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Collected {
    reclaimed: Vec<Reclaimed>,
    errors: Vec<String>,
}

#[derive(Debug, Serialize, ToSchema)]
struct Reclaimed {
    workspace_id: String,
    /// One word.
    reason: &'static str,
    /// The same for a person.
    explanation: &'static str,
}

/// Runs one garbage-collection cycle.
#[utoipa::path(post, path = "/api/admin/gc", tag = "admin", responses((status = 200, body = Collected)))]
pub(super) async fn collect(_: Operator, State(app): State<AppState>) -> Json<Collected> {
    let report = app.cluster.collect().await;
    let reclaimed = report.reclaimed.into_iter().map(|(id, why)| Reclaimed {
        workspace_id: id.to_string(),
        reason: why.name(),
        explanation: why.explanation(),
    });
    Json(Collected { reclaimed: reclaimed.collect(), errors: report.errors })
}
