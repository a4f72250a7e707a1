//! `/api/tenants/{tenant_id}/vaults`: a tenant's credentials. Their secrets are written and never read.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::AppState;
use super::auth::{Operator, TenantScope};
use super::error::{ApiError, ErrorEnvelope};
use super::extract::{ApiJson, ApiPath, check_length};
use super::tenants::TenantPath;
use crate::conversation::store::Vault;
use crate::tenancy::vaults::{Credential, NewCredential, Rekeyed};

/// Path parameters of the routes of one vault.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct VaultPath {
    /// Id of the vault's tenant.
    #[allow(dead_code, reason = "TenantScope reads it and checks that the caller may use it")]
    tenant_id: String,
    /// Id of the vault.
    vault_id: String,
}

/// Path parameters of the routes of one credential.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct CredentialPath {
    /// Id of the vault's tenant.
    #[allow(dead_code, reason = "TenantScope reads it and checks that the caller may use it")]
    tenant_id: String,
    /// Id of the vault.
    vault_id: String,
    /// Id of the credential.
    credential_id: String,
}

/// A vault to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = VaultCreation, example = json!({"name": "production"}))]
pub(super) struct Creation {
    /// Name of the vault, unique among the tenant's, 1 to 100 characters.
    #[schema(min_length = 1, max_length = 100, pattern = r"^[^\u0000]*$")]
    name: String,
}

/// Lists the tenant's vaults.
#[utoipa::path(get, path = "/api/tenants/{tenant_id}/vaults", tag = "vaults", params(TenantPath),
    responses((status = 200, body = Vec<Vault>, description = "The tenant's vaults, the oldest first"), (status = 404, body = ErrorEnvelope)))]
pub(super) async fn list(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
) -> Result<Json<Vec<Vault>>, ApiError> {
    app.store.tenant(&tenant).await?;
    Ok(Json(app.store.vaults(&tenant).await?))
}

/// Creates a vault, empty. A conversation uses it once its configuration, or its tenant's, lists it.
#[utoipa::path(post, path = "/api/tenants/{tenant_id}/vaults", tag = "vaults", params(TenantPath), request_body = Creation,
    responses((status = 201, body = Vault, description = "The vault as created"), (status = 404, body = ErrorEnvelope),
        (status = 409, body = ErrorEnvelope, description = "CONFLICT: the name is taken, or the deployment has no key for secrets; the message says what to set"),
        (status = 422, body = ErrorEnvelope)))]
pub(super) async fn create(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
    ApiJson(new): ApiJson<Creation>,
) -> Result<(StatusCode, Json<Vault>), ApiError> {
    let tenant = app.store.tenant(&tenant).await?;
    check_length("name", &new.name, 1..=100)?;
    Ok((StatusCode::CREATED, Json(app.tenancy.create_vault(&tenant.tenant_id, &new.name).await?)))
}

/// Returns the vault with the given id.
#[utoipa::path(get, path = "/api/tenants/{tenant_id}/vaults/{vault_id}", tag = "vaults", params(VaultPath),
    responses((status = 200, body = Vault, description = "The vault with the given id"), (status = 404, body = ErrorEnvelope)))]
pub(super) async fn get(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<VaultPath>,
) -> Result<Json<Vault>, ApiError> {
    Ok(Json(app.store.vault(&tenant, &path.vault_id).await?))
}

/// Deletes a vault with its credentials. Requests that need one of them fail from now on, or go without.
#[utoipa::path(delete, path = "/api/tenants/{tenant_id}/vaults/{vault_id}", tag = "vaults", params(VaultPath),
    responses((status = 204, description = "The vault is deleted"), (status = 404, body = ErrorEnvelope)))]
pub(super) async fn delete(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<VaultPath>,
) -> Result<StatusCode, ApiError> {
    app.tenancy.delete_vault(&tenant, &path.vault_id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lists the vault's credentials, without their secrets.
#[utoipa::path(get, path = "/api/tenants/{tenant_id}/vaults/{vault_id}/credentials", tag = "vaults", params(VaultPath),
    responses((status = 200, body = Vec<Credential>, description = "The vault's credentials, in the order in which they are tried"),
        (status = 404, body = ErrorEnvelope)))]
