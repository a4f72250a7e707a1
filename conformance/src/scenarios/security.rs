//! What a room is locked with, and what it must not know: SEC.

use std::time::Duration;

use serde_json::Value;

use super::inhabited;
use crate::context::Context;
use crate::failure::{Failure, check, check_eq};
use crate::scenario::{Capability, Profile, Scenario, Severity};
use crate::target::deployment::Deployment;
use crate::target::engine::Room;

/// Looks for texts in a room.
const SEARCH: &str = include_str!("room/search.py");

const NEEDS: &[Capability] = &[Capability::Docker, Capability::Files];

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        id: "SEC-001",
        title: "a room is locked as the contract says, and no secret is anywhere in it",
        severity: Severity::Critical,
        requirement: "NetworkMode none, read-only root, uid 1000, no capability, no-new-privileges, seccomp, limits; no secret, ever",
        requires: NEEDS,
        profile: Profile::Host,
        destructive: false,
        limit: Duration::from_secs(60),
        body: body!(locked),
    },
    Scenario {
        id: "SEC-002",
        title: "what a room tries is refused: writing the root, mounting, another user, running from /tmp",
        severity: Severity::Critical,
        requirement: "read-only root, tmpfs /tmp noexec, all capabilities dropped, seccomp profile",
        requires: NEEDS,
        profile: Profile::Host,
        destructive: false,
        limit: Duration::from_secs(60),
        body: body!(refused),
    },
];

async fn locked(context: &Context) -> Result<(), Failure> {
    let (deployment, room) = inhabited::room(context).await?;
    check_locked(&deployment, &room).await
}

/// The container's specification, what the room sees of it, and that no secret is in either.
///
/// # Errors
/// The first thing that is not as the contract says.
pub(super) async fn check_locked(deployment: &Deployment, room: &Room) -> Result<(), Failure> {
    let mut inspect = room.inspect_json().await?;
    // An engine that remaps numbers is told not to for a room, which shares a directory with the server.
    if deployment.engine()?.0.remaps().await? {
        inspect["HostConfig"]["UsernsMode"].take();
    }
    check_specification(&inspect, room)?;
    check_inside(room).await?;
    // What somebody else's deployment has for secrets is not known; that none has a usual name is looked at all the same.
    let credentials = deployment.server.as_ref().map(|server| &server.credentials);
    let secrets: Vec<&str> = credentials.into_iter().flat_map(|one| [one.secret.as_str(), one.id.as_str()]).collect();
    check_no_secret(&inspect, room, &secrets).await
}

fn check_specification(inspect: &Value, room: &Room) -> Result<(), Failure> {
    let (config, host) = (&inspect["Config"], &inspect["HostConfig"]);
    let what = |field: &str| format!("{field} of container {}", room.id);
    check_eq(what("NetworkMode"), host["NetworkMode"].as_str(), Some("none"))?;
    check_eq(what("ReadonlyRootfs"), host["ReadonlyRootfs"].as_bool(), Some(true))?;
    check_eq(what("Privileged"), host["Privileged"].as_bool(), Some(false))?;
    check_eq(what("CapDrop"), host["CapDrop"].to_string().to_uppercase().as_str(), "[\"ALL\"]")?;
    check(host["CapAdd"].as_array().is_none_or(Vec::is_empty), what("CapAdd"))?;
    let options = host["SecurityOpt"].to_string();
    check(options.contains("no-new-privileges"), format!("{}: {options}", what("SecurityOpt")))?;
    check(options.contains("seccomp=") && !options.contains("seccomp=unconfined"), format!("{}: {options}", what("SecurityOpt")))?;
    for field in ["PidMode", "IpcMode", "UTSMode", "UsernsMode"] {
        check(host[field].as_str() != Some("host"), format!("{}: host", what(field)))?;
    }
    for field in ["Devices", "DeviceRequests", "Links", "VolumesFrom"] {
        check(host[field].as_array().is_none_or(Vec::is_empty), format!("{}: {}", what(field), host[field]))?;
    }
    let memory = host["Memory"].as_i64().unwrap_or(0);
    check(memory > 0, what("Memory"))?;
    check_eq(what("MemorySwap: no swap on top of memory"), host["MemorySwap"].as_i64(), Some(memory))?;
    check(host["PidsLimit"].as_i64() > Some(0), what("PidsLimit"))?;
    check(host["NanoCpus"].as_i64() > Some(0) || host["CpuQuota"].as_i64() > Some(0), what("NanoCpus"))?;
    check(host["Ulimits"].as_array().is_some_and(|limits| !limits.is_empty()), what("Ulimits"))?;
    let tmpfs = host["Tmpfs"].as_object().cloned().unwrap_or_default();
    for place in ["/tmp", "/workspace", "/home/appuser"] {
        let options = tmpfs.get(place).and_then(Value::as_str).unwrap_or_default();
        check(options.contains("size="), format!("{}: {place} has {options:?}", what("Tmpfs")))?;
    }
    let user = config["User"].as_str().unwrap_or_default();
    check(user.split(':').next() == Some(&*crate::target::image::room_uid()), format!("{}: {user:?}", what("User")))?;
    for label in ["nagaya.deployment", "nagaya.workspace", "nagaya.created-at"] {
        check(config["Labels"][label].as_str().is_some_and(|value| !value.is_empty()), what(label))?;
    }
    let created = config["Labels"]["nagaya.created-at"].as_str().unwrap_or_default();
    check(created.parse::<jiff::Timestamp>().is_ok(), format!("{}: {created:?}", what("nagaya.created-at")))?;
    let name = format!("/nagaya-ws-{}", room.workspace.as_deref().unwrap_or_default());
    check_eq(what("Name"), inspect["Name"].as_str(), Some(name.as_str()))
}

