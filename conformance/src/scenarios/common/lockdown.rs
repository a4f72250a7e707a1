//! Checks that a workspace is locked down and knows no secret.

use serde_json::Value;

use crate::harness::engine::Room;
use crate::harness::failure::{Failure, check, check_eq};
use crate::target::deployment::Deployment;

/// Searches a workspace for texts.
pub(crate) const SEARCH: &str = include_str!("programs/search.py");

/// Checks the container's specification, its effect inside the workspace, and that neither contains a secret.
///
/// # Errors
/// The first deviation from the contract.
pub(crate) async fn check_locked(deployment: &Deployment, room: &Room) -> Result<(), Failure> {
    let inspect = room.inspect_json().await?;
    check_specification(&inspect, room)?;
    check_inside(room).await?;
    // The secrets of a deployment that the suite did not launch are unknown; variables with the usual names are checked anyway.
    let credentials = deployment.server.as_ref().map(|server| &server.credentials);
    let secrets: Vec<&str> = credentials.into_iter().flat_map(|one| [one.secret.as_str(), one.id.as_str()]).collect();
    check_no_secret(&inspect, room, &secrets).await
}

pub(crate) fn check_specification(inspect: &Value, room: &Room) -> Result<(), Failure> {
    let (config, host) = (&inspect["Config"], &inspect["HostConfig"]);
    let what = |field: &str| format!("{field} of container {}", room.id);
    check_eq(what("NetworkMode"), host["NetworkMode"].as_str(), Some("none"))?;
    check_eq(what("ReadonlyRootfs"), host["ReadonlyRootfs"].as_bool(), Some(true))?;
    check_eq(what("Privileged"), host["Privileged"].as_bool(), Some(false))?;
    check_eq(what("CapDrop"), host["CapDrop"].to_string().to_uppercase().as_str(), "[\"ALL\"]")?;
    check(host["CapAdd"].as_array().is_none_or(Vec::is_empty), what("CapAdd"))?;
    let options = host["SecurityOpt"].to_string();
    check(options.contains("no-new-privileges"), format!("{}: {options}", what("SecurityOpt")))?;
    check(
        options.contains("seccomp=") && !options.contains("seccomp=unconfined"),
        format!("{}: {options}", what("SecurityOpt")),
    )?;
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
    check(
        user.split(':').next().is_some_and(|uid| uid.parse().is_ok_and(|uid: u32| uid > 0)),
        format!("{}: {user:?}", what("User")),
    )?;
    Ok(())
}

pub(crate) async fn check_inside(room: &Room) -> Result<(), Failure> {
    let interfaces = room.exec(["ls", "/sys/class/net"]).await?;
    check_eq("network interfaces in the workspace", interfaces.printed.trim(), "lo")?;
    let mounts = room.exec(["cat", "/proc/mounts"]).await?.printed;
    let root =
        mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|fields| fields.get(1) == Some(&"/"));
    let options = root.and_then(|fields| fields.get(3).copied()).unwrap_or_default();
    check(options.split(',').any(|option| option == "ro"), format!("the workspace's root is mounted {options:?}"))?;
    let routes = room.exec(["cat", "/proc/net/route"]).await?;
    check_eq(format!("routes in the workspace: {}", routes.printed), routes.printed.lines().count(), 1)?;
    let status = room.exec(["cat", "/proc/1/status"]).await?.printed;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map_or("", str::trim).to_owned();
    for set in ["CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        check_eq(format!("{set} of the workspace's first process"), field(set).as_str(), "0000000000000000")?;
    }
    check_eq("NoNewPrivs of the workspace's first process", field("NoNewPrivs:").as_str(), "1")?;
    check_eq("Seccomp of the workspace's first process (2 is a filter)", field("Seccomp:").as_str(), "2")?;
    let user = room.inspect().await?.config.and_then(|config| config.user).unwrap_or_default();
    check_eq(
        "Uid of the workspace's first process",
        field("Uid:").split_ascii_whitespace().next(),
        user.split(':').next(),
    )?;
    let docker = room.shell("ls /var/run/docker.sock /run/docker.sock 2>/dev/null").await?;
    check_eq("Docker's socket in the workspace", docker.printed.as_str(), "")
}

/// All places in a workspace, outside the image, that contain one of these texts: environments, command lines, files.
pub(crate) async fn places_of(room: &Room, secrets: &[&str]) -> Result<Vec<String>, Failure> {
    if secrets.is_empty() {
        return Ok(Vec::new());
    }
    let backwards = secrets.iter().map(|secret| secret.chars().rev().collect::<String>());
    let command = ["python3".to_owned(), "-c".to_owned(), SEARCH.replace("@SOCKETS@", room.sockets())]
        .into_iter()
        .chain(backwards);
    let found = room.exec(command).await?;
    let mut lines: Vec<String> = found.printed.lines().map(str::to_owned).collect();
    check_eq(
        format!("the last line of a search in the workspace ({})", found.printed),
        lines.pop().as_deref(),
        Some("searched"),
    )?;
    Ok(lines)
}

pub(crate) async fn check_no_secret(inspect: &Value, room: &Room, secrets: &[&str]) -> Result<(), Failure> {
    let description = inspect.to_string();
    // The command line and environment of every process, which the workspace's user may read.
    let inside =
        room.shell("env; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n'").await?.printed;
    check(inside.contains("HTTP_PROXY="), format!("the workspace's environment could not be read: {inside}"))?;
    check(
        secrets.iter().all(|secret| !description.contains(secret)),
        "a credential of the server's is in docker inspect",
    )?;
    let places = places_of(room, secrets).await?;
    check(places.is_empty(), format!("a credential of the server's is in the workspace: {places:?}"))?;
    for name in ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "ANTHROPIC_API_KEY", "AWS_ACCESS_KEY_ID"] {
        check(
            !inside.lines().any(|line| line.strip_prefix(name).is_some_and(|rest| rest.len() > 1)),
            format!("{name} is set in the workspace"),
        )?;
    }
    for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"] {
        let line = format!("{name}={}", room.containers().proxy());
        check(inside.lines().any(|set| set == line), format!("{line} is not in the workspace's environment"))?;
    }
    Ok(())
}
