//! The order for a run: what a request asks for, within what its tenant and its conversation allow.

use nagaya_driver::Permissions;
use serde_json::Value;

use super::AppState;
use super::error::{ApiError, Code};
use super::request_id;
use super::run_request::RunRequest;
use crate::conversation::order::{Bounds, Order};
use crate::conversation::skills::{Chosen, SKILLS};
use crate::conversation::store::{Conversation, ConversationStatus, Model, Tenant, TenantStatus};
use crate::tenancy::resolve::Level;
use crate::tenancy::{Effective, TenancyError};

/// The order for a run, within what its tenant, its conversation and the request itself allow.
pub(super) async fn order(
    app: &AppState,
    tenant: &str,
    conversation: &str,
    request: RunRequest,
) -> Result<Order, ApiError> {
    let (tenant, conversation) = check_startable(app, tenant, conversation).await?;
    if app.store.held(&conversation.conversation_id).await?.is_full() {
        return Err(ApiError::new(
            Code::Conflict,
            "the conversation holds as many messages as it may; create a new one",
        ));
    }
    let effective = app.tenancy.effective_of_run(&tenant, &conversation, request.configuration.as_ref()).await?;
    let chosen = request.configuration.and_then(|run| run.models?.default);
    let model_id = chosen.as_ref().unwrap_or(&conversation.model_id);
    if !effective.workspace_models.value.contains(model_id) {
        let by = effective.models.from.name();
        return Err(ApiError::new(
            Code::Forbidden,
            format!("the model {model_id} is not allowed any more ({by}'s configuration)"),
        ));
    }
    let model = app.store.model(model_id).await?;
    if let Some(why) = app.unreachable(model.provider, model.model_region.as_deref()) {
        return Err(ApiError::invalid("model_id", format!("the model {}: {why}", model.model_id)));
    }
    let (skills, unknown) = app.tenancy.chosen_skills(&tenant.tenant_id, &effective.skills.value).await?;
    if !unknown.is_empty() {
        return Err(TenancyError::Problems(unknown).into());
    }
    check_skill_command(request.command.as_deref(), &skills)?;
    let fallbacks = fallbacks(app, &model, &effective).await?;
    Ok(Order {
        conversation,
        tenant,
        model,
        command: request.command.is_some(),
        user_input: request.command.unwrap_or(request.user_input),
        content: request.content,
        request_id: Some(request_id::current()),
        user: request.executor.and_then(|executor| executor.user_id),
        bounds: Bounds {
            seconds: (effective.run_seconds.from != Level::Operator).then_some(effective.run_seconds.value),
            max_turns: effective.max_turns.value,
            tools: effective.tools.value.clone(),
            permissions: Permissions {
                ask: effective.permissions.ask.value.clone(),
                deny: effective.permissions.deny.value.clone(),
                questions: effective.permissions.questions.value,
            },
            mcp_servers: effective.mcp_servers.value.clone(),
            fallbacks,
            effort: effective.agent.effort.value.map(|effort| effort.name().to_owned()),
            instructions: effective.agent.instructions.value.clone(),
            output_schema: effective.agent.output_schema.value.clone().map(Value::Object),
            directory: effective.agent.directory.value.clone(),
            environment: effective.agent.environment.value.clone(),
            skills,
            max_cost: effective.max_cost_usd.value,
            applied: serde_json::to_value(&effective).map_err(|error| ApiError::internal(&error))?,
        },
        client_tools: request.client_tools.into_iter().map(Into::into).collect(),
        uploads: None,
    })
}

/// Returns the conversation and its tenant if both allow a run to start.
pub(super) async fn check_startable(
    app: &AppState,
    tenant: &str,
    id: &str,
) -> Result<(Tenant, Conversation), ApiError> {
    let tenant = app.store.tenant(tenant).await?;
    let conversation = app.store.conversation(&tenant.tenant_id, id).await?;
    if tenant.status == TenantStatus::Inactive {
        return Err(ApiError::invalid("tenant_id", "the tenant is inactive"));
    }
    if conversation.status == ConversationStatus::Archived {
        return Err(ApiError::invalid(
            "conversation_id",
            "the conversation is archived; set its status to active first",
        ));
    }
    if !conversation.workspace_enabled {
        return Err(ApiError::invalid("conversation_id", "the conversation was created without a workspace"));
    }
    if conversation.context_limit_reached {
        return Err(ApiError::new(Code::Conflict, "the model's context window is full; create a new conversation"));
    }
    Ok((tenant, conversation))
}

/// A command that is a skill is one of the run's.
fn check_skill_command(command: Option<&str>, skills: &[Chosen]) -> Result<(), ApiError> {
    let name = command.and_then(|command| command.strip_prefix('/')?.strip_prefix(SKILLS)?.split(' ').next());
    match name {
        Some(name) if !skills.iter().any(|skill| skill.name == name) => {
            Err(ApiError::invalid("command", format!("the run has no skill {name:?}")))
        }
        _ => Ok(()),
    }
}

/// The models that stand in for the run's. The driver asks all of them at one place, so they must be of its provider and region.
async fn fallbacks(app: &AppState, model: &Model, effective: &Effective) -> Result<Vec<Model>, ApiError> {
    let mut fallbacks = Vec::new();
    let others = effective.agent.fallback_models.value.iter().filter(|id| **id != model.model_id);
    for (at, id) in others.enumerate() {
        let other = app.store.model(id).await?;
        if (other.provider, &other.model_region) != (model.provider, &model.model_region) {
            let why = format!("{id} cannot stand in for {}: it has another provider or region", model.model_id);
            return Err(ApiError::invalid(format!("agent.fallback_models[{at}]"), why));
        }
        fallbacks.push(other);
    }
    Ok(fallbacks)
}
