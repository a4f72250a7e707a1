//! The shape of resources: health, tenants, models, conversations.

use serde_json::Value;

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::Severity;
use crate::scenarios::common::shape::{Deviations, Is};

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

const COMPONENT: Is = Is::OneOf(&["healthy", "degraded", "unhealthy"]);
const TENANT: &[(&str, Is)] = &[
    ("tenant_id", Is::Text),
    ("system_prompt", Is::OptionalText),
    ("model_id", Is::OptionalText),
    ("status", Is::OneOf(&["active", "inactive"])),
    ("created_at", Is::Time),
    ("updated_at", Is::Time),
];
const MODEL: &[(&str, Is)] = &[
    ("model_id", Is::Text),
    ("display_name", Is::Text),
    ("bedrock_model_id", Is::Text),
    ("model_region", Is::Text),
    ("context_window", Is::Count),
    ("max_output_tokens", Is::Count),
    ("input_token_price", Is::Decimal),
    ("output_token_price", Is::Decimal),
    ("status", Is::OneOf(&["active", "deprecated"])),
];
const CONVERSATION: &[(&str, Is)] = &[
    ("conversation_id", Is::Text),
    ("session_id", Is::OptionalText),
    ("tenant_id", Is::Text),
    ("user_id", Is::Text),
    ("model_id", Is::Text),
    ("title", Is::OptionalText),
    ("status", Is::OneOf(&["active", "archived"])),
    ("workspace_enabled", Is::Flag),
    ("total_input_tokens", Is::Count),
    ("total_output_tokens", Is::Count),
    ("estimated_context_tokens", Is::Count),
    ("context_limit_reached", Is::Flag),
    ("created_at", Is::Time),
    ("updated_at", Is::Time),
];

async fn health(context: &Context) -> Result<(), Failure> {
    let open = context.deployment().await?.api.with_key(None);
    let mut found = Deviations::default();
    let front = open.get("/").await?.expect(200)?.json()?;
    found.look("/", &front, &[("name", Is::Text), ("version", Is::Text), ("docs_url", Is::Text)]);
    let health = open.get("/health").await?.expect(200)?.json()?;
    found.look(
        "/health",
        &health,
        &[
            ("status", COMPONENT),
            ("version", Is::Text),
            ("environment", Is::OneOf(&["development", "production"])),
            ("timestamp", Is::Time),
            ("container_system.active_containers", Is::Count),
            ("container_system.warm_pool_size", Is::Count),
        ],
    );
    for name in ["database", "redis", "docker", "s3"] {
        let what = format!("checks.{name} of /health");
        let message = &health["checks"][name]["message"];
        found.add((!message.is_string()).then(|| format!("message of {what} is {message}, not a text")));
        found.look(&what, &health["checks"][name], &[("status", COMPONENT), ("latency_ms", Is::Number)]);
    }
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
    found.look("a tenant", &deployment.api.get(&path).await?.expect(200)?.json()?, TENANT);
    let all = deployment.api.get("/api/tenants").await?.expect(200)?.json()?;
    found.look("a tenant in the list", listed(&all, "tenant_id", &conversation.tenant)?, TENANT);
    found.end()
}

async fn model(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    let mut found = Deviations::default();
    let path = format!("/api/models/{}", conversation.model);
    found.look("a model", &deployment.api.get(&path).await?.expect(200)?.json()?, MODEL);
    let all = deployment.api.get("/api/models").await?.expect(200)?.json()?;
    found.look("a model in the list", listed(&all, "model_id", &conversation.model)?, MODEL);
    found.end()
}

async fn conversation(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    let mut found = Deviations::default();
    found.look("a new conversation", &conversation.created, CONVERSATION);
    found.look("a conversation", &deployment.api.get(&conversation.path("")).await?.expect(200)?.json()?, CONVERSATION);
    let path = format!("/api/tenants/{}/conversations", conversation.tenant);
    let page = deployment.api.get(&path).await?.expect(200)?.json()?;
    let numbers = [("total", Is::Count), ("limit", Is::Count), ("offset", Is::Count), ("items", Is::List)];
    found.look("a page of conversations", &page, &numbers);
    let item = listed(&page, "conversation_id", &conversation.id)?;
    check(item["tenant_id"] == *conversation.tenant, format!("a conversation of another tenant: {item}"))?;
    found.look("a conversation in the list", item, CONVERSATION);
    found.end()
}
