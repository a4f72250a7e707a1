//! A workspace's container, in every field.

use std::collections::{BTreeMap, BTreeSet};

use bollard::models::{ContainerCreateBody, HostConfig};
use serde_json::{Value, json};

use crate::harness::context::Context;
use crate::harness::engine::Room;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::target::deployment::READY_LIMIT;
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "SEC-015",
    "A workspace's container has the limits that the settings say, and is otherwise as any container by default",
    "limits, users and memory file systems as configured; no other field differs from the engine's defaults",
    body!(every_field),
)
.severity(Severity::High)
.profile(Profile::Full)
.requires(&[Capability::Launch, Capability::Docker, Capability::Image])];

const MIB: u64 = 1 << 20;
/// Fields of a container that a deployment decides; the others are the engine's.
const DECIDED: [&str; 17] = [
    "CapDrop",
    "IpcMode",
    "LogConfig",
    "Memory",
    "MemorySwap",
    "Mounts",
    "NanoCpus",
    "CpuQuota",
    "CpuPeriod",
    "NetworkMode",
    "PidsLimit",
    "ReadonlyRootfs",
    "SecurityOpt",
    "Tmpfs",
    "Ulimits",
    "ContainerIDFile",
    "Binds",
];

/// The options of a memory file system as the kernel shows them, without what is its own.
async fn mounted(room: &Room, place: &str) -> Result<BTreeSet<String>, Failure> {
    let mounts = room.exec(["cat", "/proc/mounts"]).await?.printed;
    let line =
        mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|fields| fields.get(1) == Some(&place));
    let fields = line.ok_or_else(|| Failure::mismatch("mounts", place, &mounts))?;
    check_eq(format!("kind of {place}"), fields.get(2).copied(), Some("tmpfs"))?;
    let own = |option: &&str| ["relatime", "noatime", "inode64", "inode32", "seclabel"].contains(option);
    Ok(fields.get(3).copied().unwrap_or_default().split(',').filter(|option| !own(option)).map(str::to_owned).collect())
}

