//! Conversations that go on: RUN.

use std::time::Duration;

use crate::client::stream::RunEvent;
use crate::context::Context;
use crate::failure::{Failure, check, check_eq};
use crate::scenario::{Capability, Profile, Scenario, Severity};
use crate::target::deployment::{Conversation, Deployment};

pub(super) const SCENARIOS: &[Scenario] = &[Scenario {
    id: "RUN-030",
    title: "a later turn knows what was said before, in the same room and in one that replaced it",
    severity: Severity::High,
    requirement: "multi-turn conversations continue the session, also when the room was replaced in between",
    requires: &[Capability::Launch, Capability::Docker, Capability::Image, Capability::Model],
    profile: Profile::Full,
    destructive: false,
    limit: Duration::from_secs(120),
    body: body!(remembers),
}];

/// What the model says when it is asked whether it was sent a word.
async fn recall(deployment: &Deployment, conversation: &Conversation, word: &str) -> Result<String, Failure> {
    let events = deployment.run_well(conversation, &format!("@recall {word}")).await?;
    Ok(events.last().map(|done: &RunEvent| done.text("result").to_owned()).unwrap_or_default())
}

async fn remembers(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    let other = deployment.another_conversation(context, &conversation.tenant, &conversation.model).await?;
    let (asked, said, seen) = (context.unique("asked"), context.unique("said"), context.unique("seen"));
    let tool = format!("@tool Bash {{\"command\": \"echo {seen}\", \"description\": \"Look\"}}");
    // A quote and what looks like the end of something, which must not end it.
    let prompt = format!("Remember {asked} \"}}]</x>\n@say I know of {said}.\n{tool}\n@say Seen.");
    deployment.run_well(&conversation, &prompt).await?;

    let known = async |deployment: &Deployment, when: &str| {
        for word in [&asked, &said, &seen] {
            check_eq(format!("{word} {when}"), recall(deployment, &conversation, word).await?, format!("{word}: remembered"))?;
        }
        // The control: what was not said is not known, and of another conversation nothing.
        let never = context.unique("never");
        check_eq(format!("{never} {when}"), recall(deployment, &conversation, &never).await?, format!("{never}: unknown"))
    };
    known(&deployment, "in the same room").await?;
    let first = deployment.only_room().await?;
    check_eq("what another conversation knows", recall(&deployment, &other, &asked).await?, format!("{asked}: unknown"))?;
    first.kill("SIGKILL").await?;
    known(&deployment, "in the next room").await?;
    let rooms = deployment.rooms().await?;
    check(rooms.iter().all(|room| room.id != first.id), "the room that was killed is still there")
}
