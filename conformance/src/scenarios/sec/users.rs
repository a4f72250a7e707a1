//! The users that workspaces run as.

use std::time::Duration;

use crate::harness::context::Context;
use crate::harness::engine::Room;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::rooms::rooms;
use crate::target::launch::Launch;

/// How long workspaces and the programs in them may take to start.
const LIMIT: Duration = Duration::from_secs(30);

/// Takes as many inotify instances as its user may have, says how many, and keeps them.
const TAKE: &str = r#"
import ctypes, time
libc = ctypes.CDLL(None, use_errno=True)
taken = 0
while libc.inotify_init() >= 0: taken += 1
print(f"taken {taken} errno {ctypes.get_errno()}", flush=True)
time.sleep(100)
"#;
/// Watches a file and sees it change.
const WATCH: &str = r#"
const fs = require("fs");
fs.writeFileSync("/workspace/watched", "");
fs.watch("/workspace/watched", () => { console.log("seen"); process.exit(0); });
fs.appendFileSync("/workspace/watched", "x");
setTimeout(() => process.exit(3), 10000);
"#;
/// Opens a POSIX message queue.
const QUEUE: &str = r#"
import ctypes
librt = ctypes.CDLL("librt.so.1", use_errno=True)
opened = librt.mq_open(b"/mine", 0o102, 0o600, None)
print("opened" if opened >= 0 else f"errno {ctypes.get_errno()}")
"#;
/// What programs ask about their user.
const NAMES: [(&str, &str); 4] = [
    ("whoami", "whoami"),
    ("Node.js", "node -p 'os.userInfo().username'"),
    ("Python", "python3 -c 'import os, pwd; print(pwd.getpwuid(os.getuid()).pw_name)'"),
    ("ls, of a group", "stat -c %G /workspace | grep -v UNKNOWN"),
];

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "SEC-004",
        "Each workspace runs as a user of its own, which has a name, so none can use up what the kernel allows a user",
        "what workspaces share: limits that the kernel has per user (inotify, message queues)",
        body!(own_users),
    )
    .severity(Severity::High)
    .profile(Profile::Host)
    .requires(&[Capability::Docker, Capability::Files])
    .limit(90),
    Scenario::new(
        "SEC-005",
        "No two workspaces of two deployments on one engine run as the same user, though both choose from the same",
        "what workspaces share: limits that the kernel has per user, over all deployments of a host",
        body!(two_deployments),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(&[Capability::Launch, Capability::Docker, Capability::Image])
    .limit(120),
];

async fn uid(room: &Room) -> Result<String, Failure> {
    Ok(room.shell("id -u").await?.printed.trim().to_owned())
}

async fn own_users(context: &Context) -> Result<(), Failure> {
    let (_deployment, rooms) = rooms(context, 2, LIMIT).await?;
    let [one, other] = rooms.as_slice() else { return Err(Failure::harness(format!("{} workspaces", rooms.len()))) };
    let (own, others) = (uid(one).await?, uid(other).await?);
    check(own != "0" && own != others, format!("user of the other workspace: {others}, of this one: {own}"))?;

    for (who, line) in NAMES {
        let said = one.shell(line).await?;
        check_eq(format!("status of {who} that asks for the name of its user ({})", said.printed), said.status, 0)?;
        check(!said.printed.trim().is_empty(), format!("{who} does not know the name of its user"))?;
    }

    let line = "nohup python3 -c \"$1\" > /workspace/taken 2>&1 & echo started";
    one.exec(["sh", "-c", line, "sh", TAKE]).await?;
    eventually(LIMIT, "a workspace that has taken all inotify instances of its user", async || {
        let printed = one.exec(["cat", "/workspace/taken"]).await?.printed;
        // EMFILE is 24.
        check(printed.starts_with("taken ") && printed.contains("errno 24"), printed)
    })
    .await?;
    let watched = other.exec(["node", "-e", WATCH]).await?;
    check_eq(format!("status of a watch in the other workspace ({})", watched.printed), watched.status, 0)?;
    // The control: in the workspace that has taken all, there is none left.
    let starved = one.exec(["node", "-e", WATCH]).await?;
    check(starved.status != 0, "the workspace that has taken all inotify instances got another one")?;

    let queue = one.exec(["python3", "-c", QUEUE]).await?;
    check(queue.printed.contains("errno"), format!("a workspace opened a message queue: {}", queue.printed))
}

async fn two_deployments(context: &Context) -> Result<(), Failure> {
    // As many users as workspaces, so that each deployment must find those that the other has left.
    const EACH: usize = 4;
    let launch = || {
        Launch::new()
            .without_model()
            .set("CONTAINER_UIDS", "51000-51007")
            .set("WARM_POOL_MIN_SIZE", EACH)
            .set("WARM_POOL_MAX_SIZE", EACH)
    };
    let (one, other) = futures::future::try_join(context.launch(launch()), context.launch(launch())).await?;
    let mut users = Vec::new();
    for deployment in [&one, &other] {
        // A workspace whose user turns out to be taken never gets into the pool, but runs for a moment.
        #[allow(clippy::cast_precision_loss, reason = "a handful of workspaces")]
        let full = EACH as f64;
        deployment.metric("workspace_warm_pool_size", |waiting| waiting == full, LIMIT).await?;
        let rooms = eventually(LIMIT, format!("{EACH} workspaces"), async || {
            let rooms = deployment.rooms().await?;
            if rooms.len() == EACH { Ok(rooms) } else { Err(Failure::assertion(format!("{} workspaces", rooms.len()))) }
        });
        for room in rooms.await? {
            users.push(room.inspect().await?.config.and_then(|config| config.user).unwrap_or_default());
        }
    }
    users.sort_unstable();
    let all = users.len();
    users.dedup();
    check_eq(format!("users of {all} workspaces ({users:?})"), users.len(), all)
}
