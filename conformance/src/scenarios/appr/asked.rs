//! A run whose driver asks before it uses its shell: what the scenarios of this family share.

use serde_json::{Value, json};

use crate::client::http::Reply;
use crate::client::stream::{EventStream, RunEvent};
use crate::harness::failure::{Failure, check_eq};
use crate::target::deployment::{Conversation, Deployment};

/// Starts a run whose agent must ask before it uses `Bash`.
pub(super) async fn start(
    deployment: &Deployment,
    conversation: &Conversation,
    prompt: &str,
) -> Result<EventStream, Failure> {
    let body = json!({"user_input": prompt, "configuration": {"permissions": {"ask": ["Bash"]}}});
    deployment.api.open_stream(&conversation.path("/stream"), &body).await
}

/// A script in which the model runs a shell command, then speaks.
pub(super) fn script(command: &str) -> String {
    let call = json!({"command": command, "description": "Do it"});
    format!("@tool Bash {call}\n@say The end.")
}

/// Sends a decision.
pub(super) async fn decide(
    deployment: &Deployment,
    conversation: &Conversation,
    id: &str,
    decision: &Value,
) -> Result<Reply, Failure> {
    deployment.api.post(&conversation.path(&format!("/approvals/{id}")), decision).await
}

/// Ids of what a run waits for, as the API lists it.
pub(super) async fn waiting(deployment: &Deployment, conversation: &Conversation) -> Result<Vec<String>, Failure> {
    let list = deployment.api.get(&conversation.path("/approvals")).await?.expect(200)?.json()?;
    let entries = list["approvals"].as_array().cloned().unwrap_or_default();
    Ok(entries.iter().map(|entry| entry["request_id"].as_str().unwrap_or_default().to_owned()).collect())
}

/// The events of a run of one kind.
pub(super) fn of<'e>(events: &'e [RunEvent], name: &str) -> Vec<&'e RunEvent> {
    events.iter().filter(|event| event.name == name).collect()
}

/// What became of the only thing that was asked.
pub(super) fn resolution(events: &[RunEvent]) -> Result<String, Failure> {
    let resolved = of(events, "approval_resolved");
    check_eq("number of events approval_resolved", resolved.len(), 1)?;
    Ok(resolved[0].text("decision").to_owned())
}

/// The status in the last event.
pub(super) fn status(events: &[RunEvent]) -> &str {
    events.last().map_or("", |done| done.text("status"))
}

/// The result of the only tool call.
pub(super) fn tool_result(events: &[RunEvent]) -> Result<&RunEvent, Failure> {
    let results = of(events, "tool_result");
    check_eq("number of events tool_result", results.len(), 1)?;
    Ok(results[0])
}
