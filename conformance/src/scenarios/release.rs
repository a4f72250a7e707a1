//! The one way out of a room's life: BUG-12. However a room ends, nothing of it is left.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::inhabited;
use crate::client::unix;
use crate::context::Context;
use crate::failure::{Failure, check, check_eq};
use crate::poll::eventually;
use crate::scenario::{Capability, Profile, Scenario, Severity};
use crate::target::deployment::{Conversation, Deployment, READY_LIMIT, Server};
use crate::target::launch::Launch;

/// How long everything may take to be gone.
const GONE_LIMIT: Duration = Duration::from_secs(20);

const NEEDS: &[Capability] = &[Capability::Launch, Capability::Docker, Capability::Image, Capability::Model];
const REQUIREMENT: &str = "one release path; nothing left listening, no file, no task, no descriptor";

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        id: "BUG-12",
        title: "garbage collection of an idle room leaves no container, socket, listener or descriptor",
        severity: Severity::High,
        requirement: REQUIREMENT,
        requires: NEEDS,
        profile: Profile::Full,
        destructive: false,
        limit: Duration::from_secs(90),
        body: body!(by_gc),
    },
    Scenario {
        id: "BUG-12-DELETE",
        title: "deleting a conversation leaves nothing of its room",
        severity: Severity::High,
        requirement: REQUIREMENT,
        requires: NEEDS,
        profile: Profile::Full,
        destructive: false,
        limit: Duration::from_secs(90),
        body: body!(by_delete),
    },
    Scenario {
        id: "BUG-12-CRASH",
        title: "a room that is killed leaves nothing, once garbage collection has seen it",
        severity: Severity::High,
        requirement: REQUIREMENT,
        requires: NEEDS,
        profile: Profile::Full,
        destructive: false,
        limit: Duration::from_secs(90),
        body: body!(by_crash),
    },
    Scenario {
        id: "BUG-12-SHUTDOWN",
        title: "a shutdown that destroys workspaces leaves no container, no socket and no directory",
        severity: Severity::High,
        requirement: "SHUTDOWN_WORKSPACES=destroy: all gone, pool drained",
        requires: NEEDS,
        profile: Profile::Full,
        destructive: false,
        limit: Duration::from_secs(90),
        body: body!(by_shutdown),
    },
    Scenario {
        id: "BUG-12-HOST",
        title: "a conversation that is deleted takes its room along, whoever launched the deployment: container, directory, sockets",
        severity: Severity::High,
        requirement: REQUIREMENT,
        requires: &[Capability::Docker, Capability::Files],
        profile: Profile::Host,
        destructive: false,
        limit: Duration::from_secs(90),
        body: body!(room_by_room),
    },
];

/// How many rooms end in each scenario: a leak shows as often as that, the noise of connection pools does not.
const ROOMS: usize = 3;
/// How many sockets more than before are noise: connections to Docker that are kept for the next call.
const KEPT_SOCKETS: usize = ROOMS - 1;

/// Rooms of conversations, seen to be there.
struct Occupied {
    dirs: Vec<PathBuf>,
}

/// Gives each conversation a room by a run, and shows that there is something to leave behind.
async fn occupy(deployment: &Deployment, conversations: &[Conversation]) -> Result<Occupied, Failure> {
    let runs = conversations.iter().map(|conversation| deployment.run_well(conversation, "@say hello"));
    futures::future::try_join_all(runs).await?;
    let rooms = deployment.rooms().await?;
    check_eq("number of running rooms", rooms.len(), conversations.len())?;
    let mut dirs = Vec::new();
    for room in rooms {
        let dir = room.socket_dir().await?;
        check(unix::accepts(&dir.join("proxy.sock")).await, "nothing accepts on proxy.sock while the room lives")?;
        dirs.push(dir);
    }
    #[allow(clippy::cast_precision_loss, reason = "a handful of rooms")]
    let count = conversations.len() as f64;
    deployment.metric("workspace_proxies", |proxies| proxies == count, Duration::from_secs(5)).await?;
    Ok(Occupied { dirs })
}

/// Sockets of the kernel's table that are bound below `base`: what listens without a file is found here as well.
pub(super) fn bound_below(base: &Path) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let base = base.display().to_string();
    table.lines().filter_map(|line| line.split_ascii_whitespace().nth(7)).filter(|path| path.starts_with(&base)).map(str::to_owned).collect()
}

