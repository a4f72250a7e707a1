//! The sockets between server and room: BUG-06.

use std::collections::BTreeSet;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::Method;

use super::inhabited;
use crate::client::unix;
use crate::context::Context;
use crate::failure::{Failure, check, check_eq};
use crate::poll::eventually;
use crate::scenario::{Capability, Profile, Scenario, Severity};
use crate::target::engine::{ROOM_SOCKETS, Room};
use crate::target::launch::Launch;

/// Status of a command that was ended by SIGKILL.
const KILLED: i64 = 128 + 9;
/// Names of the two sockets.
const SOCKETS: [&str; 2] = ["agent.sock", "proxy.sock"];

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        id: "BUG-06",
        title: "the room's one mount is its socket directory, and both sockets are sockets from both sides",
        severity: Severity::Critical,
        requirement: "{HOST_PATH}/{id} → /var/run/ws (rw), a directory; both sockets are sockets on both sides",
        requires: &[Capability::Docker, Capability::Files],
        profile: Profile::Host,
        destructive: false,
        limit: Duration::from_secs(60),
        body: body!(one_room),
    },
    Scenario {
        id: "BUG-06-TWENTY",
        title: "twenty rooms at once: twenty directories, forty sockets",
        severity: Severity::High,
        requirement: "both sockets are sockets on both sides, also with twenty workspaces at once",
        requires: &[Capability::Docker, Capability::Files],
        profile: Profile::Host,
        destructive: false,
        limit: Duration::from_secs(150),
        body: body!(twenty_rooms),
    },
    Scenario {
        id: "SOCK-001",
        title: "a room that puts a link, a directory, a FIFO or a deaf listener in its agent's place is replaced, and nothing is followed",
        severity: Severity::Critical,
        requirement: "the server treats that directory as hostile: it never follows a link in it, and connects only to a socket",
        requires: &[Capability::Launch, Capability::Docker, Capability::Image, Capability::Model],
        profile: Profile::Full,
        destructive: false,
        limit: Duration::from_secs(120),
        body: body!(hostile_rooms),
    },
    Scenario {
        id: "SOCK-003",
        title: "a room that fills the directory it shares with the host is taken down, with what it put there, and hurts nobody else",
        severity: Severity::Critical,
        requirement: "hostile socket directory: a filled directory; a room hurts only itself",
        requires: &[Capability::Launch, Capability::Docker, Capability::Image, Capability::Model],
        profile: Profile::Full,
        destructive: false,
        limit: Duration::from_secs(120),
        body: body!(filled),
    },
];

/// Ways to fill a directory; all of them go on until they are stopped.
const FILLINGS: [(&str, &str); 3] = [
    ("with one file", "while :; do head -c 1000000 /dev/zero >>/var/run/ws/.fill; sleep 0.05; done"),
    ("with many", "i=0; while :; do : >/var/run/ws/f$i; i=$((i+1)); sleep 0.01; done"),
    ("below a folder", "mkdir -p /var/run/ws/a/b && while :; do head -c 1000000 /dev/zero >>/var/run/ws/a/b/c; sleep 0.05; done"),
];

async fn filled(context: &Context) -> Result<(), Failure> {
    const SOON: Duration = Duration::from_secs(20);
    let deployment = context.launch(Launch::new()).await?;
    let neighbour = deployment.conversation(context).await?;
    deployment.run_well(&neighbour, "@say here").await?;
    let quiet = deployment.only_room().await?;
    for (how, line) in FILLINGS {
        let greedy = deployment.another_conversation(context, &neighbour.tenant, &neighbour.model).await?;
        deployment.run_well(&greedy, "@say here").await?;
        let rooms = deployment.rooms().await?;
        let room = rooms.into_iter().find(|room| room.id != quiet.id).ok_or_else(|| Failure::assertion("no second room"))?;
        let dir = room.socket_dir().await?;
        // As long as it lives: its end is the filling's, too.
        let filling = room.shell(line);
        let ended = tokio::time::timeout(SOON, filling).await;
        check(ended.is_ok(), format!("a room that fills its directory {how} is let do so for {SOON:?}"))?;
        eventually(SOON, format!("the end of a room that fills its directory {how}"), async || {
            let running = room.is_running().await?;
            check(!running && !dir.exists(), format!("running {running}, its directory is there: {}", dir.exists()))
        })
        .await?;
        check_eq(format!("the neighbour's room beside one that fills its directory {how}"), quiet.is_running().await?, true)?;
        deployment.run_well(&greedy, "@say again").await.map_err(|failure| failure.during(how))?;
        deployment.api.delete(&greedy.path("")).await?.expect(204)?;
    }
    let log = deployment.server()?.log();
    check(log.contains("hostile"), "the log does not say why the rooms went")
}


