//! A workspace that fills the directory it shares with the host.

use std::time::Duration;

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::needs::RUN;
use crate::scenarios::common::socket_directory;
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "SOCK-003",
    "A workspace that would fill the directory of its sockets is refused, or removed with its files",
    "hostile socket directory: a filled directory; a workspace hurts only itself",
    body!(filled),
)
.severity(Severity::Critical)
.profile(Profile::Full)
.requires(RUN)
.limit(120)];

/// Ways to fill a directory; all of them continue until they are stopped.
const FILLINGS: [(&str, &str); 3] = [
    ("with one file", "while :; do head -c 1000000 /dev/zero >>.fill; sleep 0.05; done"),
    ("with many", "i=0; while :; do : >f$i; i=$((i+1)); sleep 0.01; done"),
    ("below a folder", "mkdir -p a/b && while :; do head -c 1000000 /dev/zero >>a/b/c; sleep 0.05; done"),
];

/// The same, each once.
const ATTEMPTS: [(&str, &str); 4] = [
    ("a file", "head -c 1000000 /dev/zero >.fill"),
    ("a folder", "mkdir -p a/b"),
    ("a folder that nobody can look into", "mkdir -m 0000 closed"),
    ("a file that is unlinked while it is open", "exec 9>gone && rm gone && head -c 1000000 /dev/zero >&9"),
];

async fn filled(context: &Context) -> Result<(), Failure> {
    if !socket_directory::is_writable(context) {
        return refused(context).await;
    }
    const SOON: Duration = Duration::from_secs(20);
    let deployment = context.launch(Launch::new()).await?;
    let neighbour = deployment.conversation(context).await?;
    deployment.run_well(&neighbour, "@say here").await?;
    let quiet = deployment.only_room().await?;
    for (how, line) in FILLINGS {
        let greedy = deployment.another_conversation(context, &neighbour.tenant, &neighbour.model).await?;
        deployment.run_well(&greedy, "@say here").await?;
        let rooms = deployment.rooms().await?;
        let room = rooms
            .into_iter()
            .find(|room| room.id != quiet.id)
            .ok_or_else(|| Failure::assertion("no second workspace"))?;
        let dir = room.socket_dir().await?;
        // Until the workspace is removed, which ends the command.
        let line = format!("cd {} && {{ {line}; }}", room.sockets());
        let filling = room.shell(&line);
        let ended = tokio::time::timeout(SOON, filling).await;
        check(ended.is_ok(), format!("a workspace that fills its directory {how} still runs after {SOON:?}"))?;
        eventually(SOON, format!("the end of a workspace that fills its directory {how}"), async || {
            let running = room.is_running().await?;
            check(!running && !dir.exists(), format!("running {running}, its directory is there: {}", dir.exists()))
        })
        .await?;
        check_eq(
            format!("the neighbour's workspace beside one that fills its directory {how}"),
            quiet.is_running().await?,
            true,
        )?;
        deployment.run_well(&greedy, "@say again").await.map_err(|failure| failure.during(how))?;
        deployment.api.delete(&greedy.path("")).await?.expect(204)?;
    }
    let log = deployment.server()?.log();
    check(log.contains("hostile"), "the log does not say why the workspaces were removed")
}

async fn refused(context: &Context) -> Result<(), Failure> {
    let deployment = context.launch(Launch::new()).await?;
    let conversation = deployment.conversation(context).await?;
    deployment.run_well(&conversation, "@say here").await?;
    let room = deployment.only_room().await?;
    socket_directory::refuses(&room, &ATTEMPTS, context.dir()).await?;
    deployment.run_well(&conversation, "@say still here").await?;
    check_eq("the workspace after the attempts", &deployment.only_room().await?.id, &room.id)
}
