//! What later turns of a conversation remember.

use crate::client::stream::RunEvent;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::needs::RUN;
use crate::target::deployment::{Conversation, Deployment};

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "RUN-030",
    "A later turn remembers what was said before, in the same workspace and in its replacement",
    "multi-turn conversations continue the session, also when the workspace was replaced in between",
    body!(remembers),
)
.severity(Severity::High)
.profile(Profile::Full)
.requires(RUN)
.limit(120)];

/// The model's answer to whether it was sent a word.
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
    // A quote and closing brackets, which must not end the prompt.
    let prompt = format!("Remember {asked} \"}}]</x>\n@say I know of {said}.\n{tool}\n@say Seen.");
    deployment.run_well(&conversation, &prompt).await?;

    let known = async |deployment: &Deployment, when: &str| {
        for word in [&asked, &said, &seen] {
            check_eq(
                format!("{word} {when}"),
                recall(deployment, &conversation, word).await?,
                format!("{word}: remembered"),
            )?;
        }
        // The control: an unsaid word is unknown, and so is one of another conversation.
        let never = context.unique("never");
        check_eq(
            format!("{never} {when}"),
            recall(deployment, &conversation, &never).await?,
            format!("{never}: unknown"),
        )
    };
    known(&deployment, "in the same workspace").await?;
    let first = deployment.only_room().await?;
    check_eq(
        "the answer in another conversation",
        recall(&deployment, &other, &asked).await?,
        format!("{asked}: unknown"),
    )?;
    first.kill("SIGKILL").await?;
    known(&deployment, "in the next workspace").await?;
    let rooms = deployment.rooms().await?;
    check(rooms.iter().all(|room| room.id != first.id), "the killed workspace still exists")
}
