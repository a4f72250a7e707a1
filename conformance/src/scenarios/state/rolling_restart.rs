//! A rolling restart: of two servers that share Redis, one is restarted during a run.

use serde_json::json;

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::durable_run::{waiting, well, whole};
use crate::scenarios::common::shared_redis::both;
use crate::target::launch::Launch;

/// Cycles of garbage collection that the other server runs while the first one is away.
const CYCLES: usize = 2;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "STATE-014",
        "A run on a server that was killed is left alone by the other server and continues when the first one is back",
        "a run outlives its server; one run at a time per conversation: else 409 RESOURCE_LOCKED",
        body!(killed),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(NEEDS)
    .limit(120),
    Scenario::new(
        "STATE-014-STOPPED",
        "A run on a server that was stopped is left alone by the other server and continues when the first one is back",
        "a run outlives its server; one run at a time per conversation: else 409 RESOURCE_LOCKED",
        body!(stopped),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(NEEDS)
    .limit(120),
];

const NEEDS: &[Capability] = &[
    Capability::Launch,
    Capability::Docker,
    Capability::Image,
    Capability::Model,
    Capability::Redis,
    Capability::Resume,
    Capability::Admin,
];

/// How the first server ends.
#[derive(Debug, Clone, Copy)]
enum End {
    Killed,
    Stopped,
}

async fn killed(context: &Context) -> Result<(), Failure> {
    restarted(context, End::Killed).await
}

async fn stopped(context: &Context) -> Result<(), Failure> {
    restarted(context, End::Stopped).await
}

async fn restarted(context: &Context, end: End) -> Result<(), Failure> {
    let redis = context.redis().await?;
    let (mut first, second) =
        both(context, &redis, Launch::new().set("SHUTDOWN_TIMEOUT", "1s").set("SHUTDOWN_WORKSPACES", "keep")).await?;
    let conversation = first.conversation(context).await?;
    let seen = waiting(&first, &conversation).await?;
    let room = first.only_room().await?;
    match end {
        End::Killed => first.kill().await?,
        End::Stopped => first.stop().await?,
    }
    for _ in 0..CYCLES {
        let refused = second.api.post(&conversation.path("/stream"), &json!({"user_input": "@say no"})).await?;
        refused.expect_error(409, "RESOURCE_LOCKED")?;
        let wait = refused.header("retry-after").and_then(|seconds| seconds.parse::<u64>().ok());
        check(wait.is_some(), format!("Retry-After of a 409: {:?}", refused.header("retry-after")))?;
        second.api.post("/api/admin/gc", &json!({})).await?.expect(200)?;
    }
    let files = room.shell("ls /workspace/began").await?;
    check_eq(format!("the run's file in its workspace: {}", files.printed), files.status, 0)?;
    first.restart(context).await?;
    room.shell("touch /workspace/go").await?;
    let done = whole(&first, &conversation, seen).await?;
    well(&first, &conversation, &done).await?;
    check_eq("workspaces after the restart", first.rooms().await?.len(), 1)?;
    // And the conversation can go on, on either server, in the same workspace.
    let kept = second
        .run_well(&conversation, "@tool Bash {\"command\": \"ls /workspace/go\", \"description\": \"Look\"}\n@say seen")
        .await?;
    check(
        kept.iter().any(|event| event.name == "tool_result" && event.data["is_error"] == false),
        "the conversation's next run does not find the files of the run before",
    )?;
    check_eq("workspaces at the end", second.rooms().await?.len(), 1)?;
    // They would outlive the servers of this scenario.
    second.api.delete(&conversation.path("")).await?.expect(204).map(drop)
}
