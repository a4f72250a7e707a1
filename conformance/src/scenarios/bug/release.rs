//! BUG-12: what remains of a workspace that was released.

use std::path::PathBuf;
use std::time::Duration;

use crate::client::unix;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::leftovers::{Descriptors, ROOMS, bound_below};
use crate::scenarios::common::needs::RUN;
use crate::scenarios::common::rooms;
use crate::target::deployment::{Conversation, Deployment, READY_LIMIT};
use crate::target::launch::Launch;

/// How long removal may take.
const GONE_LIMIT: Duration = Duration::from_secs(20);
const REQUIREMENT: &str = "one release path; nothing left listening, no file, no task, no descriptor";

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "BUG-12",
        "Garbage collection of an idle workspace removes container, sockets and proxy, and frees their descriptors",
        REQUIREMENT,
        body!(by_gc),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(90),
    Scenario::new(
        "BUG-12-DELETE",
        "Deleting a conversation removes its whole workspace",
        REQUIREMENT,
        body!(by_delete),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(90),
    Scenario::new(
        "BUG-12-CRASH",
        "Garbage collection removes everything that belonged to a killed workspace",
        REQUIREMENT,
        body!(by_crash),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(90),
    Scenario::new(
        "BUG-12-SHUTDOWN",
        "A shutdown that destroys workspaces leaves no container, socket or directory",
        "SHUTDOWN_WORKSPACES=destroy: all gone, pool drained",
        body!(by_shutdown),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(90),
    Scenario::new(
        "BUG-12-HOST",
        "Deleting a conversation removes container, directory and sockets of its workspace, on any deployment",
        REQUIREMENT,
        body!(delete_one_by_one),
    )
    .severity(Severity::High)
    .profile(Profile::Host)
    .requires(&[Capability::Docker, Capability::Files])
    .limit(90),
];

/// The socket directories of workspaces that exist.
struct Occupied {
    dirs: Vec<PathBuf>,
}

/// Gives each conversation a workspace by a run, and checks that its container, directory and proxy exist.
async fn occupy(deployment: &Deployment, conversations: &[Conversation]) -> Result<Occupied, Failure> {
    let runs = conversations.iter().map(|conversation| deployment.run_well(conversation, "@say hello"));
    futures::future::try_join_all(runs).await?;
    let rooms = deployment.rooms().await?;
    check_eq("number of running workspaces", rooms.len(), conversations.len())?;
    let mut dirs = Vec::new();
    for room in rooms {
        let dir = room.socket_dir().await?;
        check(
            unix::accepts(&dir.join("proxy.sock")).await,
            "nothing accepts connections on proxy.sock while the workspace runs",
        )?;
        dirs.push(dir);
    }
    #[allow(clippy::cast_precision_loss, reason = "a handful of workspaces")]
    let count = conversations.len() as f64;
    deployment.metric("workspace_proxies", |proxies| proxies == count, Duration::from_secs(5)).await?;
    Ok(Occupied { dirs })
}

/// Waits until neither the host nor the server's metrics and lists show any workspace.
async fn nothing_left(deployment: &Deployment, occupied: &Occupied) -> Result<(), Failure> {
    let server = deployment.server()?;
    eventually(GONE_LIMIT, "no container", async || match deployment.all_rooms().await {
        Ok(rooms) if rooms.is_empty() => Ok(()),
        Ok(rooms) => Err(format!("{:?}", rooms.iter().map(|room| &room.id).collect::<Vec<_>>())),
        Err(failure) => Err(failure.to_string()),
    })
    .await?;
    eventually(GONE_LIMIT, format!("nothing in {}, and no socket bound below it", server.sockets.display()), || {
        let files: Vec<_> =
            std::fs::read_dir(&server.sockets).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        let bound = bound_below(&server.sockets);
        std::future::ready(if files.is_empty() && bound.is_empty() {
            Ok(())
        } else {
            Err(format!("{files:?}, {bound:?}"))
        })
    })
    .await?;
    for dir in &occupied.dirs {
        check(
            !unix::accepts(&dir.join("proxy.sock")).await,
            format!("something in {} still accepts connections", dir.display()),
        )?;
    }
    Ok(())
}

async fn delete_one_by_one(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    deployment.ready(READY_LIMIT).await?;
    let mut occupied = rooms::occupied(context, &deployment, ROOMS).await?;
    while let Some((conversation, room)) = occupied.pop() {
        let dir = room.socket_dir().await?;
        check(
            unix::accepts(&dir.join("proxy.sock")).await,
            "nothing accepts connections on proxy.sock while the workspace runs",
        )?;
        deployment.api.delete(&conversation.path("")).await?.expect(204)?;
        let inspected = room.clone();
        eventually(GONE_LIMIT, "no container, no directory, and nothing bound in it", async || {
            let (there, bound) = (inspected.inspect().await.is_ok(), bound_below(&dir));
            let seen = format!("container: {there}, directory: {}, bound: {bound:?}", dir.exists());
            if there || dir.exists() || !bound.is_empty() { Err(seen) } else { Ok(()) }
        })
        .await?;
        for (_, other) in &occupied {
            check(other.is_running().await?, "deleting one conversation removed another's workspace")?;
        }
    }
    Ok(())
}

/// Checks that gauges and file descriptors are back to where they were.
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

/// Uses and releases workspaces once, so that everything that is opened lazily and kept is open; returns conversations for the test, and
/// the server's file descriptors at that time.
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
    // The conversation outlives its workspace, and gets another.
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
    check_eq("workspaces before the shutdown, one used and one waiting", rooms.len(), 2)?;
    let dirs = vec![rooms[0].socket_dir().await?, rooms[1].socket_dir().await?];
    deployment.stop().await?;
    nothing_left(&deployment, &Occupied { dirs }).await
}
