//! Declarations of tools that the caller carries out.

use serde_json::{Value, json};

use super::called::price;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "TOOL-010",
    "Declarations of tools that break the rules are refused with their place, and no run begins",
    "client_tools: [{name, description, input_schema}], limited in number and bytes, names checked: 422",
    body!(refused),
)
.severity(Severity::Medium)
.profile(Profile::Full)];

fn named(name: &str) -> Value {
    json!({"name": name, "description": "A tool", "input_schema": {"type": "object"}})
}

async fn refused(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation_without_model(context).await?;
    let many: Vec<Value> = (0..65).map(|number| named(&format!("tool{number}"))).collect();
    let large = json!({"name": "large", "description": "x".repeat(9_000), "input_schema": {"type": "object",
        "description": "y".repeat(60_000)}});
    for (tools, place) in [
        (json!([price(), named("a b")]), "client_tools[1].name"),
        (json!([named("a__b")]), "client_tools[0].name"),
        (json!([named("a_")]), "client_tools[0].name"),
        (json!([named("-a")]), "client_tools[0].name"),
        (json!([price(), price()]), "client_tools[1].name"),
        (json!([{"name": "a", "description": "", "input_schema": {"type": "object"}}]), "client_tools[0].description"),
        (json!([{"name": "a", "description": "d", "input_schema": {}}]), "client_tools[0].input_schema"),
        (json!([{"name": "a", "description": "d", "input_schema": {"type": "object"}, "secret": 1}]), "client_tools"),
        (json!(many), "client_tools"),
        (json!([large]), "client_tools"),
    ] {
        for route in ["/stream", "/messages"] {
            let body = json!({"user_input": "@say no", "client_tools": tools});
            let reply = deployment.api.post(&conversation.path(route), &body).await?;
            check_eq(format!("status of POST {route} with {place}"), reply.status.as_u16(), 422)?;
            check(reply.text().contains(place), format!("the answer does not name {place}: {}", reply.text()))?;
        }
    }
    Ok(())
}
