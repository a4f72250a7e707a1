//! A run whose caller carries out a tool itself: what the scenarios of this family share.

use serde_json::{Value, json};

use crate::client::http::Reply;
use crate::client::stream::{EventStream, RunEvent};
use crate::harness::failure::Failure;
use crate::target::deployment::{Conversation, Deployment};

/// The declaration of a tool that tells the price of an item.
pub(super) fn price() -> Value {
    json!({"name": "price", "description": "The price of an item of the shop",
        "input_schema": {"type": "object", "properties": {"item": {"type": "string"}}, "required": ["item"]}})
}

/// A script whose model asks for these prices in one answer, then speaks.
pub(super) fn script(items: &[&str]) -> String {
    let (last, others) = items.split_last().expect("an item");
    let call = |item: &str| format!("mcp__client__price {}", json!({"item": item}));
    let others: String = others.iter().map(|item| format!("@also {}\n", call(item))).collect();
    format!("{others}@tool {}\n@say The end.", call(last))
}

/// The body of a run that declares the tool.
pub(super) fn body(prompt: &str) -> Value {
    json!({"user_input": prompt, "client_tools": [price()]})
}

/// Starts a run that declares the tool.
pub(super) async fn start(
    deployment: &Deployment,
    conversation: &Conversation,
    prompt: &str,
) -> Result<EventStream, Failure> {
    deployment.api.open_stream(&conversation.path("/stream"), &body(prompt)).await
}

/// Sends a result.
pub(super) async fn answer(
    deployment: &Deployment,
    conversation: &Conversation,
    id: &str,
    result: &Value,
) -> Result<Reply, Failure> {
    deployment.api.post(&conversation.path(&format!("/tool-results/{id}")), result).await
}

/// What became of each request, in order.
pub(super) fn outcomes(events: &[RunEvent]) -> Vec<&str> {
    let resolved = events.iter().filter(|event| event.name == "tool_request_resolved");
    resolved.map(|event| event.text("outcome")).collect()
}

/// The results that the model was given: by tool call, the text and whether it is an error.
pub(super) fn results(events: &[RunEvent]) -> Vec<(&str, &str, bool)> {
    let results = events.iter().filter(|event| event.name == "tool_result");
    results.map(|event| (event.text("tool_use_id"), event.text("content"), event.data["is_error"] == true)).collect()
}
