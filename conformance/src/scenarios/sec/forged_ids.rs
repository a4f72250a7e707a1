//! An agent that uses ids which are another conversation's.

use serde_json::json;

use super::hostile_agent::{hostile_image, rename};
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::bare_container::agent_answers;
use crate::scenarios::common::needs::RUN;
use crate::target::deployment::{Conversation, Deployment};
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "SEC-014",
    "An agent with another conversation's ids of a run, a session and a question reaches nothing of it",
    "ids that exist elsewhere are mere claims: nothing is decided, withdrawn or remembered elsewhere",
    body!(forged),
)
.severity(Severity::Critical)
.profile(Profile::Full)
.requires(RUN)
.limit(120)];

/// Ids of what a conversation waits for.
async fn waiting(deployment: &Deployment, conversation: &Conversation) -> Result<Vec<String>, Failure> {
    let listed = deployment.api.get(&conversation.path("/approvals")).await?.expect(200)?.json()?;
    let entries = listed["approvals"].as_array().cloned().unwrap_or_default();
    Ok(entries.iter().filter_map(|entry| entry["request_id"].as_str()).map(ToOwned::to_owned).collect())
}

async fn forged(context: &Context) -> Result<(), Failure> {
    let tag = context.new_image_tag("agent", context.engine()?)?;
    rename(context, &context.run.capabilities.image, &tag).await?;
    let deployment = context.launch(Launch::new().set("CONTAINER_IMAGE", &tag)).await?;
    let victim = deployment.conversation(context).await?;
    let word = context.unique("word");
    deployment.run_well(&victim, &format!("@say I know {word}.")).await?;
    let room = deployment.only_room().await?;
    let tool = json!({"command": "echo ran > ran", "description": "Do it"});
    let body = json!({"user_input": format!("@tool Bash {tool}\n@say The end."),
        "configuration": {"permissions": {"ask": ["Bash"]}}});
    let mut asking = deployment.api.open_stream(&victim.path("/stream"), &body).await?;
    let session = asking.until("init").await?.text("session_id").to_owned();
    let question = asking.until("approval_required").await?.text("request_id").to_owned();
    let health = agent_answers(&room, &room.socket_dir().await?).await?;
    let execution =
        health["execution"].as_str().ok_or_else(|| Failure::assertion(format!("no execution: {health}")))?;

    rename(context, &hostile_image(context).await?, &tag).await?;
    let forger = deployment.conversation(context).await?;
    let prompt = format!("forged-ids {execution} {session} {question}");
    let mut stream = deployment.start(&forger, &prompt).await?;
    let claimed = stream.until("approval_required").await?;
    check_eq("the id of what the forger asks", claimed.text("request_id"), &*question)?;
    for (whose, conversation) in [("forger", &forger), ("other", &victim)] {
        let found = waiting(&deployment, conversation).await?;
        check_eq(format!("what the {whose} waits for"), found, vec![question.clone()])?;
    }
    let path = format!("/approvals/{question}");
    deployment.api.post(&forger.path(&path), &json!({"decision": "allow"})).await?.expect(200)?;
    let still = "what the other waits for when the forger's question is decided";
    check_eq(still, waiting(&deployment, &victim).await?, vec![question.clone()])?;
    let events = stream.finish().await?;
    let done = events.last().map(|done| done.data.clone()).unwrap_or_default();
    check_eq(format!("what the forger has said: {done}"), done["result"].as_str(), Some("forged"))?;
    check_eq("the session of the forger", done["session_id"].as_str(), Some(&*session))?;

    // Nothing of that was about the other conversation, nor is the withdrawal with which the forger has ended.
    check_eq("what the other still waits for", waiting(&deployment, &victim).await?, vec![question.clone()])?;
    deployment.api.post(&victim.path(&path), &json!({"decision": "deny", "message": "No."})).await?.expect(200)?;
    let events = asking.finish().await?;
    check_eq("status of the other's run", events.last().map(|done| done.text("status")), Some("success"))?;
    let resolved: Vec<&str> =
        events.iter().filter(|event| event.name == "approval_resolved").map(|event| event.text("decision")).collect();
    check_eq("what has become of the other's question", resolved, vec!["deny"])?;
    check_eq("files of the other", room.shell("ls /workspace").await?.printed.trim(), "")?;

    // Nor does the forger have the other's memory, in a workspace with an agent that does its work.
    rename(context, &context.run.capabilities.image, &tag).await?;
    deployment.api.delete(&forger.path("/workspace")).await?.expect(204)?;
    let recall = format!("@recall {word}");
    for (conversation, known) in [(&forger, "unknown"), (&victim, "remembered")] {
        let events = deployment.run_well(conversation, &recall).await?;
        let said = events.last().map_or("", |done| done.text("result"));
        check_eq("what is known of what the other has said", said, format!("{word}: {known}"))?;
    }
    let last = deployment.api.get(&forger.path("/messages")).await?.expect(200)?.text();
    check(!last.contains(&format!("I know {word}")), format!("messages of the other are the forger's: {last}"))
}
