//! Deployments that keep their state in Redis.

use serde_json::{Value, json};

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::scenarios::common::limits::HEALED_LIMIT;
use crate::target::deployment::{Conversation, Deployment};
use crate::target::launch::Launch;
use crate::target::redis::Redis;

/// Waits until `/health`, which must always answer 200, reports this state of Redis, and returns the response.
pub(crate) async fn redis_is(deployment: &Deployment, expected: &str) -> Result<Value, Failure> {
    eventually(HEALED_LIMIT, format!("redis {expected} in /health"), async || {
        let health = deployment.api.get("/health").await?.expect(200)?.json()?;
        check_eq(health.to_string(), health["checks"]["redis"]["status"].as_str(), Some(expected))?;
        Ok::<_, Failure>(health)
    })
    .await
}

/// Runs a prompt successfully in the workspace that was marked as the conversation's.
pub(crate) async fn in_own_room(deployment: &Deployment, conversation: &Conversation) -> Result<(), Failure> {
    let prompt = "@tool Bash {\"command\": \"cat /workspace/mark\", \"description\": \"Look\"}\n@say looked";
    let events = deployment.run_well(conversation, prompt).await?;
    let results = events.iter().filter(|event| event.name == "tool_result");
    let content: String = results.map(|event| event.data["content"].to_string()).collect();
    check(content.contains(&conversation.id), format!("the conversation is in another workspace: {content}"))
}

/// As [`in_own_room`], and checks the total number of workspaces.
pub(crate) async fn keeps_room(
    deployment: &Deployment,
    conversation: &Conversation,
    rooms: usize,
) -> Result<(), Failure> {
    in_own_room(deployment, conversation).await?;
    check_eq("rooms", deployment.rooms().await?.len(), rooms)
}

/// Gives a conversation a workspace, and writes its id to a file there.
pub(crate) async fn mark(deployment: &Deployment, conversation: &Conversation) -> Result<(), Failure> {
    let command = format!("echo {} > /workspace/mark", conversation.id);
    let tool = json!({"command": command, "description": "Mark"});
    deployment.run_well(conversation, &format!("@tool Bash {tool}\n@say marked")).await.map(|_| ())
}

/// Two servers of one deployment, with the same Redis, database and socket directory.
pub(crate) async fn both(
    context: &Context,
    redis: &Redis,
    settings: Launch,
) -> Result<(Deployment, Deployment), Failure> {
    let database = format!("sqlite://{}", context.dir().join("both.sqlite").display());
    let launch = settings.set("REDIS_URL", redis.url()).set("DATABASE_URL", database);
    let first = context.launch(launch).await?;
    let second = context.launch_beside(&first).await?;
    Ok((first, second))
}
