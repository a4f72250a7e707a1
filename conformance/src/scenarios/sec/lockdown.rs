//! How a workspace is locked down.

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::lockdown::check_locked;
use crate::scenarios::common::rooms;

const NEEDS: &[Capability] = &[Capability::Docker, Capability::Files];

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "SEC-001",
        "A workspace is locked down as the contract says, and no secret is anywhere in it",
        "NetworkMode none, read-only root, not root, no capability, no-new-privileges, seccomp, limits; no secret",
        body!(locked),
    )
    .severity(Severity::Critical)
    .profile(Profile::Host)
    .requires(NEEDS),
    Scenario::new(
        "SEC-002",
        "A workspace cannot write its root file system, mount, become another user, or execute from /tmp",
        "read-only root, tmpfs /tmp noexec, all capabilities dropped, seccomp profile",
        body!(refused),
    )
    .severity(Severity::Critical)
    .profile(Profile::Host)
    .requires(NEEDS),
];

async fn locked(context: &Context) -> Result<(), Failure> {
    let (deployment, room) = rooms::room(context).await?;
    check_locked(&deployment, &room).await
}

async fn refused(context: &Context) -> Result<(), Failure> {
    let (_deployment, room) = rooms::room(context).await?;
    // The control: permitted operations succeed.
    let may = room.shell("touch /workspace/x /tmp/x ~/x && printf '#!/bin/sh\\necho ran' > /workspace/run && chmod +x /workspace/run && /workspace/run").await?;
    check_eq("what a workspace may do", may.printed.trim(), "ran")?;
    for attempt in [
        "touch /x",
        "touch /usr/bin/x",
        // World-writable, except that the root file system is read-only.
        "touch /var/tmp/x",
        "printf '#!/bin/sh\\necho ran' > /tmp/run && chmod +x /tmp/run && /tmp/run",
        "mount -t tmpfs none /workspace",
        "unshare -U true",
        "chown 0:0 /workspace/x",
        "su -c true",
        "mknod /workspace/sda b 8 0",
        "ip link add dummy0 type dummy || false",
        "echo 1 > /proc/sys/kernel/core_uses_pid",
    ] {
        let tried = room.shell(&format!("({attempt}) 2>&1 </dev/null")).await?;
        check(tried.status != 0, format!("`{attempt}` was not refused: {:?}", tried.printed))?;
    }
    Ok(())
}
