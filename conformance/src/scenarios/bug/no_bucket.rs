//! BUG-11: runs without object storage.

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::log_level;
use crate::scenarios::common::needs::RUN;
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "BUG-11",
    "Without a bucket, a run and the deletion of its conversation succeed; one log line says that sync is off",
    "without a bucket a run succeeds and sync is skipped, with one log line",
    body!(no_bucket),
)
.severity(Severity::High)
.profile(Profile::Full)
.requires(RUN)
.limit(90)];

async fn no_bucket(context: &Context) -> Result<(), Failure> {
    let deployment = context.launch(Launch::new()).await?;
    let health = deployment.api.get("/health").await?.expect(200)?.json()?;
    let s3 = &health["checks"]["s3"];
    check_eq(format!("s3 in /health: {s3}"), s3["status"].as_str(), Some("healthy"))?;
    check(s3["message"].as_str().unwrap_or_default().contains("not configured"), format!("s3 in /health: {s3}"))?;

    let conversation = deployment.conversation(context).await?;
    for prompt in ["@say first", "@say second"] {
        deployment.run_well(&conversation, prompt).await?;
    }
    deployment.api.delete(&conversation.path("")).await?.expect(204)?;
    deployment.api.get(&conversation.path("")).await?.expect_error(404, "NOT_FOUND")?;
    let errors = deployment.api.metrics().await?.sum("workspace_s3_sync_errors_total");
    check(errors.is_none_or(|errors| errors == 0.0), format!("workspace_s3_sync_errors_total is {errors:?}"))?;

    let log = deployment.server()?.log();
    check(log.lines().count() > 1, "the server has logged nothing: nothing was checked")?;
    let about = |line: &&str| {
        let line = line.to_lowercase();
        line.contains("s3") || line.contains("bucket") || line.contains("file sync")
    };
    let lines: Vec<&str> = log.lines().filter(about).collect();
    check_eq(format!("number of log lines about file sync, over two runs: {lines:#?}"), lines.len(), 1)?;
    let errors = log_level::errors(&log, 0, &context.description().log)?;
    let bad = |line: &&str| errors.contains(line) || line.contains("\"error\":");
    check(!lines.iter().any(bad), format!("it is logged as an error: {lines:?}"))
}