async fn check_inside(room: &Room) -> Result<(), Failure> {
    let interfaces = room.exec(["ls", "/sys/class/net"]).await?;
    check_eq("network interfaces in the room", interfaces.printed.trim(), "lo")?;
    let mounts = room.exec(["cat", "/proc/mounts"]).await?.printed;
    let root = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|fields| fields.get(1) == Some(&"/"));
    let options = root.and_then(|fields| fields.get(3).copied()).unwrap_or_default();
    check(options.split(',').any(|option| option == "ro"), format!("the room's root is mounted {options:?}"))?;
    let routes = room.exec(["cat", "/proc/net/route"]).await?;
    check_eq(format!("routes in the room: {}", routes.printed), routes.printed.lines().count(), 1)?;
    let status = room.exec(["cat", "/proc/1/status"]).await?.printed;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map_or("", str::trim).to_owned();
    for set in ["CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        check_eq(format!("{set} of the room's first process"), field(set).as_str(), "0000000000000000")?;
    }
    check_eq("NoNewPrivs of the room's first process", field("NoNewPrivs:").as_str(), "1")?;
    check_eq("Seccomp of the room's first process (2 is a filter)", field("Seccomp:").as_str(), "2")?;
    check_eq("Uid of the room's first process", field("Uid:").split_ascii_whitespace().next(), Some(&*crate::target::image::room_uid()))?;
    let docker = room.shell("ls /var/run/docker.sock /run/docker.sock 2>/dev/null").await?;
    check_eq("Docker's socket in the room", docker.printed.as_str(), "")
}

/// Everything in a room that is not the image's own and holds one of these texts: environments, command lines, files.
pub(super) async fn places_of(room: &Room, secrets: &[&str]) -> Result<Vec<String>, Failure> {
    if secrets.is_empty() {
        return Ok(Vec::new());
    }
    let backwards = secrets.iter().map(|secret| secret.chars().rev().collect::<String>());
    let command = ["python3", "-c", SEARCH].map(str::to_owned).into_iter().chain(backwards);
    let found = room.exec(command).await?;
    let mut lines: Vec<String> = found.printed.lines().map(str::to_owned).collect();
    check_eq(format!("the last line of a search in the room ({})", found.printed), lines.pop().as_deref(), Some("searched"))?;
    Ok(lines)
}

async fn check_no_secret(inspect: &Value, room: &Room, secrets: &[&str]) -> Result<(), Failure> {
    let description = inspect.to_string();
    // What every process in the room was started with, and what it was told; its own user may read all of it.
    let inside = room.shell("env; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n'").await?.printed;
    check(inside.contains("HTTP_PROXY="), format!("the room's environment could not be read: {inside}"))?;
    check(secrets.iter().all(|secret| !description.contains(secret)), "a credential of the server's is in docker inspect")?;
    let places = places_of(room, secrets).await?;
    check(places.is_empty(), format!("a credential of the server's is in the room: {places:?}"))?;
    for name in ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "ANTHROPIC_API_KEY", "AWS_ACCESS_KEY_ID"] {
        check(!inside.lines().any(|line| line.strip_prefix(name).is_some_and(|rest| rest.len() > 1)), format!("{name} is set in the room"))?;
    }
    for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"] {
        let line = format!("{name}=http://127.0.0.1:8080");
        check(inside.lines().any(|set| set == line), format!("{line} is not in the room's environment"))?;
    }
    for line in ["CLAUDE_CODE_USE_BEDROCK=1", "CLAUDE_CODE_SKIP_BEDROCK_AUTH=1"] {
        check(inside.lines().any(|set| set == line), format!("{line} is not in the room's environment"))?;
    }
    Ok(())
}

async fn refused(context: &Context) -> Result<(), Failure> {
    let (_deployment, room) = inhabited::room(context).await?;
    // The control: what a room may do, it can.
    let may = room.shell("touch /workspace/x /tmp/x ~/x && printf '#!/bin/sh\\necho ran' > /workspace/run && chmod +x /workspace/run && /workspace/run").await?;
    check_eq("what a room may do", may.printed.trim(), "ran")?;
    for attempt in [
        "touch /x",
        "touch /usr/bin/x",
        // Everybody may write there, were it not for the read-only root.
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
