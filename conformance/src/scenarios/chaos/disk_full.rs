//! A full state directory.

use serde_json::json;

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::broken_run::ended_badly;
use crate::scenarios::common::limits::HEALED_LIMIT;
use crate::target::deployment::{Conversation, Deployment};
use crate::target::launch::Launch;

/// Size of the state directory that is going to be full.
const STATE_MIB: u32 = 32;
/// How many conversations may be created until one is refused: a database can reuse pages that it has already allocated.
const UNTIL_REFUSED: usize = 3_000;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "CHAOS-009",
    "A full state directory is reported, fails the current run only, and heals once there is space",
    "disk full: degrades and heals without a restart; 503 with Retry-After for what cannot be kept; no loss",
    body!(disk_full),
)
.severity(Severity::High)
.profile(Profile::Full)
.requires(&[Capability::Launch, Capability::Docker, Capability::Image, Capability::Model, Capability::Mount])
.limit(120)];

async fn disk_full(context: &Context) -> Result<(), Failure> {
    let deployment = context.launch(Launch::new().state_of(STATE_MIB).set("CONTAINER_GC_INTERVAL", 1)).await?;
    let server = deployment.server()?;
    let conversation = deployment.conversation(context).await?;
    let other = deployment.another_conversation(context, &conversation.tenant, &conversation.model).await?;
    deployment.run_well(&conversation, "@say before").await?;
    let room = deployment.only_room().await?;

    // The run waits for a file, and then produces much output.
    let command = "until [ -e /tmp/go ]; do sleep 0.1; done; seq 1 4000";
    let tool = json!({"command": command, "description": "Wait"});
    let mut stream = deployment.start(&conversation, &format!("@tool Bash {tool}\n@say never said")).await?;
    stream.until("tool_call").await?;
    server.fill_state()?;
    let result = while_full(&deployment, &conversation, &other).await;
    let go = room.shell("touch /tmp/go").await?;
    check_eq(format!("status of touch in the workspace ({})", go.printed), go.status, 0)?;
    let events = stream.finish().await?;
    ended_badly(&events)?;
    result?;
    server.empty_state()?;

    deployment.ready(HEALED_LIMIT).await?;
    for conversation in [&conversation, &other] {
        eventually(HEALED_LIMIT, format!("a run in {} that ends well", conversation.id), async || {
            deployment.run_well(conversation, "@say after").await
        })
        .await?;
    }
    // The run's output before its end is in the conversation's history, although the disk was full then.
    let messages = deployment.api.get(&conversation.path("/messages")).await?.expect(200)?.json()?;
    let kinds: Vec<&str> =
        messages.as_array().into_iter().flatten().filter_map(|m| m["message_type"].as_str()).collect();
    let place = |kind: &str| kinds.iter().position(|other| *other == kind);
    check(place("tool_call") < place("error") && place("tool_call").is_some(), format!("messages: {kinds:?}"))?;
    check_eq(
        "runs of the conversation that are among its messages",
        kinds.iter().filter(|kind| **kind == "done").count(),
        3,
    )?;
    eventually(HEALED_LIMIT, "two containers, two directories", async || {
        let (containers, directories) =
            (deployment.all_rooms().await?.len(), std::fs::read_dir(&server.sockets)?.count());
        check((containers, directories) == (2, 2), format!("{containers} containers, {directories} directories"))
    })
    .await
}

/// Checks the responses of a deployment whose state directory is full.
async fn while_full(deployment: &Deployment, busy: &Conversation, other: &Conversation) -> Result<(), Failure> {
    let api = &deployment.api;
    api.get("/health/live").await?.expect(200)?;
    // The result of a moment ago may be told for a second.
    eventually(HEALED_LIMIT, "/health/ready tells of the full disk", async || {
        api.get("/health/ready").await?.expect_error(503, "SERVICE_UNAVAILABLE").map(drop)
    })
    .await?;
    let health = api.get("/health").await?.expect(200)?.json()?;
    check_eq(format!("status in /health: {health}"), health["status"].as_str(), Some("unhealthy"))?;
    check(health["checks"]["database"]["message"].to_string().contains("STATE_DIR"), format!("/health: {health}"))?;
    api.metrics().await?;
    // Existing data can be read.
    api.get(&busy.path("/messages")).await?.expect(200)?;
    let refused = api.post(&other.path("/stream"), &json!({"user_input": "@say no"})).await?;
    refused.expect_error(503, "SERVICE_UNAVAILABLE")?;
    check(refused.header("retry-after").is_some(), "503 without Retry-After")?;
    let form = api.form_of_run("@say no").file("large", &[b'x'; 1 << 20]);
    let refused = api.post_form(&other.path("/stream"), form.whole()).await?;
    refused.expect_error(507, "INSUFFICIENT_STORAGE")?;
    let path = format!("/api/tenants/{}/conversations", other.tenant);
    for _ in 0..UNTIL_REFUSED {
        let reply = api.post(&path, &json!({"user_id": "u".repeat(200)})).await?;
        if reply.status != 201 {
            reply.expect_error(503, "SERVICE_UNAVAILABLE")?;
            return check(reply.header("retry-after").is_some(), "503 without Retry-After");
        }
    }
    Err(Failure::assertion(format!("{UNTIL_REFUSED} conversations were made on a full disk")))
}
