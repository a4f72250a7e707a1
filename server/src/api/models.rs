//! `/api/models`: models that conversations may use, which operators create.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::AppState;
use super::auth::{Operator, Principal};
use super::error::{ApiError, ErrorEnvelope};
use super::extract::{ApiJson, ApiPath, check_id, check_length};
use crate::bedrock::is_region;
use crate::cluster::policies::Changed;
use crate::conversation::cost::Price;
use crate::conversation::store::{Model, ModelChange, ModelStatus, NewModel};
use crate::providers::Provider;

/// Upper limit of token counts, far beyond any model's.
const MAX_TOKENS: i64 = 100_000_000;

/// Path parameter of the routes of one model.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct ModelPath {
    /// Id of the model.
    model_id: String,
}

/// A model to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ModelCreation, example = json!({
    "model_id": "sonnet", "display_name": "Sonnet", "provider": "bedrock",
    "provider_model_id": "anthropic.claude-sonnet-4-5-20250929-v1:0",
    "context_window": 200_000, "max_output_tokens": 64_000, "input_token_price": "0.003", "output_token_price": "0.015"
}))]
pub(super) struct Creation {
    /// Id of the model: 1 to 64 letters, digits, `-`, `_` or `.`, the first a letter or digit.
    #[schema(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    model_id: String,
    /// Name to show to users, 1 to 200 characters.
    #[schema(min_length = 1, max_length = 200, pattern = r"^[^\u0000]*$")]
    display_name: String,
    /// Who serves the model: `bedrock` (the default), or `anthropic` for the Messages API, Anthropic's own or a gateway's.
    provider: Option<Provider>,
    /// Id of the model at its provider, 1 to 256 characters; at Bedrock, of a model or an inference profile. Required.
    #[schema(min_length = 1, max_length = 256, pattern = r"^[^\u0000]*$")]
    provider_model_id: Option<String>,
    /// The older name of `provider_model_id`, for models at Bedrock.
    #[schema(min_length = 1, max_length = 256, pattern = r"^[^\u0000]*$")]
    bedrock_model_id: Option<String>,
    /// AWS region in which a model at Bedrock is called; defaults to the server's `AWS_REGION`.
    #[schema(pattern = "^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$")]
    model_region: Option<String>,
    /// Size of the model's context window in tokens, 1 to 100,000,000.
    #[schema(minimum = 1, maximum = 100_000_000)]
    context_window: i64,
    /// Maximum output of one model call in tokens, 1 to 100,000,000.
    #[schema(minimum = 1, maximum = 100_000_000)]
    max_output_tokens: i64,
    /// Price in USD per 1,000 input tokens.
    input_token_price: Price,
    /// Price in USD per 1,000 output tokens.
    output_token_price: Price,
}

/// Changes to a model; absent fields keep their value.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ModelUpdate, example = json!({"display_name": "Sonnet (legacy)"}))]
pub(super) struct Update {
    /// New name to show to users, 1 to 200 characters.
    #[schema(min_length = 1, max_length = 200, pattern = r"^[^\u0000]*$")]
    display_name: Option<String>,
    /// New provider; requires the model's id there. A model that leaves Bedrock has no region any more.
    provider: Option<Provider>,
    /// New id of the model at its provider, 1 to 256 characters.
    #[schema(min_length = 1, max_length = 256, pattern = r"^[^\u0000]*$")]
    provider_model_id: Option<String>,
    /// The older name of `provider_model_id`, for models at Bedrock.
    #[schema(min_length = 1, max_length = 256, pattern = r"^[^\u0000]*$")]
    bedrock_model_id: Option<String>,
    /// New AWS region in which a model at Bedrock is called.
    #[schema(pattern = "^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$")]
    model_region: Option<String>,
    /// New size of the context window in tokens, 1 to 100,000,000.
    #[schema(minimum = 1, maximum = 100_000_000)]
    context_window: Option<i64>,
    /// New maximum output of one model call in tokens, 1 to 100,000,000.
    #[schema(minimum = 1, maximum = 100_000_000)]
    max_output_tokens: Option<i64>,
    /// New price in USD per 1,000 input tokens.
    input_token_price: Option<Price>,
    /// New price in USD per 1,000 output tokens.
    output_token_price: Option<Price>,
    /// New status: new conversations cannot use a `deprecated` model, existing ones still can.
    status: Option<ModelStatus>,
}

/// The new status of a model.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ModelStatusUpdate, example = json!({"status": "deprecated"}))]
pub(super) struct StatusUpdate {
    /// New status: new conversations cannot use a `deprecated` model, existing ones still can.
    status: ModelStatus,
}

/// A model as it is shown.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Model)]
pub(super) struct Shown {
    #[serde(flatten)]
    model: Model,
    /// The older name of `provider_model_id`; absent for models that are not at Bedrock.
    #[serde(skip_serializing_if = "Option::is_none")]
    bedrock_model_id: Option<String>,
}

