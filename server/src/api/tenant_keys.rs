//! `/api/tenants/{tenant_id}/keys`: keys of a tenant, which its keys with the scope `admin` manage, and operators.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use utoipa::IntoParams;

use super::AppState;
use super::auth::{Caller, TenantScope};
use super::error::{ApiError, ErrorEnvelope};
use super::extract::{ApiJson, ApiPath};
use super::keys::{
    CreatedKey, Creation, Rotation, Update, create_key, list_keys, revoke_key, rotate_key, update_key, with_use,
};
use super::tenants::TenantPath;
use crate::conversation::store::ApiKey;

/// Path parameters of the routes of one key of a tenant.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct TenantKeyPath {
    /// Id of the key's tenant.
    #[allow(dead_code, reason = "TenantScope reads it and checks that the caller may use it")]
    tenant_id: String,
    /// Id of the key.
    key_id: String,
}

/// Lists a tenant's keys, the newest first, with some that are expired or revoked.
#[utoipa::path(get, path = "/api/tenants/{tenant_id}/keys", tag = "tenant keys", params(TenantPath),
    responses((status = 200, body = Vec<ApiKey>, description = "All keys of the tenant"), (status = 404, body = ErrorEnvelope)))]
pub(super) async fn list(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
) -> Result<Json<Vec<ApiKey>>, ApiError> {
    list_keys(&app, Some(&tenant)).await
}

/// Creates a key of a tenant, which has no scope that the caller's own key lacks.
#[utoipa::path(post, path = "/api/tenants/{tenant_id}/keys", tag = "tenant keys", params(TenantPath), request_body = Creation,
    responses((status = 201, body = CreatedKey, description = "The key, which is shown this once"), (status = 404, body = ErrorEnvelope),
        (status = 409, body = ErrorEnvelope), (status = 422, body = ErrorEnvelope)))]
pub(super) async fn create(
    TenantScope(tenant): TenantScope,
    caller: Caller,
    State(app): State<AppState>,
    ApiJson(new): ApiJson<Creation>,
) -> Result<Response, ApiError> {
    create_key(&app, &caller, Some(&tenant), new).await
}

/// Returns the tenant's key with the given id.
#[utoipa::path(get, path = "/api/tenants/{tenant_id}/keys/{key_id}", tag = "tenant keys", params(TenantKeyPath),
    responses((status = 200, body = ApiKey, description = "The key with the given id"), (status = 404, body = ErrorEnvelope)))]
pub(super) async fn get(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<TenantKeyPath>,
) -> Result<Json<ApiKey>, ApiError> {
    Ok(Json(with_use(&app, app.store.key(Some(&tenant), &path.key_id).await?)))
}

/// Changes a tenant's key; absent fields keep their value.
#[utoipa::path(put, path = "/api/tenants/{tenant_id}/keys/{key_id}", tag = "tenant keys", params(TenantKeyPath), request_body = Update,
    responses((status = 200, body = ApiKey, description = "The key after the change"), (status = 404, body = ErrorEnvelope),
        (status = 409, body = ErrorEnvelope), (status = 422, body = ErrorEnvelope)))]
pub(super) async fn update(
    TenantScope(tenant): TenantScope,
    caller: Caller,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<TenantKeyPath>,
    ApiJson(update): ApiJson<Update>,
) -> Result<Json<ApiKey>, ApiError> {
    update_key(&app, &caller, (Some(&tenant), &path.key_id), update).await
}

/// Revokes a tenant's key: it is refused from now on, and its open streams end. Runs in progress go on.
#[utoipa::path(delete, path = "/api/tenants/{tenant_id}/keys/{key_id}", tag = "tenant keys", params(TenantKeyPath),
    responses((status = 204, description = "The key is revoked"), (status = 404, body = ErrorEnvelope)))]
pub(super) async fn revoke(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<TenantKeyPath>,
) -> Result<StatusCode, ApiError> {
    revoke_key(&app, Some(&tenant), &path.key_id).await
}

/// Creates a key in place of a tenant's key, which stays valid for a while.
#[utoipa::path(post, path = "/api/tenants/{tenant_id}/keys/{key_id}/rotate", tag = "tenant keys", params(TenantKeyPath),
    request_body = Rotation,
    responses((status = 201, body = CreatedKey, description = "The new key, which is shown this once"),
        (status = 404, body = ErrorEnvelope), (status = 409, body = ErrorEnvelope), (status = 422, body = ErrorEnvelope)))]
pub(super) async fn rotate(
    TenantScope(tenant): TenantScope,
    caller: Caller,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<TenantKeyPath>,
    ApiJson(rotation): ApiJson<Rotation>,
) -> Result<Response, ApiError> {
    rotate_key(&app, &caller, (Some(&tenant), &path.key_id), rotation).await
}
