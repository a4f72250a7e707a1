//! `/api/admin/keys`: keys of operators; and what they have in common with those of tenants. Keys are created at run time.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::AppState;
use super::auth::{ALL_SCOPES, Caller, Operator, Scopes, Secret};
use super::error::{ApiError, Code, ErrorEnvelope};
use super::extract::{ApiJson, ApiPath, check_length};
use super::idempotency::KeptBody;
use super::request_id;
use crate::conversation::store::{ApiKey, KeyChange, NewKey, Scope};
use nagaya_telemetry::audit::Event;

/// Accepted length of a key's name, in characters.
const NAME: std::ops::RangeInclusive<usize> = 1..=100;
/// Longest time for which a rotated key stays valid, in seconds: 30 days.
const LONGEST_OVERLAP: u32 = 30 * 24 * 3600;

/// Path parameter of the routes of one operator's key.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct KeyPath {
    /// Id of the key.
    key_id: String,
}

/// A key to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = KeyCreation, example = json!({"name": "nightly reports", "scopes": ["run", "read"]}))]
pub(super) struct Creation {
    /// Name of the key, for people: 1 to 100 characters.
    #[schema(min_length = 1, max_length = 100, pattern = r"^[^\u0000]*$")]
    name: String,
    /// What the key may be used for: at least one, and none that the caller's own key lacks.
    #[schema(min_items = 1, max_items = 6)]
    scopes: Vec<Scope>,
    /// When the key becomes invalid; it does not expire by default.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
}

/// Changes to a key; absent fields keep their value.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = KeyUpdate, example = json!({"name": "weekly reports"}))]
pub(super) struct Update {
    /// New name, 1 to 100 characters.
    #[schema(min_length = 1, max_length = 100, pattern = r"^[^\u0000]*$")]
    name: Option<String>,
    /// New scopes, none of which the caller's own key lacks.
    #[schema(min_items = 1, max_items = 6)]
    scopes: Option<Vec<Scope>>,
    /// New time at which the key becomes invalid; `null`: it does not expire.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Option<Timestamp>>,
}

/// A field that is given, if only as `null`.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// The rotation of a key.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = KeyRotation, example = json!({"overlap_seconds": 3600}))]
pub(super) struct Rotation {
    /// How long the old key stays valid, in seconds: up to 30 days; 0 ends it at once.
    #[schema(minimum = 0, maximum = 2_592_000)]
    overlap_seconds: u32,
    /// When the new key becomes invalid; by default it lives as long as the old one was to live.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
}

/// A key that was just created, with the key itself, which is never shown again.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CreatedKey {
    /// The key itself: keep it now. `null` in the repeated answer to a request with `Idempotency-Key`: the key is shown once.
    key: Option<String>,
    /// Id of the key, which the audit trail and the log name.
    key_id: String,
    /// Id of the key's tenant; `null` for an operator's key.
    tenant_id: Option<String>,
    /// Name of the key, for people.
    name: String,
    /// How the key begins, by which its owner recognises it.
    prefix: String,
    /// What the key may be used for.
    scopes: Vec<Scope>,
    /// When the key was created.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When the key becomes invalid; `null` if it does not expire.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
}

/// Checks that a key may have these scopes, and that the caller may give them away.
fn check_scopes(caller: &Caller, owner: Option<&str>, scopes: &[Scope]) -> Result<Vec<Scope>, ApiError> {
    // Repeated ones count, as the description limits the list.
    if scopes.len() > ALL_SCOPES.len() {
        return Err(ApiError::invalid("scopes", format!("must have at most {} entries", ALL_SCOPES.len())));
    }
    let wanted: Scopes = scopes.iter().copied().collect();
    if wanted.is_empty() {
        return Err(ApiError::invalid("scopes", "must have at least one scope"));
    }
    if owner.is_some() && wanted.contains(Scope::Metrics) {
        return Err(ApiError::invalid(
            "scopes",
            "metrics is only for operators' keys: they are the whole deployment's",
        ));
    }
    check_own(caller, wanted)?;
    Ok(wanted.list())
}

/// Checks that a caller has all scopes of a key that it gives to somebody or changes.
fn check_own(caller: &Caller, scopes: Scopes) -> Result<(), ApiError> {
    let beyond = scopes.beyond(caller.scopes);
    if beyond.is_empty() {
        return Ok(());
    }
    Err(ApiError::new(Code::Forbidden, format!("your own key lacks scopes of this one: {beyond}")))
}

fn check_end(end: Option<Timestamp>) -> Result<(), ApiError> {
    match end {
        Some(end) if end <= Timestamp::now() => Err(ApiError::invalid("expires_at", "must be in the future")),
        _ => Ok(()),
    }
}