/// Everything that must hold for one room's sockets.
async fn check_room(room: &Room, base: Option<&Path>) -> Result<(), Failure> {
    let mounts = room.inspect().await?.mounts.unwrap_or_default();
    let outside = mounts.iter().filter(|mount| mount.typ.as_deref() != Some("tmpfs"));
    let outside: Vec<_> = outside.map(|mount| mount.destination.clone().unwrap_or_default()).collect();
    check_eq("what is mounted into the room from outside", &outside, &vec![ROOM_SOCKETS.to_owned()])?;
    let mount = mounts.iter().find(|mount| mount.destination.as_deref() == Some(ROOM_SOCKETS));
    check_eq("whether the mount is writable", mount.and_then(|mount| mount.rw), Some(true))?;

    let dir = room.socket_dir().await?;
    let workspace = room.workspace.as_deref().unwrap_or_default();
    check_eq("the host's side of the mount", &dir, &base.unwrap_or(dir.parent().unwrap_or(&dir)).join(workspace))?;
    check(std::fs::symlink_metadata(&dir)?.is_dir(), format!("{} is not a directory", dir.display()))?;
    for name in SOCKETS {
        let path = dir.join(name);
        let is_socket = || std::fs::symlink_metadata(&path).map(|found| found.file_type().is_socket());
        eventually(Duration::from_secs(10), format!("a socket at {}", path.display()), || {
            std::future::ready(match is_socket() {
                Ok(true) => Ok(()),
                other => Err(format!("{other:?}")),
            })
        })
        .await?;
        check(unix::accepts(&path).await, format!("nothing accepts on {}", path.display()))?;
        let inside = room.exec(["test", "-S", &format!("{ROOM_SOCKETS}/{name}")]).await?;
        check_eq(format!("`test -S` of {name} in the room ({})", inside.printed), inside.status, 0)?;
    }
    let (status, body) = unix::request(&dir.join("agent.sock"), Method::GET, "/health", Bytes::new())
        .await
        .map_err(|error| Failure::mismatch("the agent's /health, from the host", "an answer", error))?;
    check_eq(format!("status of the agent's /health ({})", String::from_utf8_lossy(&body)), status.as_u16(), 200)
}

async fn one_room(context: &Context) -> Result<(), Failure> {
    let (deployment, rooms) = inhabited::rooms(context, 1, Duration::from_secs(20)).await?;
    let base = deployment.server.as_ref().map(|server| server.sockets.as_path());
    for room in &rooms {
        check_room(room, base).await?;
        // And from inside through the bridge: whoever answers is the server's proxy.
        let through = room.shell("curl -sS -o /dev/null -w '%{http_code}' -x http://127.0.0.1:8080 http://nowhere.invalid/").await?;
        check_eq("what the proxy says to a name that is not on the list, asked from inside", through.printed.trim(), "403")?;
    }
    Ok(())
}

async fn twenty_rooms(context: &Context) -> Result<(), Failure> {
    let (deployment, rooms) = inhabited::rooms(context, 20, Duration::from_secs(100)).await?;
    let base = deployment.server.as_ref().map(|server| server.sockets.as_path());
    futures::future::try_join_all(rooms.iter().map(|room| check_room(room, base))).await?;
    let directories: BTreeSet<_> = futures::future::try_join_all(rooms.iter().map(Room::socket_dir)).await?.into_iter().collect();
    check_eq("number of socket directories of twenty rooms", directories.len(), 20)?;
    match base {
        Some(base) => check_eq("number of socket directories", std::fs::read_dir(base)?.count(), 20),
        // In somebody else's deployment there are others as well.
        None => Ok(()),
    }
}

/// What a room does to the socket its agent listened on. `$1` is a socket on the host that nobody must connect to.
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
            // It was taken down before it was done with it.
            Ok(done) if done.status == KILLED => {}
            Err(_) if !waiting.is_running().await? => {}
            done => return Err(Failure::assertion(format!("the room's attempt at {what}: {:?}", done?))),
        }
        let conversation = deployment.another_conversation(context, &first.tenant, &first.model).await?;
        deployment.run_well(&conversation, "@say hello").await.map_err(|failure| failure.during(what))?;
        eventually(Duration::from_secs(20), format!("no room and no directory of {what}"), async || {
            let running = waiting.is_running().await.map_err(|failure| failure.to_string())?;
            if running || dir.exists() { Err(format!("running {running}, {} there: {}", dir.display(), dir.exists())) } else { Ok(()) }
        })
        .await?;
        deployment.api.delete(&conversation.path("")).await?.expect(204)?;
    }
    let connected = tokio::time::timeout(Duration::ZERO, trap.accept()).await.is_ok();
    check(!connected, "the server followed a link out of a room's directory")?;
    // The trap does work.
    check(unix::accepts(&trap_path).await, "nobody could have connected to the trap")?;
    std::fs::remove_file(&trap_path)?;
    check(base.is_dir(), "the socket base is gone")
}