async fn every_field(context: &Context) -> Result<(), Failure> {
    let launch = Launch::new()
        .without_model()
        .set("CONTAINER_CPUS", "1.25")
        .set("CONTAINER_MEMORY", "600MiB")
        .set("CONTAINER_PIDS", 123)
        .set("CONTAINER_DISK", "77MiB")
        .set("CONTAINER_UIDS", "53000-53009")
        .set("WARM_POOL_MIN_SIZE", 1)
        .set("WARM_POOL_MAX_SIZE", 1);
    let deployment = context.launch(launch).await?;
    deployment.metric("workspace_warm_pool_size", |waiting| waiting == 1.0, READY_LIMIT).await?;
    let room = deployment.only_room().await?;
    let inspect = room.inspect_json().await?;
    let (host, config) = (&inspect["HostConfig"], &inspect["Config"]);

    // What the settings say.
    let user: u64 = config["User"].as_str().and_then(|user| user.split(':').next()?.parse().ok()).unwrap_or_default();
    check((53_000..=53_009).contains(&user), format!("user {}", config["User"]))?;
    check_eq("user and group", config["User"].as_str(), Some(format!("{user}:{user}").as_str()))?;
    for (field, value) in [
        ("Memory", json!(600 * MIB)),
        ("MemorySwap", json!(600 * MIB)),
        ("NanoCpus", json!(1_250_000_000)),
        ("PidsLimit", json!(123)),
        ("ReadonlyRootfs", json!(true)),
        ("NetworkMode", json!("none")),
        ("IpcMode", json!("private")),
        ("CapDrop", json!(["ALL"])),
    ] {
        check_eq(field, &host[field], &value)?;
    }
    let log = &host["LogConfig"]["Config"];
    check(
        log["max-size"].is_string() && log["max-file"].is_string(),
        format!("what is kept of its output is unbounded: {log}"),
    )?;
    let limits = host["Ulimits"].as_array().into_iter().flatten();
    let limits: BTreeMap<&str, (i64, i64)> = limits
        .filter_map(|limit| Some((limit["Name"].as_str()?, (limit["Soft"].as_i64()?, limit["Hard"].as_i64()?))))
        .collect();
    let files = limits.get("nofile").copied().unwrap_or_default();
    check(files.0 == files.1 && (256..=65_536).contains(&files.0), format!("limit of open files {files:?}"))?;
    check_eq("limit of core files", limits.get("core").copied(), Some((0, 0)))?;
    let options = |more: &[&str]| {
        ["rw", "nosuid", "nodev"].iter().chain(more).map(|option| (*option).to_owned()).collect::<BTreeSet<_>>()
    };
    let owned = [format!("uid={user}"), format!("gid={user}")];
    let half = format!("size={}k", 300 * 1024);
    for (place, expected) in [
        ("/workspace", options(&["mode=700", &owned[0], &owned[1], &format!("size={}k", 77 * 1024)])),
        ("/home/appuser", options(&["mode=700", &owned[0], &owned[1], &half])),
        ("/tmp", options(&["noexec", &half])),
    ] {
        check_eq(format!("options of {place}"), mounted(&room, place).await?, expected)?;
    }
    check_eq("permissions of /tmp", room.exec(["stat", "-c", "%a", "/tmp"]).await?.printed.trim(), "1777")?;
    let sizes = room.shell("df -B1 --output=size /workspace /home/appuser /tmp | tail -n 3").await?.printed;
    let sizes: Vec<&str> = sizes.lines().map(str::trim).collect();
    check_eq("sizes", sizes, [77, 300, 300].map(|size| (size * MIB).to_string()).to_vec())?;
    let limits = room.exec(["cat", "/proc/1/limits"]).await?.printed;
    let open = limits.lines().find(|line| line.starts_with("Max open files")).unwrap_or_default();
    let numbers: Vec<i64> = open.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    check_eq("open files that its first process may have", numbers, vec![files.0, files.1])?;

    // Everything else is as for any container of the image.
    let name = context.new_container_name("plain", context.engine()?)?;
    let body = ContainerCreateBody {
        image: Some(context.run.capabilities.image.clone()),
        host_config: Some(HostConfig { network_mode: Some("none".into()), ..HostConfig::default() }),
        ..ContainerCreateBody::default()
    };
    let plain = context.engine()?.create(context.run.ledger(), &name, body).await?;
    let plain = plain.inspect_json().await?;
    check_eq("fields that nobody decides", rest(host), rest(&plain["HostConfig"]))?;
    for field in
        ["Cmd", "Entrypoint", "WorkingDir", "Tty", "OpenStdin", "AttachStdin", "ExposedPorts", "Volumes", "Domainname"]
    {
        check_eq(field, &config[field], &plain["Config"][field])?;
    }
    check_environment(config, &plain["Config"], &room.containers().proxy())
}

/// The fields that a deployment does not decide. What is absent, empty or none is the same.
fn rest(host: &Value) -> BTreeMap<String, Value> {
    let fields = host.as_object().into_iter().flatten();
    let is_none = |value: &Value| {
        value.is_null()
            || value.as_array().is_some_and(Vec::is_empty)
            || value.as_object().is_some_and(serde_json::Map::is_empty)
    };
    let fields = fields.filter(|(name, value)| !DECIDED.contains(&name.as_str()) && !is_none(value));
    fields.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// The image's own variables are as they are; the proxy's are there in both cases, and lead to the bridge.
fn check_environment(config: &Value, plain: &Value, bridge: &str) -> Result<(), Failure> {
    let variables = |config: &Value| {
        let all = config["Env"].as_array().into_iter().flatten();
        let all = all.filter_map(|one| one.as_str()?.split_once('='));
        all.map(|(name, value)| (name.to_owned(), value.to_owned())).collect::<BTreeMap<_, _>>()
    };
    let (has, of_image) = (variables(config), variables(plain));
    for (name, value) in &of_image {
        check(
            has.get(name) == Some(value) || name == "HOME",
            format!("{name} of the image is {:?}, not {value:?}", has.get(name)),
        )?;
    }
    for (name, value) in [
        ("HOME", "/home/appuser"),
        ("HTTP_PROXY", bridge),
        ("HTTPS_PROXY", bridge),
        ("http_proxy", bridge),
        ("https_proxy", bridge),
        ("NO_PROXY", "localhost,127.0.0.1,::1"),
        ("no_proxy", "localhost,127.0.0.1,::1"),
        ("NODE_USE_ENV_PROXY", "1"),
    ] {
        check_eq(name, has.get(name).map(String::as_str), Some(value))?;
    }
    Ok(())
}
