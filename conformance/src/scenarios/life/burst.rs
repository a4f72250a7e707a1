//! Many conversations of one tenant that need a workspace at once.

use futures::future::try_join_all;
use jiff::Timestamp;

use crate::client::stream::{EventStream, RunEvent};
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::needs::RUN;
use crate::target::launch::Launch;

/// Runs that one tenant starts at once.
const BURST: usize = 12;
/// How many of them must begin after another tenant's run that is started last: with containers started two at a time, all but
/// those that had a turn before it and those that overtake it while the drivers start.
const BEHIND: usize = 5;
const PROMPT: &str = "@say here";

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "LIFE-009",
    "A burst of runs without a warm pool succeeds, is told that it waits, and delays no other tenant",
    "a fair queue for the start of workspaces; the wait is told to the client",
    body!(burst),
)
.severity(Severity::High)
.profile(Profile::Full)
.requires(RUN)
.limit(120)];

async fn burst(context: &Context) -> Result<(), Failure> {
    let launch = Launch::new().set("CONTAINER_STARTS", 2).set("CONTAINER_START_QUEUE", 16).set("SHUTDOWN_TIMEOUT", 20);
    let deployment = context.launch(launch).await?;
    let single = deployment.conversation(context).await?;
    let first = deployment.conversation(context).await?;
    let mut conversations = vec![first.clone()];
    for _ in 1..BURST {
        conversations.push(deployment.another_conversation(context, &first.tenant, &first.model).await?);
    }
    // A run that is accepted waits already: its stream begins afterwards.
    let streams = try_join_all(conversations.iter().map(|conversation| deployment.start(conversation, PROMPT))).await?;
    let last = deployment.start(&single, PROMPT).await?;
    let all = streams.into_iter().chain([last]).map(EventStream::finish);
    let mut runs = try_join_all(all).await?;
    for (run, number) in runs.iter().zip(1..) {
        let done = run.last().map(|done| done.data.clone()).unwrap_or_default();
        check_eq(format!("status in done of run {number}: {done}"), done["status"].as_str(), Some("success"))?;
    }
    let waited = runs.iter().filter(|run| run.iter().any(is_wait)).count();
    check(waited > 0, "no run was told that it waits for the start of its workspace")?;
    let single = runs.pop().map(|run| began(&run)).transpose()?;
    let began: Vec<_> = runs.iter().map(|run| began(run).map(Some)).collect::<Result<_, _>>()?;
    let behind = began.iter().filter(|began| **began > single).count();
    check(
        behind >= BEHIND,
        format!("only {behind} of {BURST} runs of one tenant began after another tenant's: {began:?}, {single:?}"),
    )
}

/// When a run had its workspace; where that is not told, when its driver was started.
fn began(run: &[RunEvent]) -> Result<Timestamp, Failure> {
    let ready = run.iter().find(|event| event.name == "progress" && event.text("message").contains("is ready"));
    let first = ready.or_else(|| run.iter().find(|event| event.name == "init"));
    let stamp = first.and_then(|event| event.text("timestamp").parse().ok());
    stamp.ok_or_else(|| Failure::assertion(format!("a run without init: {run:?}")))
}

/// Whether the event says that the run waits for others.
fn is_wait(event: &RunEvent) -> bool {
    event.name == "progress" && event.text("message").to_lowercase().contains("waiting for the start of a workspace")
}
