//! The shape of a run's events and messages.

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::shape::{Deviations, Is};

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

const LEVELS: Is = Is::OneOf(&["normal", "warning", "critical", "blocked"]);
/// Events of every successful run, with their fields.
const EVENTS: [(&str, &[(&str, Is)]); 4] = [
    ("init", &[("session_id", Is::Text), ("tools", Is::List), ("model", Is::Text), ("conversation_id", Is::Text)]),
    ("assistant", &[("content_blocks", Is::List), ("parent_agent_id", Is::OptionalText)]),
    (
        "context_status",
        &[
            ("current_context_tokens", Is::Count),
            ("max_context_tokens", Is::Count),
            ("usage_percent", Is::Number),
            ("warning_level", LEVELS),
            ("can_continue", Is::Flag),
        ],
    ),
    (
        "done",
        &[
            ("status", Is::OneOf(&["success"])),
            ("result", Is::OptionalText),
            ("is_error", Is::Flag),
            ("usage.input_tokens", Is::Count),
            ("usage.output_tokens", Is::Count),
            ("usage.cache_creation_5m_tokens", Is::Count),
            ("usage.cache_creation_1h_tokens", Is::Count),
            ("usage.cache_read_tokens", Is::Count),
            ("usage.total_tokens", Is::Count),
            ("cost_usd", Is::Decimal),
            ("turn_count", Is::Count),
            ("duration_ms", Is::Count),
            ("session_id", Is::Text),
        ],
    ),
];
const MESSAGE: &[(&str, Is)] = &[
    ("message_id", Is::Text),
    ("conversation_id", Is::Text),
    ("message_seq", Is::Count),
    ("message_type", Is::Text),
    ("message_subtype", Is::OptionalText),
    ("timestamp", Is::Time),
];

async fn events(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    let run = deployment.run_well(&conversation, "@say hello").await?;
    let mut found = Deviations::default();
    for (name, fields) in EVENTS {
        match run.iter().find(|event| event.name == name) {
            Some(event) => found.look(name, &event.data, fields),
            None => found.add([format!("a successful run has no {name}")]),
        }
    }
    let messages = deployment.api.get(&conversation.path("/messages")).await?.expect(200)?.json()?;
    let messages = messages.as_array().cloned().unwrap_or_default();
    check(!messages.is_empty(), "the run left no message: nothing was checked")?;
    for message in &messages {
        found.look(&format!("message {}", message["message_seq"]), message, MESSAGE);
    }
    found.end()
}