/// Waits until nothing of any room is left in the world, and until the server's own account agrees.
async fn nothing_left(deployment: &Deployment, occupied: &Occupied) -> Result<(), Failure> {
    let server = deployment.server()?;
    eventually(GONE_LIMIT, "no container", async || match deployment.all_rooms().await {
        Ok(rooms) if rooms.is_empty() => Ok(()),
        Ok(rooms) => Err(format!("{:?}", rooms.iter().map(|room| &room.id).collect::<Vec<_>>())),
        Err(failure) => Err(failure.to_string()),
    })
    .await?;
    eventually(GONE_LIMIT, format!("nothing in {}, and no socket bound below it", server.sockets.display()), || {
        let files: Vec<_> = std::fs::read_dir(&server.sockets).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        let bound = bound_below(&server.sockets);
        std::future::ready(if files.is_empty() && bound.is_empty() { Ok(()) } else { Err(format!("{files:?}, {bound:?}")) })
    })
    .await?;
    for dir in &occupied.dirs {
        check(!unix::accepts(&dir.join("proxy.sock")).await, format!("something still accepts in {}", dir.display()))?;
    }
    Ok(())
}

async fn room_by_room(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    deployment.ready(READY_LIMIT).await?;
    let mut occupied = inhabited::occupied(context, &deployment, ROOMS).await?;
    while let Some((conversation, room)) = occupied.pop() {
        let dir = room.socket_dir().await?;
        check(unix::accepts(&dir.join("proxy.sock")).await, "nothing accepts on proxy.sock while the room lives")?;
        deployment.api.delete(&conversation.path("")).await?.expect(204)?;
        let inspected = room.clone();
        eventually(GONE_LIMIT, "no container, no directory, and nothing bound in it", async || {
            let (there, bound) = (inspected.inspect().await.is_ok(), bound_below(&dir));
            let seen = format!("container: {there}, directory: {}, bound: {bound:?}", dir.exists());
            if there || dir.exists() || !bound.is_empty() { Err(seen) } else { Ok(()) }
        })
        .await?;
        for (_, other) in &occupied {
            check(other.is_running().await?, "the deletion of one conversation took another's room along")?;
        }
    }
    Ok(())
}

/// What a server's descriptors lead to: how many sockets, and how often anything else. Files of its state directory are left out:
/// a database opens more of them as it likes.
#[derive(Debug)]
pub(super) struct Descriptors {
    sockets: usize,
    others: BTreeMap<String, usize>,
}

impl Descriptors {
    pub(super) fn of(server: &Server) -> Self {
        let (mut sockets, mut others) = (0, BTreeMap::new());
        let state = server.program.env.get("STATE_DIR").cloned().unwrap_or_default();
        for target in server.descriptor_targets() {
            if target.starts_with("socket:") {
                sockets += 1;
            } else if !target.starts_with(&state) {
                // Pipes and the like have a number in brackets that is another each time.
                let kind = if target.starts_with("pipe:") { "pipe".to_owned() } else { target };
                *others.entry(kind).or_insert(0) += 1;
            }
        }
        Self { sockets, others }
    }

    /// What there is more of than `before`, sockets left out.
    pub(super) fn others_beyond(&self, before: &Self) -> Vec<String> {
        let more = self.others.iter().filter(|(target, count)| **count > before.others.get(*target).copied().unwrap_or(0));
        more.map(|(target, count)| format!("{count} × {target}")).collect()
    }

    /// What there is more of than `before`.
    fn beyond(&self, before: &Self) -> Vec<String> {
        let mut beyond = self.others_beyond(before);
        if self.sockets > before.sockets + KEPT_SOCKETS {
            beyond.push(format!("{} sockets, {} before", self.sockets, before.sockets));
        }
        beyond
    }
}

