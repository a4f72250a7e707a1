//! BUG-11: runs with object storage that refuses requests, is down, or never responds.

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::bucket::{files, names_and_texts, shell, storage_errors};
use crate::scenarios::common::needs::RUN;
use crate::target::deployment::{Conversation, Deployment};
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "BUG-11-REFUSED",
        "With a bucket that refuses requests a run succeeds, reports the fault, is counted, and loses no file",
        "bucket that refuses: the run still ends success, error counter moves, the client is told",
        body!(refused),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(120),
    Scenario::new(
        "BUG-11-DOWN",
        "With a bucket that is down a run succeeds, and a deletion reports that files may remain",
        "bucket that is down: the run still ends success, error counter moves, the client is told",
        body!(down),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(120),
    Scenario::new(
        "BUG-11-SLOW",
        "With a bucket that never responds a run succeeds after no more than the documented delay",
        "a bucket that is slow delays a run no longer than twice S3_SYNC_TIMEOUT",
        body!(slow),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(120),
];

async fn sync_errors(deployment: &Deployment, direction: &str) -> Result<f64, Failure> {
    let metrics = deployment.api.metrics().await?;
    Ok(metrics.get("workspace_s3_sync_errors_total", &[("direction", direction)]).unwrap_or_default())
}

/// Runs a prompt that writes a file while the bucket has a fault: the run succeeds and reports that files are not stored.
async fn run_with_fault(deployment: &Deployment, conversation: &Conversation) -> Result<(), Failure> {
    let before = sync_errors(deployment, "out").await?;
    let events = deployment.run_well(conversation, &shell("printf kept > /workspace/kept.txt")).await?;
    let reported = storage_errors(&events);
    check(!reported.is_empty(), "no event of the run reports that files are not stored")?;
    check(reported.iter().all(|error| error["recoverable"] == true), format!("not recoverable: {reported:?}"))?;
    let after = sync_errors(deployment, "out").await?;
    check(after > before, format!("workspace_s3_sync_errors_total{{direction=\"out\"}} was {before}, is {after}"))
}

async fn refused(context: &Context) -> Result<(), Failure> {
    let storage = context.storage().await?;
    let deployment = context.launch(Launch::new().bucket(&storage).set("S3_SYNC_TIMEOUT", 5)).await?;
    let conversation = deployment.conversation(context).await?;
    storage.fault("refuse").await?;
    run_with_fault(&deployment, &conversation).await?;
    let refusals = storage.requests().await?.iter().filter(|asked| asked.status == 403).count();
    check(refusals > 0, "the bucket received no request: nothing was refused")?;
    storage.fault("none").await?;
    let events = deployment.run_well(&conversation, "@say and now").await?;
    check_eq("storage errors once the bucket accepts files again", storage_errors(&events).len(), 0)?;
    check_eq("files in the bucket", names_and_texts(&files(&storage, &conversation).await?), vec![("kept.txt", "kept")])
}

async fn down(context: &Context) -> Result<(), Failure> {
    let storage = context.storage().await?;
    let deployment = context.launch(Launch::new().bucket(&storage).set("S3_SYNC_TIMEOUT", 5)).await?;
    let conversation = deployment.conversation(context).await?;
    deployment.run_well(&conversation, &shell("printf first > /workspace/first.txt")).await?;
    check_eq("files before", files(&storage, &conversation).await?.len(), 1)?;
    storage.fault("down").await?;
    run_with_fault(&deployment, &conversation).await?;
    deployment.api.delete(&conversation.path("")).await?.expect_error(503, "SERVICE_UNAVAILABLE")?;
    deployment.api.get(&conversation.path("")).await?.expect(200)?;
    storage.fault("none").await?;
    deployment.api.delete(&conversation.path("")).await?.expect(204)?;
    check_eq("objects once it was deleted again", storage.objects().await?.len(), 0)
}

async fn slow(context: &Context) -> Result<(), Failure> {
    let storage = context.storage().await?;
    let deployment = context.launch(Launch::new().bucket(&storage).set("S3_SYNC_TIMEOUT", 2)).await?;
    let conversation = deployment.conversation(context).await?;
    storage.fault("hang").await?;
    run_with_fault(&deployment, &conversation).await?;
    let hanging = storage.requests().await?.iter().filter(|asked| asked.status == 0).count();
    check(hanging > 0, "no request hangs: nothing was slow")?;
    storage.fault("none").await?;
    deployment.run_well(&conversation, "@say and now").await?;
    check_eq("files in the bucket", names_and_texts(&files(&storage, &conversation).await?), vec![("kept.txt", "kept")])
}
