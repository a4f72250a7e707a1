//! `/api/tenants`: tenants, which operators create and which own conversations.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::AppState;
use super::auth::{Operator, TenantScope};
use super::error::{ApiError, ErrorEnvelope};
use super::extract::{ApiJson, check_id, check_length};
use crate::conversation::store::{DayUsage, NewTenant, Tenant, TenantChange, TenantStatus};

/// Accepted length of a system prompt, in characters.
const SYSTEM_PROMPT: std::ops::RangeInclusive<usize> = 0..=100_000;

/// Path parameter of the routes of one tenant.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
#[allow(dead_code, reason = "it only documents the parameter, which TenantScope reads")]
pub(super) struct TenantPath {
    /// Id of the tenant.
    tenant_id: String,
}

/// A tenant to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = TenantCreation, example = json!({"tenant_id": "acme", "model_id": "sonnet"}))]
pub(super) struct Creation {
    /// Id of the tenant: 1 to 64 letters, digits, `-`, `_` or `.`, the first a letter or digit.
    #[schema(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    tenant_id: String,
    /// Text added to the agent's system prompt in every run; up to 100,000 characters.
    #[schema(max_length = 100_000, pattern = r"^[^\u0000]*$")]
    system_prompt: Option<String>,
    /// Id of the default model of the tenant's conversations.
    model_id: Option<String>,
}

/// Changes to a tenant; absent fields keep their value.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = TenantUpdate, example = json!({"status": "inactive"}))]
pub(super) struct Update {
    /// Text added to the agent's system prompt in every run; up to 100,000 characters.
    #[schema(max_length = 100_000, pattern = r"^[^\u0000]*$")]
    system_prompt: Option<String>,
    /// Id of the default model of the tenant's conversations.
    model_id: Option<String>,
    /// New status: only an `active` tenant can start runs.
    status: Option<TenantStatus>,
}

fn check_prompt(prompt: Option<&String>) -> Result<(), ApiError> {
    prompt.map_or(Ok(()), |prompt| check_length("system_prompt", prompt, SYSTEM_PROMPT))
}

/// Lists all tenants of the deployment.
#[utoipa::path(get, path = "/api/tenants", tag = "tenants",
    responses((status = 200, body = Vec<Tenant>, description = "All tenants of the deployment")))]
pub(super) async fn list(_: Operator, State(app): State<AppState>) -> Result<Json<Vec<Tenant>>, ApiError> {
    Ok(Json(app.store.tenants().await?))
}

/// Creates a tenant with an id of the operator's choice.
#[utoipa::path(post, path = "/api/tenants", tag = "tenants", request_body = Creation,
    responses((status = 201, body = Tenant, description = "The tenant as created"), (status = 404, body = ErrorEnvelope), (status = 409, body = ErrorEnvelope),
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

/// Returns the tenant with the given id.
#[utoipa::path(get, path = "/api/tenants/{tenant_id}", tag = "tenants", params(TenantPath),
    responses((status = 200, body = Tenant, description = "The tenant with the given id"), (status = 404, body = ErrorEnvelope)))]
pub(super) async fn get(TenantScope(id): TenantScope, State(app): State<AppState>) -> Result<Json<Tenant>, ApiError> {
    Ok(Json(app.store.tenant(&id).await?))
}

/// Changes a tenant; absent fields keep their value.
#[utoipa::path(put, path = "/api/tenants/{tenant_id}", tag = "tenants", params(TenantPath),
    request_body = Update,
    responses((status = 200, body = Tenant, description = "The tenant after the change"), (status = 404, body = ErrorEnvelope), (status = 422, body = ErrorEnvelope)))]
pub(super) async fn update(
    // TenantScope comes before Operator so that a key of another tenant gets 404 and not 403, which would reveal the tenant.
    TenantScope(id): TenantScope,
    _: Operator,
    State(app): State<AppState>,
    ApiJson(update): ApiJson<Update>,
) -> Result<Json<Tenant>, ApiError> {
    check_prompt(update.system_prompt.as_ref())?;
    let change = TenantChange { system_prompt: update.system_prompt, model_id: update.model_id, status: update.status };
    Ok(Json(app.store.update_tenant(&id, change).await?))
}

/// Deletes a tenant, which must not have any conversations.
#[utoipa::path(delete, path = "/api/tenants/{tenant_id}", tag = "tenants", params(TenantPath),
    responses((status = 204, description = "The tenant is deleted"), (status = 404, body = ErrorEnvelope), (status = 409, body = ErrorEnvelope)))]
pub(super) async fn delete(
    TenantScope(id): TenantScope,
    _: Operator,
    State(app): State<AppState>,
) -> Result<StatusCode, ApiError> {
    app.store.delete_tenant(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Returns what the tenant's runs have used, by day (UTC) and model, those of deleted conversations included.
#[utoipa::path(get, path = "/api/tenants/{tenant_id}/usage", tag = "tenants", params(TenantPath),
    responses((status = 200, body = Vec<DayUsage>, description = "Usage and cost by day and model, the oldest day first"),
        (status = 404, body = ErrorEnvelope)))]
pub(super) async fn usage(
    TenantScope(id): TenantScope,
    State(app): State<AppState>,
) -> Result<Json<Vec<DayUsage>>, ApiError> {
    let tenant = app.store.tenant(&id).await?;
    Ok(Json(app.store.usage(&tenant.tenant_id).await?))
}
