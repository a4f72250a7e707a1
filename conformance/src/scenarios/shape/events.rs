//! The shape of a run's events and messages.

use crate::contract::schema;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::shape::Deviations;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "SHAPE-006",
    "The events of a run and the messages that it leaves have every field",
    "init, assistant, context_status, done with their fields; messages: {message_id, conversation_id, …}",
    body!(events),
)
.severity(Severity::Low)
.profile(Profile::Full)
.requires(&[Capability::Model])
.limit(90)];

/// Events of every successful run.
const EVENTS: [&str; 4] = ["init", "assistant", "context_status", "done"];

async fn events(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    let run = deployment.run_well(&conversation, "@say hello").await?;
    let mut found = Deviations::default();
    for name in EVENTS {
        let is_there = run.iter().any(|event| event.name == name);
        found.add((!is_there).then(|| format!("a successful run has no {name}")));
    }
    for event in &run {
        found.add(schema::of_event(&event.name, &event.data));
    }
    let done = run.last().map(|done| done.data.clone()).unwrap_or_default();
    found.add((!done["session_id"].is_string()).then(|| format!("session_id of done is {}", done["session_id"])));
    let messages = deployment.api.get(&conversation.path("/messages")).await?.expect(200)?.json()?;
    let messages = messages.as_array().cloned().unwrap_or_default();
    check(!messages.is_empty(), "the run left no message: nothing was checked")?;
    for message in &messages {
        found.look(&format!("message {}", message["message_seq"]), message, "Message");
    }
    found.end()
}
