//! Processes that do not want to end.

use std::time::Duration;

use serde_json::json;

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::needs::RUN;
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "RUN-028",
    "Of a run whose hundreds of processes start each other again, none is left when it is said to be cancelled",
    "done is the last event: sent once every process of the run has exited",
    body!(stubborn),
)
.severity(Severity::High)
.profile(Profile::Full)
.requires(RUN)
.limit(90)];

/// Processes that only wait, and those that start one as soon as another has ended.
const WAITING: usize = 150;
const STARTING: usize = 40;

async fn stubborn(context: &Context) -> Result<(), Failure> {
    let deployment = context.launch(Launch::new().set("CONTAINER_PIDS", 600)).await?;
    let conversation = deployment.conversation(context).await?;
    // `trap` and `setsid`: neither a hang-up nor another session saves them.
    // Some are never long the same: each starts its successor and ends.
    let line = format!(
        "hop() {{ sleep 0.002; hop & }}; for n in $(seq 20); do hop & done; \
         for n in $(seq {WAITING}); do setsid sleep 1001 & done; \
         for n in $(seq {STARTING}); do (trap '' HUP TERM INT; while :; do sleep 1002; done) & done; wait"
    );
    let call = json!({"command": line, "description": "Start them"});
    let mut stream = deployment.start(&conversation, &format!("@tool Bash {call}\n@say Never.")).await?;
    stream.until("tool_call").await?;
    let room = deployment.only_room().await?;
    let count = async || {
        let found = room.shell("pgrep -x sleep | wc -l").await?.printed;
        found.trim().parse::<usize>().map_err(|_| Failure::mismatch("what wc printed", "a number", found))
    };
    eventually(Duration::from_secs(30), "all processes", async || {
        let running = count().await?;
        check(running >= WAITING + STARTING, format!("{running} of them run"))
    })
    .await?;
    deployment.api.post(&conversation.path("/cancel"), &json!({})).await?.expect(202)?;
    let events = stream.finish().await?;
    check_eq("status", events.last().map(|done| done.text("status")), Some("cancelled"))?;
    check_eq("processes after the run's last event", count().await?, 0)?;
    check_eq("workspace afterwards", &deployment.only_room().await?.id, &room.id)?;
    deployment.run_well(&conversation, "@say And on we go.").await.map(|_| ())
}