impl From<Model> for Shown {
    fn from(model: Model) -> Self {
        let bedrock_model_id = (model.provider == Provider::Bedrock).then(|| model.provider_model_id.clone());
        Self { model, bedrock_model_id }
    }
}

/// The model's id at its provider, under its name or the older one.
fn id_at_provider(
    provider: Provider,
    id: Option<String>,
    at_bedrock: Option<String>,
) -> Result<Option<String>, ApiError> {
    for (field, id) in [("provider_model_id", &id), ("bedrock_model_id", &at_bedrock)] {
        if let Some(id) = id {
            check_length(field, id, 1..=256)?;
        }
    }
    match (id, at_bedrock) {
        (id, None) => Ok(id),
        (_, Some(_)) if provider != Provider::Bedrock => Err(ApiError::invalid(
            "bedrock_model_id",
            format!("the model's provider is {}; name its id there as provider_model_id", provider.as_str()),
        )),
        (Some(id), Some(older)) if id != older => Err(ApiError::invalid(
            "bedrock_model_id",
            "it is the older name of provider_model_id, which has another value; leave it out",
        )),
        (_, older) => Ok(older),
    }
}

/// Validates the fields that a creation or a change sets; `provider` is that of the model afterwards.
fn check(app: &AppState, change: &ModelChange, provider: Provider) -> Result<(), ApiError> {
    if let Some(name) = &change.display_name {
        check_length("display_name", name, 1..=200)?;
    }
    for (field, tokens) in [("context_window", change.context_window), ("max_output_tokens", change.max_output_tokens)]
    {
        if tokens.is_some_and(|tokens| !(1..=MAX_TOKENS).contains(&tokens)) {
            return Err(ApiError::invalid(field, format!("must be a whole number from 1 to {MAX_TOKENS}")));
        }
    }
    if let Some(region) = &change.model_region {
        if !is_region(region) {
            return Err(ApiError::invalid("model_region", "must be the name of an AWS region, for example us-east-1"));
        }
        if provider != Provider::Bedrock {
            let provider = provider.as_str();
            return Err(ApiError::invalid(
                "model_region",
                format!("regions are Bedrock's; the model's provider is {provider}"),
            ));
        }
        if app.providers.missing(provider).is_none()
            && let Some(why) = app.unreachable(provider, Some(region))
        {
            return Err(ApiError::invalid("model_region", why));
        }
    }
    if let Some(provider) = change.provider
        && let Some(why) = app.unreachable(provider, change.model_region.as_deref())
    {
        return Err(ApiError::invalid("provider", why));
    }
    Ok(())
}

/// A model as the caller may see it: only operators see prices.
fn shown(caller: &Principal, model: Model) -> Result<Value, ApiError> {
    let mut shown = serde_json::to_value(Shown::from(model)).map_err(|error| ApiError::internal(&error))?;
    if *caller != Principal::Operator
        && let Some(fields) = shown.as_object_mut()
    {
        fields.retain(|name, _| !name.ends_with("_price"));
    }
    Ok(shown)
}

/// Lists all models of the deployment.
#[utoipa::path(get, path = "/api/models", tag = "models",
    responses((status = 200, body = Vec<Shown>, description = "All models of the deployment")))]
pub(super) async fn list(caller: Principal, State(app): State<AppState>) -> Result<Json<Vec<Value>>, ApiError> {
    let models = app.store.models().await?;
    Ok(Json(models.into_iter().map(|model| shown(&caller, model)).collect::<Result<_, _>>()?))
}

/// Creates a model with an id of the operator's choice.
#[utoipa::path(post, path = "/api/models", tag = "models", request_body = Creation,
    responses((status = 201, body = Shown, description = "The model as created"), (status = 409, body = ErrorEnvelope), (status = 422, body = ErrorEnvelope)))]
pub(super) async fn create(
    _: Operator,
    State(app): State<AppState>,
    ApiJson(new): ApiJson<Creation>,
) -> Result<(StatusCode, Json<Shown>), ApiError> {
    check_id("model_id", &new.model_id)?;
    let provider = new.provider.unwrap_or_default();
    let provider_model_id = id_at_provider(provider, new.provider_model_id, new.bedrock_model_id)?
        .ok_or_else(|| ApiError::invalid("provider_model_id", "required: the model's id at its provider"))?;
    let as_change = ModelChange {
        display_name: Some(new.display_name.clone()),
        provider: Some(provider),
        provider_model_id: Some(provider_model_id.clone()),
        model_region: new.model_region.clone(),
        context_window: Some(new.context_window),
        max_output_tokens: Some(new.max_output_tokens),
        ..ModelChange::default()
    };
    check(&app, &as_change, provider)?;
    let new = NewModel {
        model_id: new.model_id,
        display_name: new.display_name,
        provider,
        provider_model_id,
        model_region: new.model_region,
        context_window: new.context_window,
        max_output_tokens: new.max_output_tokens,
        input_token_price: new.input_token_price,
        output_token_price: new.output_token_price,
    };
    Ok((StatusCode::CREATED, Json(app.store.create_model(new).await?.into())))
}

