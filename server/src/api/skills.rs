//! `/api/tenants/{tenant_id}/skills`: skills that the tenant has uploaded, in versions.

use std::sync::atomic::Ordering;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::AppState;
use super::auth::TenantScope;
use super::error::{ApiError, Code, ErrorEnvelope};
use super::extract::{ApiPath, ApiQuery, read_body};
use super::form::{FORM, FormError, content_type, in_time, media_type, open_form};
use super::tenants::TenantPath;
use crate::conversation::skills::{self, Checked, LARGEST};
use crate::conversation::store::{NewSkill, Skill};

/// Media type of an archive.
const ZIP: &str = "application/zip";

/// Path of a route that concerns one skill.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct SkillPath {
    /// Id of the tenant.
    #[allow(dead_code, reason = "TenantScope reads it and checks that the caller may use it")]
    tenant_id: String,
    /// Name of the skill: up to 64 lower-case letters, digits and '-'.
    #[param(max_length = 64)]
    name: String,
}

/// Query parameter of a deletion.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DeletionQuery {
    /// The version that is deleted; all of the skill's without it.
    #[param(minimum = 1)]
    version: Option<i64>,
}

/// Skills of a tenant.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Skills {
    /// Every version, by name, the latest version of a skill first.
    skills: Vec<Skill>,
}

/// A form with the files of a skill, up to 200, with 4 MiB in all.
#[derive(Deserialize, ToSchema)]
#[allow(dead_code, reason = "it only documents the form, which is read part by part")]
#[serde(deny_unknown_fields)]
pub(super) struct SkillForm {
    /// The skill's files. The `filename` of a part is the file's path in the skill.
    #[schema(content_media_type = "application/octet-stream", max_items = 200)]
    files: Vec<String>,
}

/// Lists the tenant's skills with their versions.
#[utoipa::path(get, path = "/api/tenants/{tenant_id}/skills", tag = "configuration", params(TenantPath),
    responses((status = 200, body = Skills, description = "Every version of the tenant's skills"), (status = 404, body = ErrorEnvelope)))]
pub(super) async fn list(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
) -> Result<Json<Skills>, ApiError> {
    let tenant = app.store.tenant(&tenant).await?;
    Ok(Json(Skills { skills: app.store.skills(&tenant.tenant_id).await? }))
}

/// Uploads a version of a skill: a ZIP archive or a form with its files, among them its manifest. Its content is checked, and a version never
/// changes. The content of the latest version again adds none.
#[utoipa::path(put, path = "/api/tenants/{tenant_id}/skills/{name}", tag = "configuration", params(SkillPath),
    request_body(content((Vec<u8> = "application/zip"), (SkillForm = "multipart/form-data"))),
    responses((status = 200, body = Skill, description = "The latest version has this content already"),
        (status = 201, body = Skill, description = "The version that was added"), (status = 404, body = ErrorEnvelope),
        (status = 409, body = ErrorEnvelope, description = "The tenant has as many skills, versions or bytes of them as it may"),
        (status = 413, body = ErrorEnvelope), (status = 422, body = ErrorEnvelope, description = "What is wrong with the skill")))]
pub(super) async fn upload(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<SkillPath>,
    request: Request,
) -> Result<(StatusCode, Json<Skill>), ApiError> {
    let tenant = app.store.tenant(&tenant).await?;
    if !skills::is_name(&path.name) {
        return Err(ApiError::invalid(
            "name",
            "must be 1 to 64 lower-case letters, digits and '-', which are not at its ends",
        ));
    }
    let kind = content_type(request.headers()).to_owned();
    let name = path.name.clone();
    let checked = match media_type(&kind).as_str() {
        ZIP => {
            let archive = read_body(request.into_body()).await?;
            off_thread(move || skills::from_zip(&name, &archive)).await?
        }
        FORM => {
            let files = form(request, &kind).await?;
            off_thread(move || skills::check(&name, files)).await?
        }
        _ => return Err(ApiError::invalid("Content-Type", format!("must be {ZIP} or {FORM}"))),
    };
    let signed = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    let new = NewSkill {
        tenant: &tenant.tenant_id,
        name: &path.name,
        description: &checked.description,
        digest: &checked.digest,
        files: signed(checked.files),
        bytes: signed(checked.bytes),
        content: &checked.content,
    };
    let (skill, is_new) = app.store.add_skill(new).await?;
    tracing::info!(tenant = tenant.tenant_id, skill = skill.name, version = skill.version, is_new, "skill uploaded");
    Ok((if is_new { StatusCode::CREATED } else { StatusCode::OK }, Json(skill)))
}

/// Unpacks and checks a skill where that holds up no other request.
async fn off_thread(check: impl FnOnce() -> Result<Checked, String> + Send + 'static) -> Result<Checked, ApiError> {
    let checked = tokio::task::spawn_blocking(check).await.map_err(|error| ApiError::internal(&error))?;
    checked.map_err(|why| ApiError::invalid("skill", why))
}

/// The files of a form.
async fn form(request: Request, kind: &str) -> Result<Vec<(String, Vec<u8>)>, ApiError> {
    let (mut parts, buffered, errors) = open_form(kind, request.into_body())?;
    let read = async {
        let (mut files, mut bytes) = (Vec::new(), 0);
        while let Some(mut part) = parts.next_field().await? {
            buffered.store(0, Ordering::Relaxed);
            if part.name() != Some("files") {
                return Err(FormError::from(ApiError::invalid("body", "must have parts named files only")));
            }
            let path = part.file_name().unwrap_or_default().to_owned();
            let mut content = Vec::new();
            while let Some(piece) = part.chunk().await? {
                buffered.store(0, Ordering::Relaxed);
                bytes += piece.len();
                if bytes > LARGEST {
                    let why = format!("the files have more than {LARGEST} bytes");
                    return Err(ApiError::new(Code::PayloadTooLarge, why).into());
                }
                content.extend_from_slice(&piece);
            }
            files.push((path, content));
            // One more than is accepted, which the check then refuses.
            if files.len() > 200 {
                break;
            }
        }
        Ok(files)
    };
    in_time(errors, read).await
}

/// Deletes a version of a skill, or all of them. Runs that name it are refused from then on.
#[utoipa::path(delete, path = "/api/tenants/{tenant_id}/skills/{name}", tag = "configuration", params(SkillPath, DeletionQuery),
    responses((status = 204, description = "The skill or version is deleted"), (status = 404, body = ErrorEnvelope),
        (status = 422, body = ErrorEnvelope)))]
pub(super) async fn delete(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<SkillPath>,
    ApiQuery(query): ApiQuery<DeletionQuery>,
) -> Result<StatusCode, ApiError> {
    if query.version.is_some_and(|version| version < 1) {
        return Err(ApiError::invalid("version", "must be at least 1"));
    }
    app.store.delete_skill(&tenant, &path.name, query.version).await?;
    Ok(StatusCode::NO_CONTENT)
}
