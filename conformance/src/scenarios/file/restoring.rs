//! A conversation's files while its new workspace has not received them yet.

use std::time::Duration;

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::bucket::{files, shell, storage_errors};
use crate::scenarios::common::files::{listed, url};
use crate::scenarios::common::needs::RUN;
use crate::target::launch::Launch;

/// How long background work may take.
const SOON: Duration = Duration::from_secs(20);

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "FILE-108",
    "Stored files that a new workspace has not received yet are listed, downloaded and deleted all the same",
    "with a bucket, a conversation's files are those in the bucket until its workspace has them",
    body!(not_received),
)
.severity(Severity::Critical)
.profile(Profile::Full)
.requires(RUN)
.limit(120)];

async fn not_received(context: &Context) -> Result<(), Failure> {
    let storage = context.storage().await?;
    let deployment = context.launch(Launch::new().bucket(&storage)).await?;
    let conversation = deployment.conversation(context).await?;
    deployment.run_well(&conversation, &shell("seq 1 60 | split -l 1 - part-")).await?;
    check_eq("files in the bucket", files(&storage, &conversation).await?.len(), 60)?;
    let room = deployment.only_room().await?;
    room.kill("SIGKILL").await?;
    eventually(SOON, "the workspace does not run", async || match room.is_running().await {
        Ok(false) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await?;
    // The next workspace cannot take them in.
    storage.fault("refuse").await?;
    let events = deployment.start(&conversation, "@say without files").await?.finish().await?;
    check(!storage_errors(&events).is_empty(), "no storage_error, although the bucket refuses")?;
    let file = url(&conversation, "files/download", "part-aa");
    let refused = deployment.api.get(&file).await?;
    check_eq("while the bucket refuses, status of a download", refused.status.as_u16(), 503)?;
    check(refused.header("retry-after").is_some(), "no Retry-After")?;
    let page = deployment.api.get(&conversation.path("/files")).await?.expect(200)?.json()?;
    check_eq(format!("complete in {page}"), page["complete"].as_bool(), Some(false))?;

    storage.fault("none").await?;
    let (_, total) = listed(&deployment, &conversation, "").await?;
    check_eq("files that are listed", total, 60)?;
    check_eq("a file's content", deployment.api.get(&file).await?.expect(200)?.text(), "1\n".to_owned())?;
    deployment.api.delete(&url(&conversation, "files", "part-aa")).await?.expect(204)?;
    deployment.api.get(&file).await?.expect(404)?;
    check_eq("files in the bucket after one was deleted", files(&storage, &conversation).await?.len(), 59)?;
    deployment.run_well(&conversation, &shell("test $(ls | wc -l) = 59 && touch one-more")).await?;
    check_eq("files in the bucket in the end", files(&storage, &conversation).await?.len(), 60)
}
