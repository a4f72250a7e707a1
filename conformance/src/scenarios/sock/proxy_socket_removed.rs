//! A workspace that removes the socket of its proxy.

use crate::client::unix;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::asking::refused_by_proxy;
use crate::scenarios::common::limits::HEALED_LIMIT;
use crate::scenarios::common::needs::RUN;
use crate::scenarios::common::{rooms, socket_directory};
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "SOCK-002",
    "A workspace that removes or replaces its proxy's socket is refused, or the socket is restored",
    "proxy.sock deleted by the workspace → restored or the workspace replaced",
    body!(proxy_socket_removed),
)
.severity(Severity::High)
.profile(Profile::Full)
.requires(RUN)
.limit(120)];

/// What a workspace does to its proxy socket. The server may restore it between any two commands, so each change is one command
/// if possible, or else repeated until it has succeeded.
const IN_PLACE: [(&str, &str); 4] = [
    ("nothing", "rm proxy.sock"),
    ("a directory", "until rm -rf proxy.sock && mkdir proxy.sock 2>/dev/null; do :; done"),
    ("a link", "ln -s /etc/passwd own && mv -T own proxy.sock"),
    (
        "a socket of its own",
        "python3 -c 'import os, socket; s = socket.socket(socket.AF_UNIX); s.bind(\"own\"); os.rename(\"own\", \"proxy.sock\")'",
    ),
];

/// The same against a server whose directory the workspace cannot write to.
const ATTEMPTS: [(&str, &str); 4] = [
    ("nothing", "rm -f proxy.sock"),
    ("a directory", "mv proxy.sock own && mkdir proxy.sock"),
    ("a link", "ln -sf /etc/passwd proxy.sock"),
    ("a socket of its own", IN_PLACE[3].1),
];

async fn proxy_socket_removed(context: &Context) -> Result<(), Failure> {
    if !socket_directory::is_writable(context) {
        return refused(context).await;
    }
    let deployment = context.launch(Launch::new()).await?;
    let conversation = deployment.conversation(context).await?;
    deployment.run_well(&conversation, "@say before").await?;
    for (what, line) in IN_PLACE {
        let room = deployment.only_room().await?;
        let path = room.socket_dir().await?.join("proxy.sock");
        let done = room.shell(&format!("cd {} && {line}", room.sockets())).await?;
        check_eq(format!("status of the workspace's attempt at {what} ({})", done.printed), done.status, 0)?;
        eventually(HEALED_LIMIT, format!("a proxy socket again after {what}"), async || {
            check(unix::accepts(&path).await, "nothing accepts connections there")
        })
        .await?;
        let through = room.shell(&refused_by_proxy(&room)).await?;
        check_eq(format!("the proxy's status after {what}"), through.printed.trim(), "403")?;
        deployment.run_well(&conversation, "@say still here").await.map_err(|failure| failure.during(what))?;
        check_eq(format!("the workspace after {what}"), &deployment.only_room().await?.id, &room.id)?;
    }
    Ok(())
}

async fn refused(context: &Context) -> Result<(), Failure> {
    let (_deployment, room) = rooms::room(context).await?;
    socket_directory::refuses(&room, &ATTEMPTS, context.dir()).await?;
    let through = room.shell(&refused_by_proxy(&room)).await?;
    check_eq("the proxy's status after the attempts", through.printed.trim(), "403")
}