/// And that gauges and descriptors are back to where they were.
async fn back_to(deployment: &Deployment, before: &Descriptors) -> Result<(), Failure> {
    let server = deployment.server()?;
    for gauge in ["workspace_proxies", "workspace_active_containers"] {
        deployment.metric(gauge, |value| value == 0.0, Duration::from_secs(5)).await?;
    }
    eventually(GONE_LIMIT, "no more descriptors than before", || {
        let beyond = Descriptors::of(server).beyond(before);
        std::future::ready(if beyond.is_empty() { Ok(()) } else { Err(beyond.join(", ")) })
    })
    .await
}

/// Uses and releases rooms once, so that whatever is opened lazily and kept is open; gives conversations for the real thing, and
/// what the server's descriptors are then.
async fn settled(deployment: &Deployment, context: &Context) -> Result<(Vec<Conversation>, Descriptors), Failure> {
    let first = deployment.conversation(context).await?;
    let mut conversations = Vec::new();
    for _ in 0..ROOMS {
        conversations.push(deployment.another_conversation(context, &first.tenant, &first.model).await?);
    }
    let occupied = occupy(deployment, &conversations).await?;
    delete(deployment, &conversations).await?;
    nothing_left(deployment, &occupied).await?;
    conversations.clear();
    for _ in 0..ROOMS {
        conversations.push(deployment.another_conversation(context, &first.tenant, &first.model).await?);
    }
    Ok((conversations, Descriptors::of(deployment.server()?)))
}

async fn delete(deployment: &Deployment, conversations: &[Conversation]) -> Result<(), Failure> {
    for conversation in conversations {
        deployment.api.delete(&conversation.path("")).await?.expect(204)?;
    }
    Ok(())
}

async fn by_gc(context: &Context) -> Result<(), Failure> {
    let launch = Launch::new().set("CONTAINER_GC_INTERVAL", 1).set("CONTAINER_TTL", 5);
    let deployment = context.launch(launch).await?;
    let (conversations, before) = settled(&deployment, context).await?;
    let reclaimed = deployment.api.metrics().await?.sum("workspace_gc_reclaimed_total").unwrap_or(0.0);
    let occupied = occupy(&deployment, &conversations).await?;
    nothing_left(&deployment, &occupied).await?;
    let all = |now| now >= reclaimed + 3.0;
    deployment.metric("workspace_gc_reclaimed_total", all, Duration::from_secs(5)).await?;
    back_to(&deployment, &before).await?;
    // The conversation outlives its room, and gets another.
    deployment.run_well(&conversations[0], "@say hello again").await.map(|_| ())
}

async fn by_delete(context: &Context) -> Result<(), Failure> {
    let deployment = context.launch(Launch::new()).await?;
    let (conversations, before) = settled(&deployment, context).await?;
    let occupied = occupy(&deployment, &conversations).await?;
    delete(&deployment, &conversations).await?;
    nothing_left(&deployment, &occupied).await?;
    back_to(&deployment, &before).await
}

async fn by_crash(context: &Context) -> Result<(), Failure> {
    let deployment = context.launch(Launch::new().set("CONTAINER_GC_INTERVAL", 1)).await?;
    let (conversations, before) = settled(&deployment, context).await?;
    let occupied = occupy(&deployment, &conversations).await?;
    for room in deployment.rooms().await? {
        room.kill("SIGKILL").await?;
        eventually(Duration::from_secs(5), "the killed container not to run", async || match room.is_running().await {
            Ok(false) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await?;
    }
    nothing_left(&deployment, &occupied).await?;
    back_to(&deployment, &before).await?;
    deployment.run_well(&conversations[0], "@say alive again").await.map(|_| ())
}

async fn by_shutdown(context: &Context) -> Result<(), Failure> {
    let launch = Launch::new().set("SHUTDOWN_WORKSPACES", "destroy").set("WARM_POOL_MIN_SIZE", 1);
    let deployment = context.launch(launch).await?;
    let conversation = deployment.conversation(context).await?;
    deployment.run_well(&conversation, "@say hello").await?;
    deployment.metric("workspace_warm_pool_size", |waiting| waiting >= 1.0, GONE_LIMIT).await?;
    let rooms = deployment.rooms().await?;
    check_eq("rooms before the shutdown, one used and one waiting", rooms.len(), 2)?;
    let dirs = vec![rooms[0].socket_dir().await?, rooms[1].socket_dir().await?];
    deployment.stop().await?;
    nothing_left(&deployment, &Occupied { dirs }).await
}
