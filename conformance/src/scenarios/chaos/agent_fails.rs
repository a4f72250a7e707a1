//! An agent that exits, freezes, or loses its CLI.

use std::time::Duration;

use crate::client::stream::names;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::broken_run::{ended_badly, endless, gone};
use crate::scenarios::common::limits::HEALED_LIMIT;
use crate::scenarios::common::needs::RUN;
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "CHAOS-004",
        "A workspace whose agent exits during a run is replaced, and the run ends with an error",
        "each fault degrades as the contract says and heals without a restart",
        body!(agent_ends),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(120),
    Scenario::new(
        "CHAOS-005",
        "A frozen workspace is abandoned: it leaves the pool, and its conversation gets another",
        "each fault degrades as the contract says and heals without a restart",
        body!(frozen),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(120),
    Scenario::new(
        "CHAOS-006",
        "A CLI that is killed ends the run with execution_error, and the workspace stays usable",
        "each fault degrades as the contract says and heals without a restart",
        body!(cli_killed),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(120),
];

async fn agent_ends(context: &Context) -> Result<(), Failure> {
    let deployment = context.launch(Launch::new()).await?;
    let conversation = deployment.conversation(context).await?;
    let stream = endless(&deployment, &conversation).await?;
    let room = deployment.only_room().await?;
    let dir = room.socket_dir().await?;
    // From inside the workspace: its first process is the agent, which exits on SIGTERM.
    let signalled = room.shell("kill -TERM 1").await?;
    check_eq(format!("status of kill in the workspace ({})", signalled.printed), signalled.status, 0)?;
    let events = stream.finish().await?;
    ended_badly(&events)?;
    check(names(&events).contains("container_recovered"), format!("no container_recovered among: {}", names(&events)))?;
    gone(&room, &dir).await?;
    let again = deployment.run_well(&conversation, "@say alive again").await;
    again.map(|_| ()).map_err(|failure| failure.during("the run after the agent ended"))
}

async fn frozen(context: &Context) -> Result<(), Failure> {
    let launch =
        Launch::new().set("WARM_POOL_MIN_SIZE", 1).set("WARM_POOL_MAX_SIZE", 1).set("CONTAINER_GC_INTERVAL", 1);
    let deployment = context.launch(launch).await?;
    deployment.metric("workspace_warm_pool_size", |waiting| waiting == 1.0, HEALED_LIMIT).await?;
    let waiting = deployment.only_room().await?;
    let dir = waiting.socket_dir().await?;
    waiting.pause().await?;
    gone(&waiting, &dir).await.map_err(|failure| failure.during("a frozen workspace in the pool"))?;
    // The pool has another one by then, or soon will.
    deployment.metric("workspace_warm_pool_size", |waiting| waiting == 1.0, HEALED_LIMIT).await?;

    let conversation = deployment.conversation(context).await?;
    deployment
        .run_well(
            &conversation,
            "@tool Bash {\"command\": \"touch /workspace/mine\", \"description\": \"Mark\"}\n@say marked",
        )
        .await?;
    let mut own = None;
    for room in deployment.rooms().await? {
        if room.exec(["test", "-e", "/workspace/mine"]).await?.status == 0 {
            own = Some(room);
        }
    }
    let own = own.ok_or_else(|| Failure::assertion("no workspace has the file that the run wrote"))?;
    let dir = own.socket_dir().await?;
    own.pause().await?;
    deployment.run_well(&conversation, "@say thawed").await?;
    gone(&own, &dir).await.map_err(|failure| failure.during("a frozen workspace of a conversation"))
}

async fn cli_killed(context: &Context) -> Result<(), Failure> {
    let deployment = context.launch(Launch::new()).await?;
    let conversation = deployment.conversation(context).await?;
    let stream = endless(&deployment, &conversation).await?;
    let room = deployment.only_room().await?;
    // The agent's child is the CLI, whatever it is called.
    let killed = room.shell("pid=$(cat /proc/1/task/1/children) && kill -KILL ${pid%% *}").await?;
    check_eq(format!("status of kill in the workspace ({})", killed.printed), killed.status, 0)?;
    let events = stream.finish().await?;
    ended_badly(&events)?;
    let error = events.iter().find(|event| event.name == "error").map_or("", |error| error.text("error_type"));
    check_eq("error_type", error, "execution_error")?;
    eventually(Duration::from_secs(10), "no process of the run in its workspace", async || {
        let left = room.shell("grep -lz '^/dev/null$' /proc/[0-9]*/cmdline 2>/dev/null").await?;
        check(left.printed.trim().is_empty(), left.printed)
    })
    .await?;
    deployment.run_well(&conversation, "@say alive again").await?;
    check_eq("the workspace of the next run", &deployment.only_room().await?.id, &room.id)
}