/// The time so many seconds from now.
fn in_seconds(seconds: i64) -> Timestamp {
    Timestamp::now().saturating_add(Duration::from_secs(seconds.unsigned_abs())).unwrap_or(Timestamp::MAX)
}

fn new_key(secret: &Secret, owner: Option<&str>, name: String, scopes: Vec<Scope>, end: Option<Timestamp>) -> NewKey {
    let (tenant_id, prefix, hash) = (owner.map(str::to_owned), secret.prefix(), secret.hash());
    NewKey { tenant_id, name, prefix, hash, scopes, expires_at: end }
}

/// Makes a change known to this server at once, and to the audit trail. Other servers notice it by themselves.
async fn announce(app: &AppState, change: &'static str, key: &ApiKey, replaces: Option<&str>) {
    let scopes: Vec<&'static str> = key.scopes.iter().map(|scope| scope.as_str()).collect();
    app.audit.record(&Event::Key {
        change,
        key_id: &key.key_id,
        replaces,
        tenant: key.tenant_id.as_deref(),
        scopes: &scopes,
        request_id: &request_id::current(),
    });
    if let Err(error) = app.keys.refresh().await {
        tracing::warn!(%error, key = key.key_id, "a key has changed, which is not known here yet");
    }
}

/// The answer that shows a key. What is kept of it for a repeated request lacks the key.
fn shown(key: ApiKey, secret: &Secret) -> Result<Response, ApiError> {
    let ApiKey { key_id, tenant_id, name, prefix, scopes, created_at, expires_at, .. } = key;
    let mut created = CreatedKey { key: None, key_id, tenant_id, name, prefix, scopes, created_at, expires_at };
    let kept = serde_json::to_vec(&created).map_err(|error| ApiError::internal(&error))?;
    created.key = Some(secret.text().to_owned());
    Ok((StatusCode::CREATED, Extension(KeptBody(kept.into())), Json(created)).into_response())
}

/// A key with its latest use.
pub(super) fn with_use(app: &AppState, mut key: ApiKey) -> ApiKey {
    key.last_used_at = key.last_used_at.max(app.keys.last_use(&key.key_id));
    key
}

pub(super) async fn create_key(
    app: &AppState,
    caller: &Caller,
    owner: Option<&str>,
    new: Creation,
) -> Result<Response, ApiError> {
    check_length("name", &new.name, NAME)?;
    let scopes = check_scopes(caller, owner, &new.scopes)?;
    check_end(new.expires_at)?;
    if let Some(tenant) = owner {
        app.store.tenant(tenant).await?;
    }
    let (secret, were_required) = (Secret::new(), app.keys.are_required() || app.oidc.is_some());
    let lasting = scopes.contains(&Scope::Admin) && new.expires_at.is_none();
    if owner.is_none() && !were_required && !lasting {
        let why = "the first operator's key must have the scope admin and no expires_at: from then on every request needs a key";
        return Err(ApiError::new(Code::Conflict, why));
    }
    let key = app.store.create_key(new_key(&secret, owner, new.name, scopes, new.expires_at)).await?;
    announce(app, "created", &key, None).await;
    if owner.is_none() && !were_required {
        tracing::warn!(key = key.key_id, "the first operator's key was created: from now on every request needs a key");
    }
    shown(key, &secret)
}

pub(super) async fn list_keys(app: &AppState, owner: Option<&str>) -> Result<Json<Vec<ApiKey>>, ApiError> {
    if let Some(tenant) = owner {
        app.store.tenant(tenant).await?;
    }
    Ok(Json(app.store.keys(owner).await?.into_iter().map(|key| with_use(app, key)).collect()))
}

pub(super) async fn update_key(
    app: &AppState,
    caller: &Caller,
    (owner, id): (Option<&str>, &str),
    update: Update,
) -> Result<Json<ApiKey>, ApiError> {
    if let Some(name) = &update.name {
        check_length("name", name, NAME)?;
    }
    check_end(update.expires_at.flatten())?;
    let scopes = update.scopes.map(|scopes| check_scopes(caller, owner, &scopes)).transpose()?;
    check_own(caller, app.store.key(owner, id).await?.scopes.into_iter().collect())?;
    let change = KeyChange { name: update.name, scopes, expires_at: update.expires_at };
    let key = app.store.update_key(owner, id, change, keep_one(app, owner)).await?;
    announce(app, "changed", &key, None).await;
    Ok(Json(with_use(app, key)))
}

/// Whether an owner's last key has to stay: that of operators, if no other way leads back in.
fn keep_one(app: &AppState, owner: Option<&str>) -> bool {
    owner.is_none() && !app.keys.have_configured_operator()
}

