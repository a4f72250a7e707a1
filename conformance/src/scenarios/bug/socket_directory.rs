//! BUG-06: the directory of a workspace's two sockets.

use std::collections::BTreeSet;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::Method;

use crate::client::unix;
use crate::harness::context::Context;
use crate::harness::engine::Room;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::asking::refused_by_proxy;
use crate::scenarios::common::rooms;
use crate::scenarios::common::socket_directory::is_writable;

/// Names of the two sockets.
const SOCKETS: [&str; 2] = ["agent.sock", "proxy.sock"];

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "BUG-06",
        "A workspace's only mount is its socket directory, and both sockets are sockets on either side",
        "{HOST_PATH}/{id} → the workspace's directory; both sockets are sockets on both sides",
        body!(one_room),
    )
    .severity(Severity::Critical)
    .profile(Profile::Host)
    .requires(&[Capability::Docker, Capability::Files]),
    Scenario::new(
        "BUG-06-TWENTY",
        "Twenty workspaces at once have twenty directories and forty sockets",
        "both sockets are sockets on both sides, also with twenty workspaces at once",
        body!(twenty_rooms),
    )
    .severity(Severity::High)
    .profile(Profile::Host)
    .requires(&[Capability::Docker, Capability::Files])
    .limit(150),
];

/// Checks the sockets of one workspace.
async fn check_room(context: &Context, room: &Room, base: Option<&Path>) -> Result<(), Failure> {
    let mounts = room.inspect().await?.mounts.unwrap_or_default();
    let outside = mounts.iter().filter(|mount| mount.typ.as_deref() != Some("tmpfs"));
    let outside: Vec<_> = outside.map(|mount| mount.destination.clone().unwrap_or_default()).collect();
    check_eq("mounts of the workspace", &outside, &vec![room.sockets().to_owned()])?;
    let mount = mounts.iter().find(|mount| mount.destination.as_deref() == Some(room.sockets()));
    check_eq("whether the mount is writable", mount.and_then(|mount| mount.rw), Some(is_writable(context)))?;

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
        let inside = room.exec(["test", "-S", &format!("{}/{name}", room.sockets())]).await?;
        check_eq(format!("`test -S` of {name} in the workspace ({})", inside.printed), inside.status, 0)?;
    }
    let (status, body) = unix::request(&dir.join("agent.sock"), Method::GET, "/health", Bytes::new())
        .await
        .map_err(|error| Failure::mismatch("the agent's /health, from the host", "an answer", error))?;
    check_eq(format!("status of the agent's /health ({})", String::from_utf8_lossy(&body)), status.as_u16(), 200)
}

async fn one_room(context: &Context) -> Result<(), Failure> {
    let (deployment, rooms) = rooms::rooms(context, 1, Duration::from_secs(20)).await?;
    let base = deployment.server.as_ref().map(|server| server.sockets.as_path());
    for room in &rooms {
        check_room(context, room, base).await?;
        // And from inside through the bridge: the server's proxy answers.
        let through = room.shell(&refused_by_proxy(room)).await?;
        check_eq(
            "status of the proxy, from inside, for a host that is not on the allow-list",
            through.printed.trim(),
            "403",
        )?;
    }
    Ok(())
}

async fn twenty_rooms(context: &Context) -> Result<(), Failure> {
    let (deployment, rooms) = rooms::rooms(context, 20, Duration::from_secs(100)).await?;
    let base = deployment.server.as_ref().map(|server| server.sockets.as_path());
    futures::future::try_join_all(rooms.iter().map(|room| check_room(context, room, base))).await?;
    let directories: BTreeSet<_> =
        futures::future::try_join_all(rooms.iter().map(Room::socket_dir)).await?.into_iter().collect();
    check_eq("number of socket directories of twenty workspaces", directories.len(), 20)?;
    match base {
        Some(base) => check_eq("number of socket directories", std::fs::read_dir(base)?.count(), 20),
        // A target that the suite did not launch has other directories too.
        None => Ok(()),
    }
}
