//! Runs that outlive their server.

use crate::client::stream::RunEvent;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::durable_run::{outlives, waiting, well, whole};
use crate::target::launch::Launch;

const NEEDS: &[Capability] =
    &[Capability::Launch, Capability::Docker, Capability::Image, Capability::Model, Capability::Resume];

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "RUN-020",
        "A run outlives a killed server: the next server continues it, and its readers miss and repeat no event",
        "a server that was restarted picks its runs up again; what came after Last-Event-ID is replayed, then live",
        body!(outlives_a_kill),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(NEEDS)
    .limit(120),
    Scenario::new(
        "RUN-021",
        "A run outlives a server that shuts down and keeps its workspaces",
        "SHUTDOWN_WORKSPACES=keep: adopted by the next start",
        body!(outlives_a_stop),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(NEEDS)
    .limit(120),
    Scenario::new(
        "RUN-022",
        "A run whose workspace was lost while no server was running ends with an error that says so",
        "never silently: a run that is lost ends with error and done/error",
        body!(lost_while_stopped),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(NEEDS)
    .limit(120),
    Scenario::new(
        "RUN-025",
        "A cancellation that the server accepted still takes effect after the server is killed",
        "POST …/cancel: 202; the run ends with done / cancelled",
        body!(cancelled_before_kill),
    )
    .profile(Profile::Full)
    .requires(NEEDS)
    .limit(120),
];

async fn outlives_a_kill(context: &Context) -> Result<(), Failure> {
    let (deployment, conversation) = outlives(context, Launch::new()).await?;
    // What the driver had reported before the server was killed is not lost with its workspace.
    let last = deployment.run_well(&conversation, "@say Before the loss.").await?;
    deployment.only_room().await?.kill("SIGKILL").await?;
    let next = deployment.run_well(&conversation, "@recall went on").await?;
    let session = |events: &[RunEvent]| events.last().map(|done| done.data["session_id"].clone());
    check_eq("session in another workspace", session(&next), session(&last))
}

async fn outlives_a_stop(context: &Context) -> Result<(), Failure> {
    let launch =
        Launch::new().set("SHUTDOWN_WORKSPACES", "keep").set("SHUTDOWN_TIMEOUT", 1).set("WARM_POOL_MIN_SIZE", 0);
    let mut deployment = context.launch(launch).await?;
    let conversation = deployment.conversation(context).await?;
    let seen = waiting(&deployment, &conversation).await?;
    let room = deployment.only_room().await?;
    deployment.stop().await?;
    room.shell("touch /workspace/go").await?;
    deployment.restart(context).await?;
    let done = whole(&deployment, &conversation, seen).await?;
    well(&deployment, &conversation, &done).await?;
    // The server keeps its workspaces; this scenario removes its own.
    deployment.api.delete(&conversation.path("")).await?.expect(204).map(|_| ())
}

async fn lost_while_stopped(context: &Context) -> Result<(), Failure> {
    let mut deployment = context.launch(Launch::new()).await?;
    let conversation = deployment.conversation(context).await?;
    let seen = waiting(&deployment, &conversation).await?;
    let room = deployment.only_room().await?;
    deployment.kill().await?;
    room.kill("SIGKILL").await?;
    deployment.restart(context).await?;
    let done = whole(&deployment, &conversation, seen).await?;
    check_eq(format!("status in done: {done}"), done["status"].as_str(), Some("error"))?;
    let has_errors = done["errors"].as_array().is_some_and(|errors| !errors.is_empty());
    check(has_errors, format!("errors in done: {done}"))?;
    deployment.run_well(&conversation, "@say alive again").await.map(|_| ())
}

async fn cancelled_before_kill(context: &Context) -> Result<(), Failure> {
    let mut deployment = context.launch(Launch::new()).await?;
    let conversation = deployment.conversation(context).await?;
    let seen = waiting(&deployment, &conversation).await?;
    let room = deployment.only_room().await?;
    // Frozen, so that the agent cannot act on the cancellation before the server is killed.
    room.pause().await?;
    deployment.api.post(&conversation.path("/cancel"), &serde_json::json!({})).await?.expect(202)?;
    deployment.kill().await?;
    room.unpause().await?;
    deployment.restart(context).await?;
    let done = whole(&deployment, &conversation, seen).await?;
    check_eq(format!("status in done: {done}"), done["status"].as_str(), Some("cancelled"))?;
    let left = room.shell("pgrep -x sleep || true").await?;
    check_eq("processes of the run after it ended", left.printed.trim(), "")
}