pub(super) async fn revoke_key(app: &AppState, owner: Option<&str>, id: &str) -> Result<StatusCode, ApiError> {
    let key = app.store.key(owner, id).await?;
    if app.store.revoke_key(owner, id, keep_one(app, owner)).await? {
        announce(app, "revoked", &key, None).await;
    }
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn rotate_key(
    app: &AppState,
    caller: &Caller,
    (owner, id): (Option<&str>, &str),
    rotation: Rotation,
) -> Result<Response, ApiError> {
    if rotation.overlap_seconds > LONGEST_OVERLAP {
        return Err(ApiError::invalid("overlap_seconds", format!("must be from 0 to {LONGEST_OVERLAP}")));
    }
    check_end(rotation.expires_at)?;
    let old = app.store.key(owner, id).await?;
    check_own(caller, old.scopes.iter().copied().collect())?;
    let lifetime = old.expires_at.map(|end| end.duration_since(old.created_at).as_secs());
    let end = rotation.expires_at.or(lifetime.map(in_seconds));
    if keep_one(app, owner) && old.expires_at.is_none() && end.is_some() && old.scopes.contains(&Scope::Admin) {
        let why = "must be absent: an operator's key without an end is replaced by one without an end";
        return Err(ApiError::invalid("expires_at", why));
    }
    let secret = Secret::new();
    let new = new_key(&secret, owner, old.name, old.scopes, end);
    let key = app.store.rotate_key(id, new, in_seconds(rotation.overlap_seconds.into())).await?;
    announce(app, "rotated", &key, Some(id)).await;
    shown(key, &secret)
}

/// Lists operators' keys, the newest first, with some that are expired or revoked.
#[utoipa::path(get, path = "/api/admin/keys", tag = "keys",
    responses((status = 200, body = Vec<ApiKey>, description = "All keys of the deployment's operators")))]
pub(super) async fn list(_: Operator, State(app): State<AppState>) -> Result<Json<Vec<ApiKey>>, ApiError> {
    list_keys(&app, None).await
}

/// Creates an operator's key. Once there is one, every request needs a key.
#[utoipa::path(post, path = "/api/admin/keys", tag = "keys", request_body = Creation,
    responses((status = 201, body = CreatedKey, description = "The key, which is shown this once"),
        (status = 409, body = ErrorEnvelope), (status = 422, body = ErrorEnvelope)))]
pub(super) async fn create(
    _: Operator,
    caller: Caller,
    State(app): State<AppState>,
    ApiJson(new): ApiJson<Creation>,
) -> Result<Response, ApiError> {
    create_key(&app, &caller, None, new).await
}

/// Returns the operator's key with the given id.
#[utoipa::path(get, path = "/api/admin/keys/{key_id}", tag = "keys", params(KeyPath),
    responses((status = 200, body = ApiKey, description = "The key with the given id"), (status = 404, body = ErrorEnvelope)))]
pub(super) async fn get(
    _: Operator,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<KeyPath>,
) -> Result<Json<ApiKey>, ApiError> {
    Ok(Json(with_use(&app, app.store.key(None, &path.key_id).await?)))
}

/// Changes an operator's key; absent fields keep their value.
#[utoipa::path(put, path = "/api/admin/keys/{key_id}", tag = "keys", params(KeyPath), request_body = Update,
    responses((status = 200, body = ApiKey, description = "The key after the change"), (status = 404, body = ErrorEnvelope),
        (status = 409, body = ErrorEnvelope), (status = 422, body = ErrorEnvelope)))]
pub(super) async fn update(
    _: Operator,
    caller: Caller,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<KeyPath>,
    ApiJson(update): ApiJson<Update>,
) -> Result<Json<ApiKey>, ApiError> {
    update_key(&app, &caller, (None, &path.key_id), update).await
}

/// Revokes an operator's key: it is refused from now on, and its open streams end.
#[utoipa::path(delete, path = "/api/admin/keys/{key_id}", tag = "keys", params(KeyPath),
    responses((status = 204, description = "The key is revoked"), (status = 404, body = ErrorEnvelope), (status = 409, body = ErrorEnvelope)))]
pub(super) async fn revoke(
    _: Operator,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<KeyPath>,
) -> Result<StatusCode, ApiError> {
    revoke_key(&app, None, &path.key_id).await
}

/// Creates a key in place of an operator's key, which stays valid for a while.
#[utoipa::path(post, path = "/api/admin/keys/{key_id}/rotate", tag = "keys", params(KeyPath), request_body = Rotation,
    responses((status = 201, body = CreatedKey, description = "The new key, which is shown this once"),
        (status = 404, body = ErrorEnvelope), (status = 409, body = ErrorEnvelope), (status = 422, body = ErrorEnvelope)))]
pub(super) async fn rotate(
    _: Operator,
    caller: Caller,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<KeyPath>,
    ApiJson(rotation): ApiJson<Rotation>,
) -> Result<Response, ApiError> {
    rotate_key(&app, &caller, (None, &path.key_id), rotation).await
}
