//! A workspace that replaces its agent's socket by something else.

use std::time::Duration;

use bytes::Bytes;
use http::Method;

use crate::client::unix;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::needs::RUN;
use crate::scenarios::common::socket_directory;
use crate::target::launch::Launch;

/// Exit status of a command that was killed by SIGKILL.
const KILLED: i64 = 128 + 9;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "SOCK-001",
    "A workspace cannot replace its agent's socket by a link, a directory or a listener, or is replaced itself",
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

/// The same against a server that listens itself.
const ATTEMPTS: [(&str, &str); 6] = [
    ("removing it", "rm -f agent.sock"),
    ("a link", "ln -sf \"$1\" agent.sock"),
    ("a directory in its place", "mv agent.sock own && mkdir agent.sock"),
    ("a FIFO", "mkfifo other.sock"),
    (
        "a listener of its own",
        "python3 -c 'import os, socket; s = socket.socket(socket.AF_UNIX); s.bind(\"own\"); os.rename(\"own\", \"agent.sock\")'",
    ),
    ("other permissions", "chmod 0000 agent.sock"),
];
/// Asks the server, from inside, for what the server's side asks of the agent.
const ASK: &str = "curl -sS --max-time 5 --unix-socket agent.sock http://localhost/health";

async fn hostile_rooms(context: &Context) -> Result<(), Failure> {
    if !socket_directory::is_writable(context) {
        return refused(context).await;
    }
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
        let (line, target) = (format!("cd {} && {line}", waiting.sockets()), trap_path.display().to_string());
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

async fn refused(context: &Context) -> Result<(), Failure> {
    let deployment = context.launch(Launch::new()).await?;
    let conversation = deployment.conversation(context).await?;
    deployment.run_well(&conversation, "@say here").await?;
    let room = deployment.only_room().await?;
    socket_directory::refuses(&room, &ATTEMPTS, &context.dir().join("trap.sock")).await?;
    let asked = room.shell(&format!("cd {} && {ASK}", room.sockets())).await?;
    check(
        asked.status != 0 && !asked.printed.contains("\"status\""),
        format!("a program in the workspace reached the server by agent.sock: {}", asked.printed),
    )?;
    // The control: the server's side reaches the agent by the same request.
    let socket = room.socket_dir().await?.join("agent.sock");
    let (status, body) = unix::request(&socket, Method::GET, "/health", Bytes::new())
        .await
        .map_err(|error| Failure::mismatch("the agent's /health, from the host", "an answer", error))?;
    check_eq(format!("the agent's /health ({})", String::from_utf8_lossy(&body)), status.as_u16(), 200)?;
    deployment.run_well(&conversation, "@say still here").await?;
    check_eq("the workspace after the attempts", &deployment.only_room().await?.id, &room.id)
}
