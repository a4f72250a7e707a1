//! A workspace whose container somebody pauses.

use bytes::Bytes;

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::bucket::shell;
use crate::scenarios::common::files;
use crate::scenarios::common::needs::RUN;
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "CHAOS-010",
    "A paused workspace ends an upload with 503, is released as `paused`, and the next run tells what was lost",
    "nothing waits for a silent workspace for longer than 20 s, and a lost workspace is told with what was lost",
    body!(paused),
)
.severity(Severity::High)
.profile(Profile::Full)
.requires(RUN)
.limit(120)];

async fn paused(context: &Context) -> Result<(), Failure> {
    let deployment = context.launch(Launch::new().set("WARM_POOL_MIN_SIZE", "0")).await?;
    let conversation = deployment.conversation(context).await?;
    let other = deployment.another_conversation(context, &conversation.tenant, &conversation.model).await?;
    let work = shell("printf work > work.txt");
    deployment.run_well(&conversation, &work).await?;
    deployment.run_well(&other, &work).await?;
    let rooms = deployment.rooms().await?;
    check_eq("workspaces", rooms.len(), 2)?;
    for room in rooms {
        room.pause().await?;
    }
    // The upload ends, and at the same time the other conversation's run finds its workspace paused.
    let content = Bytes::from(vec![b'x'; 8 << 20]);
    let upload = files::upload(&deployment, &conversation, "more.bin", content);
    let (upload, events) = tokio::join!(upload, deployment.run_well(&other, &work));
    check(
        events?.iter().any(|event| event.name == "container_recovered"),
        "a run does not tell that it has a new workspace",
    )?;
    let upload = upload?;
    check_eq("status of an upload into a paused workspace", upload.status.as_u16(), 503)?;
    check(upload.header("retry-after").is_some(), "no Retry-After")?;

    let report = deployment.api.post("/api/admin/gc", &serde_json::json!({})).await?.expect(200)?.json()?;
    check(report.to_string().contains("\"paused\""), format!("no workspace was released as paused: {report}"))?;
    let events = deployment.run_well(&conversation, &work).await?;
    let told = events.iter().find(|event| event.name == "container_recovered").map(|event| &event.data);
    let files = told.and_then(|told| told["files"].as_str());
    check_eq("what the next run tells of the files", files, Some("lost"))
}