/// Returns the model with the given id.
#[utoipa::path(get, path = "/api/models/{model_id}", tag = "models", params(ModelPath),
    responses((status = 200, body = Shown, description = "The model with the given id"), (status = 404, body = ErrorEnvelope)))]
pub(super) async fn get(
    caller: Principal,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<ModelPath>,
) -> Result<Json<Value>, ApiError> {
    shown(&caller, app.store.model(&path.model_id).await?).map(Json)
}

/// Changes a model; absent fields keep their value.
#[utoipa::path(put, path = "/api/models/{model_id}", tag = "models", params(ModelPath),
    request_body = Update,
    responses((status = 200, body = Shown, description = "The model after the change"), (status = 404, body = ErrorEnvelope), (status = 422, body = ErrorEnvelope)))]
pub(super) async fn update(
    _: Operator,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<ModelPath>,
    ApiJson(update): ApiJson<Update>,
) -> Result<Json<Shown>, ApiError> {
    let before = app.store.model(&path.model_id).await?.provider;
    let provider = update.provider.unwrap_or(before);
    let provider_model_id = id_at_provider(provider, update.provider_model_id, update.bedrock_model_id)?;
    if provider != before && provider_model_id.is_none() {
        let why = format!("required with another provider: the model's id at {}", provider.as_str());
        return Err(ApiError::invalid("provider_model_id", why));
    }
    let change = ModelChange {
        display_name: update.display_name,
        provider: update.provider,
        provider_model_id,
        model_region: update.model_region,
        context_window: update.context_window,
        max_output_tokens: update.max_output_tokens,
        input_token_price: update.input_token_price,
        output_token_price: update.output_token_price,
        status: update.status,
    };
    check(&app, &change, provider)?;
    let model = app.store.update_model(&path.model_id, change).await?;
    // Open workspaces ask models by the names that their policies have.
    app.cluster.renew_policies(Changed::default()).await;
    Ok(Json(model.into()))
}

/// Changes the status of a model.
#[utoipa::path(patch, path = "/api/models/{model_id}/status", tag = "models", params(ModelPath),
    request_body = StatusUpdate,
    responses((status = 200, body = Shown, description = "The model after the change"), (status = 404, body = ErrorEnvelope), (status = 422, body = ErrorEnvelope)))]
pub(super) async fn set_status(
    _: Operator,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<ModelPath>,
    ApiJson(update): ApiJson<StatusUpdate>,
) -> Result<Json<Shown>, ApiError> {
    let change = ModelChange { status: Some(update.status), ..ModelChange::default() };
    Ok(Json(app.store.update_model(&path.model_id, change).await?.into()))
}

/// Deletes a model, which must not be used by any tenant or conversation.
#[utoipa::path(delete, path = "/api/models/{model_id}", tag = "models", params(ModelPath),
    responses((status = 204, description = "The model is deleted"), (status = 404, body = ErrorEnvelope), (status = 409, body = ErrorEnvelope)))]
pub(super) async fn delete(
    _: Operator,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<ModelPath>,
) -> Result<StatusCode, ApiError> {
    app.store.delete_model(&path.model_id).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_at_the_provider_has_two_names_and_a_bad_one_is_reported_by_its_own() {
        let long = "x".repeat(257);
        let bad = |id: Option<&str>, older: Option<&str>, provider| {
            let found = id_at_provider(provider, id.map(ToOwned::to_owned), older.map(ToOwned::to_owned));
            found.map_err(|error| {
                error.details().iter().map(|detail| detail.field.clone()).collect::<Vec<_>>().join(",")
            })
        };
        let fits = |id: &str| Ok(Some(id.to_owned()));
        let named = |field: &str| Err(field.to_owned());
        for (id, older, expected) in [
            (None, None, Ok(None)),
            (Some("a"), None, fits("a")),
            (None, Some("a"), fits("a")),
            (Some("a"), Some("a"), fits("a")),
            (Some("a"), Some("b"), named("bedrock_model_id")),
            (Some(""), None, named("provider_model_id")),
            (Some(&*long), None, named("provider_model_id")),
            (Some("a\0"), None, named("provider_model_id")),
            (None, Some(""), named("bedrock_model_id")),
            (None, Some(&*long), named("bedrock_model_id")),
            (None, Some("a\0"), named("bedrock_model_id")),
            (None, Some(&long[1..]), fits(&long[1..])),
        ] {
            assert_eq!(bad(id, older, Provider::Bedrock), expected, "{id:?} and {older:?}");
        }
        assert_eq!(bad(None, Some("a"), Provider::Anthropic), named("bedrock_model_id"));
    }
}
