//! A run that exceeds its time limit.

use std::time::{Duration, Instant};

use crate::client::stream::names;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::broken_run::ended_badly;
use crate::scenarios::common::limits::HEALED_LIMIT;
use crate::scenarios::common::needs::RUN;
use crate::scenarios::common::single_room::only;
use crate::target::launch::Launch;

/// The time limit of a run.
const RUN_LIMIT: Duration = Duration::from_secs(6);

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "RUN-006",
    "A run that exceeds its time limit ends with timeout_error, its processes are gone, and the next run works",
    "timeout → error, workspace replaced",
    body!(timed_out),
)
.severity(Severity::High)
.profile(Profile::Full)
.requires(RUN)
.limit(120)];

async fn timed_out(context: &Context) -> Result<(), Failure> {
    let deployment = context.launch(Launch::new().set("CONTAINER_EXECUTION_TIMEOUT", RUN_LIMIT.as_secs())).await?;
    let conversation = deployment.conversation(context).await?;
    // The first run may be slow on this machine; only the endless one should exceed the limit.
    let started = Instant::now();
    let prompt = "@tool Bash {\"command\": \"tail -f /dev/null\", \"description\": \"Wait\"}\n@say never said";
    let events = deployment.run(&conversation, prompt).await?;
    check(started.elapsed() >= RUN_LIMIT, format!("it was ended after {:?}", started.elapsed()))?;
    ended_badly(&events)?;
    let error = events.iter().find(|event| event.name == "error").map_or("", |error| error.text("error_type"));
    check_eq(format!("error_type among {}", names(&events)), error, "timeout_error")?;
    let counted = deployment.api.metrics().await?.get("workspace_requests_total", &[("status", "timeout")]);
    check_eq("workspace_requests_total{status=timeout}", counted, Some(1.0))?;
    eventually(HEALED_LIMIT, "no process of the run", async || {
        for room in deployment.rooms().await? {
            let left = room.shell("grep -lz '^/dev/null$' /proc/[0-9]*/cmdline 2>/dev/null || true").await?;
            check(left.printed.trim().is_empty(), format!("in workspace {}: {}", room.id, left.printed))?;
        }
        Ok::<_, Failure>(())
    })
    .await?;
    deployment.run_well(&conversation, "@say in time").await?;
    only(&deployment, 1).await
}
