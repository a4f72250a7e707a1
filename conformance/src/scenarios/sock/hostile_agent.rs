//! A workspace that replaces its agent's socket by something else.

use std::time::Duration;

use crate::client::unix;
use crate::harness::context::Context;
use crate::harness::engine::ROOM_SOCKETS;
use crate::harness::failure::{Failure, check};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::needs::RUN;
use crate::target::launch::Launch;

/// Exit status of a command that was killed by SIGKILL.
const KILLED: i64 = 128 + 9;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "SOCK-001",
    "A workspace that replaces its agent's socket by a link, a directory, a FIFO or a deaf listener is replaced",
    "the server treats that directory as hostile: it never follows a link in it, and connects only to a socket",
    body!(hostile_rooms),
)
.severity(Severity::Critical)
.profile(Profile::Full)
.requires(RUN)
.limit(120)];

/// What a workspace does to its agent's socket. `$1` is a socket on the host to which nothing may connect.
const HOSTILE: [(&str, &str); 5] = [
    ("a link", "rm agent.sock && ln -s \"$1\" agent.sock"),
    ("a directory", "rm agent.sock && mkdir agent.sock"),
    ("a FIFO", "rm agent.sock && mkfifo agent.sock"),
    (
        "a listener that never answers",
        "rm agent.sock && (python3 -c 'import socket, signal; s = socket.socket(socket.AF_UNIX); s.bind(\"agent.sock\"); \
         s.listen(9); signal.pause()' >/dev/null 2>&1 &) && while ! [ -S agent.sock ]; do :; done",
    ),
    (
        "nothing, in a directory that is full and deep",
        "rm agent.sock && touch $(seq 2000) && python3 -c 'import os\nfor n in range(30000): os.mkdir(\"d\"); os.chdir(\"d\")'",
    ),
];

async fn hostile_rooms(context: &Context) -> Result<(), Failure> {
    let trap_path = context.socket_dir()?.join("trap.sock");
    let trap = tokio::net::UnixListener::bind(&trap_path)?;
    let launch = Launch::new().set("WARM_POOL_MIN_SIZE", 1).set("WARM_POOL_MAX_SIZE", 1);
    let deployment = context.launch(launch).await?;
    let first = deployment.conversation(context).await?;
    let base = &deployment.server()?.sockets;
    for (what, line) in HOSTILE {
        deployment.metric("workspace_warm_pool_size", |waiting| waiting == 1.0, Duration::from_secs(20)).await?;
        let waiting = deployment.only_room().await.map_err(|failure| failure.during(what))?;
        let dir = waiting.socket_dir().await?;
        let (line, target) = (format!("cd {ROOM_SOCKETS} && {line}"), trap_path.display().to_string());
        let done = waiting.exec(["sh", "-c", &line, "sh", &target]).await;
        match done {
            Ok(done) if done.status == 0 => {}
            // The workspace was removed before the command ended.
            Ok(done) if done.status == KILLED => {}
            Err(_) if !waiting.is_running().await? => {}
            done => return Err(Failure::assertion(format!("the workspace's attempt at {what}: {:?}", done?))),
        }
        let conversation = deployment.another_conversation(context, &first.tenant, &first.model).await?;
        deployment.run_well(&conversation, "@say hello").await.map_err(|failure| failure.during(what))?;
        eventually(Duration::from_secs(20), format!("no workspace and no directory of {what}"), async || {
            let running = waiting.is_running().await.map_err(|failure| failure.to_string())?;
            if running || dir.exists() {
                Err(format!("running {running}, {} there: {}", dir.display(), dir.exists()))
            } else {
                Ok(())
            }
        })
        .await?;
        deployment.api.delete(&conversation.path("")).await?.expect(204)?;
    }
    let connected = tokio::time::timeout(Duration::ZERO, trap.accept()).await.is_ok();
    check(!connected, "the server followed a link out of a workspace's directory")?;
    // The control: the trap accepts connections.
    check(unix::accepts(&trap_path).await, "the trap does not accept connections")?;
    std::fs::remove_file(&trap_path)?;
    check(base.is_dir(), "the socket base is gone")
}
