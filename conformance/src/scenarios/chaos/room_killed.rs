//! A workspace that is killed during a run.

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::needs::RUN;
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "CHAOS-002",
    "A workspace killed during a run ends that run with an error, and the next run works",
    "workspace killed mid-run → error + container_recovered + done/error, next run works",
    body!(room_killed),
)
.severity(Severity::High)
.profile(Profile::Full)
.requires(RUN)
.limit(90)];

async fn room_killed(context: &Context) -> Result<(), Failure> {
    let deployment = context.launch(Launch::new()).await?;
    let conversation = deployment.conversation(context).await?;
    let prompt = "@tool Bash {\"command\": \"tail -f /dev/null\", \"description\": \"Wait\"}\n@say never said";
    let mut stream = deployment.start(&conversation, prompt).await?;
    stream.until("tool_call").await?;
    let room = deployment.only_room().await?;
    room.kill("SIGKILL").await?;
    let events = stream.finish().await?;
    let names: Vec<&str> = events.iter().map(|event| event.name.as_str()).collect();
    let place = |name: &str| names.iter().position(|other| *other == name);
    let (error, recovered) = (place("error"), place("container_recovered"));
    check(error.is_some() && recovered > error, format!("no error and then container_recovered among: {names:?}"))?;
    let done = events.last().map(|done| done.data.clone()).unwrap_or_default();
    check_eq(format!("status in done: {done}"), done["status"].as_str(), Some("error"))?;
    let new = deployment.only_room().await?;
    check(new.id != room.id, "only the killed workspace exists")?;
    check_eq(
        "workspace_container_crashes_total",
        deployment.api.metrics().await?.sum("workspace_container_crashes_total"),
        Some(1.0),
    )?;
    deployment.run_well(&conversation, "@say alive again").await?;
    check_eq("the workspace of the next run", &deployment.only_room().await?.id, &new.id)
}