pub(super) async fn credentials(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<VaultPath>,
) -> Result<Json<Vec<Credential>>, ApiError> {
    Ok(Json(app.tenancy.credentials(&tenant, &path.vault_id).await?))
}

/// Adds a credential to the vault. Its secret is never shown again.
#[utoipa::path(post, path = "/api/tenants/{tenant_id}/vaults/{vault_id}/credentials", tag = "vaults",
    params(VaultPath), request_body = NewCredential,
    responses((status = 201, body = Credential, description = "The credential as created, without its secret"),
        (status = 404, body = ErrorEnvelope), (status = 422, body = ErrorEnvelope),
        (status = 409, body = ErrorEnvelope, description = "CONFLICT: the name is taken, or the deployment has no key for secrets; the message says what to set")))]
pub(super) async fn add(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<VaultPath>,
    ApiJson(new): ApiJson<NewCredential>,
) -> Result<(StatusCode, Json<Credential>), ApiError> {
    let tenant = app.store.tenant(&tenant).await?;
    Ok((StatusCode::CREATED, Json(app.tenancy.add_credential(&tenant, &path.vault_id, new).await?)))
}

/// Returns the credential with the given id, without its secret.
#[utoipa::path(get, path = "/api/tenants/{tenant_id}/vaults/{vault_id}/credentials/{credential_id}", tag = "vaults",
    params(CredentialPath),
    responses((status = 200, body = Credential, description = "The credential, without its secret"), (status = 404, body = ErrorEnvelope)))]
pub(super) async fn credential(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<CredentialPath>,
) -> Result<Json<Credential>, ApiError> {
    Ok(Json(app.tenancy.credential(&tenant, &path.vault_id, &path.credential_id).await?))
}

/// Replaces a credential, its secret included. Open workspaces use the new one with their next request.
#[utoipa::path(put, path = "/api/tenants/{tenant_id}/vaults/{vault_id}/credentials/{credential_id}", tag = "vaults",
    params(CredentialPath), request_body = NewCredential,
    responses((status = 200, body = Credential, description = "The credential after the change, without its secret"),
        (status = 404, body = ErrorEnvelope), (status = 422, body = ErrorEnvelope),
        (status = 409, body = ErrorEnvelope, description = "CONFLICT: the name is taken, or the deployment has no key for secrets; the message says what to set")))]
pub(super) async fn replace(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<CredentialPath>,
    ApiJson(new): ApiJson<NewCredential>,
) -> Result<Json<Credential>, ApiError> {
    let tenant = app.store.tenant(&tenant).await?;
    Ok(Json(app.tenancy.replace_credential(&tenant, &path.vault_id, &path.credential_id, new).await?))
}

/// Deletes a credential, also from open workspaces.
#[utoipa::path(delete, path = "/api/tenants/{tenant_id}/vaults/{vault_id}/credentials/{credential_id}", tag = "vaults",
    params(CredentialPath),
    responses((status = 204, description = "The credential is deleted"), (status = 404, body = ErrorEnvelope)))]
pub(super) async fn remove(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<CredentialPath>,
) -> Result<StatusCode, ApiError> {
    app.tenancy.delete_credential(&tenant, &path.vault_id, &path.credential_id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Seals every secret again with the current key, so that older keys are no longer needed.
#[utoipa::path(post, path = "/api/admin/vaults/rekey", tag = "admin",
    responses((status = 200, body = Rekeyed, description = "How many secrets were sealed again, and how many cannot be opened"),
        (status = 409, body = ErrorEnvelope, description = "CONFLICT: the deployment has no key for secrets; the message says what to set")))]
pub(super) async fn rekey(_: Operator, State(app): State<AppState>) -> Result<Json<Rekeyed>, ApiError> {
    Ok(Json(app.tenancy.rekey().await?))
}
