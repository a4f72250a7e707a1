//! The shape of resources: health, tenants, models, conversations.

use serde_json::Value;

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::Severity;
use crate::scenarios::common::shape::Deviations;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "SHAPE-002",
        "The front page and /health have every field, also of components that are not configured",
        "{status, version, environment, timestamp, checks: {…: {status, message, latency_ms}}, container_system}",
        body!(health),
    )
    .severity(Severity::Low)
    .limit(45),
    Scenario::new(
        "SHAPE-003",
        "A tenant has every field, alone and in the list",
        "{tenant_id, system_prompt, model_id, status: active|inactive, created_at, updated_at}",
        body!(tenant),
    )
    .severity(Severity::Low)
    .limit(45),
    Scenario::new(
        "SHAPE-004",
        "A model has every field, alone and in the list; prices are decimal numbers in texts",
        "{model_id, display_name, bedrock_model_id, model_region, context_window, …, status: active|deprecated}",
        body!(model),
    )
    .severity(Severity::Low)
    .limit(45),
    Scenario::new(
        "SHAPE-005",
        "A conversation has every field: when it is created, alone and in the page that lists it",
        "{conversation_id, session_id, tenant_id, user_id, model_id, title, status, …}; {items, total, limit, offset}",
        body!(conversation),
    )
    .severity(Severity::Low)
    .limit(45),
];

async fn health(context: &Context) -> Result<(), Failure> {
    let open = context.deployment().await?.api.with_key(None);
    let mut found = Deviations::default();
    found.look("/", &open.get("/").await?.expect(200)?.json()?, "About");
    found.look("/health", &open.get("/health").await?.expect(200)?.json()?, "Health");
    found.end()
}

/// The object with this id in a list, or in the items of a page.
fn listed<'v>(list: &'v Value, field: &str, id: &str) -> Result<&'v Value, Failure> {
    let items = list.as_array().or_else(|| list["items"].as_array());
    let item = items.into_iter().flatten().find(|item| item[field] == *id);
    item.ok_or_else(|| Failure::assertion(format!("{id} is not in the list {list}")))
}

async fn tenant(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    let mut found = Deviations::default();
    let path = format!("/api/tenants/{}", conversation.tenant);
    found.look("a tenant", &deployment.api.get(&path).await?.expect(200)?.json()?, "Tenant");
    let all = deployment.api.get("/api/tenants").await?.expect(200)?.json()?;
    found.look("a tenant in the list", listed(&all, "tenant_id", &conversation.tenant)?, "Tenant");
    found.end()
}

async fn model(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    let mut found = Deviations::default();
    let path = format!("/api/models/{}", conversation.model);
    found.look("a model", &deployment.api.get(&path).await?.expect(200)?.json()?, "BedrockModel");
    let all = deployment.api.get("/api/models").await?.expect(200)?.json()?;
    found.look("a model in the list", listed(&all, "model_id", &conversation.model)?, "BedrockModel");
    found.end()
}

async fn conversation(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    let mut found = Deviations::default();
    found.look("a new conversation", &conversation.created, "Conversation");
    found.look(
        "a conversation",
        &deployment.api.get(&conversation.path("")).await?.expect(200)?.json()?,
        "Conversation",
    );
    let path = format!("/api/tenants/{}/conversations", conversation.tenant);
    let page = deployment.api.get(&path).await?.expect(200)?.json()?;
    found.look("a page of conversations", &page, "ConversationPage");
    let item = listed(&page, "conversation_id", &conversation.id)?;
    check(item["tenant_id"] == *conversation.tenant, format!("a conversation of another tenant: {item}"))?;
    found.end()
}
