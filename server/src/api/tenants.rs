//! `/api/tenants`

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::ToSchema;

use super::AppState;
use super::auth::{Operator, TenantScope};
use super::error::{ApiError, ErrorEnvelope};
use super::extract::{ApiJson, check_id, check_length};
use crate::conversation::store::{NewTenant, Tenant, TenantChange, TenantStatus};

/// Longest system prompt, in characters.
const SYSTEM_PROMPT: std::ops::RangeInclusive<usize> = 0..=100_000;

/// What makes a tenant.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = TenantCreation, example = json!({"tenant_id": "acme", "model_id": "sonnet"}))]
pub(super) struct Creation {
    /// 1 to 64 letters, digits, `-`, `_`, `.`
    #[schema(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    tenant_id: String,
    /// Added to the driver's own system prompt; up to 100,000 characters.
    #[schema(max_length = 100_000, pattern = r"^[^\u0000]*$")]
    system_prompt: Option<String>,
    /// Model of conversations that name none.
    model_id: Option<String>,
}

/// What of a tenant is to change.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = TenantUpdate, example = json!({"status": "inactive"}))]
pub(super) struct Update {
    /// Added to the driver's own system prompt; up to 100,000 characters.
    #[schema(max_length = 100_000, pattern = r"^[^\u0000]*$")]
    system_prompt: Option<String>,
    /// Model of conversations that name none.
    model_id: Option<String>,
    /// Whether it may start runs.
    status: Option<TenantStatus>,
}

fn check_prompt(prompt: Option<&String>) -> Result<(), ApiError> {
    prompt.map_or(Ok(()), |prompt| check_length("system_prompt", prompt, SYSTEM_PROMPT))
}

/// All tenants.
#[utoipa::path(get, path = "/api/tenants", tag = "tenants", responses((status = 200, body = Vec<Tenant>)))]
pub(super) async fn list(_: Operator, State(app): State<AppState>) -> Result<Json<Vec<Tenant>>, ApiError> {
    Ok(Json(app.store.tenants().await?))
}

/// Creates a tenant.
#[utoipa::path(post, path = "/api/tenants", tag = "tenants", request_body = Creation,
    responses((status = 201, body = Tenant), (status = 404, body = ErrorEnvelope), (status = 409, body = ErrorEnvelope),
        (status = 422, body = ErrorEnvelope)))]
pub(super) async fn create(
    _: Operator,
    State(app): State<AppState>,
    ApiJson(new): ApiJson<Creation>,
) -> Result<(StatusCode, Json<Tenant>), ApiError> {
    check_id("tenant_id", &new.tenant_id)?;
    check_prompt(new.system_prompt.as_ref())?;
    let new = NewTenant { tenant_id: new.tenant_id, system_prompt: new.system_prompt, model_id: new.model_id };
    Ok((StatusCode::CREATED, Json(app.store.create_tenant(new).await?)))
}

/// One tenant.
#[utoipa::path(get, path = "/api/tenants/{tenant_id}", tag = "tenants", params(("tenant_id" = String, Path)),
    responses((status = 200, body = Tenant), (status = 404, body = ErrorEnvelope)))]
pub(super) async fn get(TenantScope(id): TenantScope, State(app): State<AppState>) -> Result<Json<Tenant>, ApiError> {
    Ok(Json(app.store.tenant(&id).await?))
}

/// Changes a tenant; what is left out stays.
#[utoipa::path(put, path = "/api/tenants/{tenant_id}", tag = "tenants", params(("tenant_id" = String, Path)),
    request_body = Update,
    responses((status = 200, body = Tenant), (status = 404, body = ErrorEnvelope), (status = 422, body = ErrorEnvelope)))]
pub(super) async fn update(
    // First: another tenant's key must not learn that the tenant is there.
    TenantScope(id): TenantScope,
    _: Operator,
    State(app): State<AppState>,
    ApiJson(update): ApiJson<Update>,
) -> Result<Json<Tenant>, ApiError> {
    check_prompt(update.system_prompt.as_ref())?;
    let change = TenantChange { system_prompt: update.system_prompt, model_id: update.model_id, status: update.status };
    Ok(Json(app.store.update_tenant(&id, change).await?))
}

/// Deletes a tenant that has no conversations.
#[utoipa::path(delete, path = "/api/tenants/{tenant_id}", tag = "tenants", params(("tenant_id" = String, Path)),
    responses((status = 204), (status = 404, body = ErrorEnvelope), (status = 409, body = ErrorEnvelope)))]
pub(super) async fn delete(
    TenantScope(id): TenantScope,
    _: Operator,
    State(app): State<AppState>,
) -> Result<StatusCode, ApiError> {
    app.store.delete_tenant(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}
