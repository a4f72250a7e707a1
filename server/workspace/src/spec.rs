//! The specification of a room's container.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use nagaya_protocol::{BRIDGE_ADDR, PROTOCOL, ROOM_SOCKET_DIR, WORKSPACE_DIR};

use crate::engine::ContainerSpec;
use crate::id::RoomId;
use crate::uids::UidRange;

/// Label with the id of the deployment that a container belongs to.
pub const LABEL_DEPLOYMENT: &str = "nagaya.deployment";
/// Label with the room's id.
pub const LABEL_WORKSPACE: &str = "nagaya.workspace";
/// Label with the user id that the room runs as, over all deployments of an engine.
pub const LABEL_UID: &str = "nagaya.uid";
/// Label with the version of the agent's protocol.
pub const LABEL_PROTOCOL: &str = "nagaya.protocol";
/// Label with the time at which the room was created (RFC 3339).
pub const LABEL_CREATED_AT: &str = "nagaya.created-at";

/// Label with the name of the image that a room's conversation has chosen; [`DEFAULT_IMAGE`] where it has chosen none.
pub const LABEL_IMAGE: &str = "nagaya.image";
/// Label with the size in bytes that the workspace directory of a room has for its conversation; absent where it has the deployment's.
pub const LABEL_DISK: &str = "nagaya.disk";
/// Name of the image that rooms start from whose conversations have chosen none.
pub const DEFAULT_IMAGE: &str = "default";

/// The seccomp profile. It is stored with the image, because it must allow what the image's programs need.
const SECCOMP: &str = include_str!("../../../workspace-base/seccomp.json");

/// Home directory of the room's user in the image.
const HOME: &str = "/home/appuser";
/// Maximum number of open files per process. Node.js and git need some hundreds. An engine refuses more than its own limit, and this
/// is the lowest such limit in common use.
const OPEN_FILES: i64 = 4_096;

/// Resource limits of one container.
#[derive(Debug, Clone, Copy)]
pub struct RoomLimits {
    /// CPU time in billionths of a CPU (`CONTAINER_CPUS`).
    pub nano_cpus: i64,
    /// Memory in bytes, including memory file systems; there is no swap (`CONTAINER_MEMORY`).
    pub memory: i64,
    /// Maximum number of processes and threads (`CONTAINER_PIDS`).
    pub pids: i64,
    /// Size of the workspace directory in bytes (`CONTAINER_DISK`).
    pub disk: u64,
}

/// What the container of a conversation has of its own; by default nothing, as the rooms of the warm pool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Variant {
    /// Name of the image, one of [`Template::images`].
    pub image: Option<String>,
    /// Size of the workspace directory in bytes, below [`RoomLimits::disk`].
    pub disk: Option<u64>,
}

impl Variant {
    /// The variant of a container with these labels.
    pub(crate) fn of(labels: &HashMap<String, String>) -> Self {
        let image = labels.get(LABEL_IMAGE).filter(|name| *name != DEFAULT_IMAGE).cloned();
        Self { image, disk: labels.get(LABEL_DISK).and_then(|bytes| bytes.parse().ok()) }
    }
}

/// The properties that all containers of a deployment share.
#[derive(Debug, Clone)]
pub struct Template {
    /// Id of the deployment.
    pub deployment: String,
    /// Image that containers start from.
    pub image: String,
    /// Further images that conversations may choose: references by name.
    pub images: BTreeMap<String, String>,
    /// Resource limits of each container.
    pub limits: RoomLimits,
    /// Users that rooms run as.
    pub uids: UidRange,
    /// Environment variables of a driver that is started by hand, each as `NAME=value`; a run brings its own over them. None of them is a
    /// secret.
    pub driver_environment: Vec<String>,
}

impl Template {
    /// Reference of the image of a variant.
    #[must_use]
    pub fn image_of(&self, variant: &Variant) -> &str {
        variant.image.as_ref().and_then(|name| self.images.get(name)).unwrap_or(&self.image)
    }

    /// The specification of the container of one room, which runs as `uid`. `host_dir` is its socket directory on the engine's
    /// host.
    #[must_use]
    pub fn room(&self, id: &RoomId, uid: u32, host_dir: PathBuf, variant: &Variant) -> ContainerSpec {
        let owned = |size: u64| format!("rw,exec,nosuid,nodev,mode=0700,uid={uid},gid={uid},size={size}");
        let memory = self.limits.memory.unsigned_abs();
        let image = variant.image.as_deref().unwrap_or(DEFAULT_IMAGE);
        let mut labels = HashMap::from([
            (LABEL_DEPLOYMENT.into(), self.deployment.clone()),
            (LABEL_WORKSPACE.into(), id.to_string()),
            (LABEL_UID.into(), uid.to_string()),
            (LABEL_PROTOCOL.into(), PROTOCOL.to_string()),
            (LABEL_CREATED_AT.into(), jiff::Timestamp::now().to_string()),
            (LABEL_IMAGE.into(), image.to_owned()),
        ]);
        labels.extend(variant.disk.map(|bytes| (LABEL_DISK.into(), bytes.to_string())));
        ContainerSpec {
            name: id.container(),
            image: self.image_of(variant).to_owned(),
            user: format!("{uid}:{uid}"),
            env: self.environment(),
            labels,
            mount: (host_dir, ROOM_SOCKET_DIR.into()),
            // Their content counts towards the container's memory limit, whatever their size allows.
            tmpfs: HashMap::from([
                ("/tmp".into(), format!("rw,noexec,nosuid,nodev,mode=1777,size={}", memory / 2)),
                (WORKSPACE_DIR.into(), owned(variant.disk.unwrap_or(self.limits.disk))),
                (HOME.into(), owned(memory / 2)),
            ]),
            seccomp: SECCOMP.into(),
            nano_cpus: self.limits.nano_cpus,
            memory: self.limits.memory,
            pids: self.limits.pids,
            open_files: OPEN_FILES,
        }
    }

    /// Environment variables of the container. None is a secret: model calls leave the container unsigned, and the egress proxy signs
    /// them.
    fn environment(&self) -> Vec<String> {
        let bridge = format!("http://{BRIDGE_ADDR}");
        let mut env = vec![format!("HOME={HOME}"), "LANG=C.UTF-8".into()];
        env.extend(self.driver_environment.iter().cloned());
        // Node's built-in fetch honours the proxy variables only if this is set.
        env.push("NODE_USE_ENV_PROXY=1".into());
        for name in ["HTTP_PROXY", "HTTPS_PROXY"] {
            env.push(format!("{name}={bridge}"));
            env.push(format!("{}={bridge}", name.to_ascii_lowercase()));
        }
        for name in ["NO_PROXY", "no_proxy"] {
            env.push(format!("{name}=localhost,127.0.0.1,::1"));
        }
        env
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::create_request;

    /// The container's isolation depends on this request, so every change of it shows in a snapshot.
    #[test]
    fn the_request_that_creates_a_container() {
        let limits = RoomLimits { nano_cpus: 1_000_000_000, memory: 1 << 30, pids: 512, disk: 1 << 29 };
        let template = Template {
            deployment: "shapes".into(),
            image: "workspace-base:latest".into(),
            images: BTreeMap::from([("tools".into(), "tools:1".into())]),
            limits,
            uids: UidRange::shared(50_000),
            driver_environment: vec![
                "AWS_REGION=us-east-1".into(),
                "CLAUDE_CODE_USE_BEDROCK=1".into(),
                "CLAUDE_CODE_SKIP_BEDROCK_AUTH=1".into(),
                "ANTHROPIC_BEDROCK_BASE_URL=http://bedrock-runtime.us-east-1.amazonaws.com".into(),
                "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1".into(),
                "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS=1".into(),
                "DISABLE_AUTOUPDATER=1".into(),
            ],
        };
        let id = RoomId::parse("0123456789abcdef").expect("an id");
        let room = |variant| template.room(&id, 50_000, "/var/run/workspace-sockets/0123456789abcdef".into(), &variant);
        let own = Variant { image: Some("tools".into()), disk: Some(1 << 20) };
        let spec = room(own.clone());
        assert_eq!((spec.image.as_str(), Variant::of(&spec.labels)), ("tools:1", own));
        assert!(spec.tmpfs[WORKSPACE_DIR].ends_with(",size=1048576"), "{:?}", spec.tmpfs);
        let spec = room(Variant::default());
        assert_eq!(Variant::of(&spec.labels), Variant::default());
        let request = create_request(spec);
        let mut request = serde_json::to_value(request).expect("JSON");
        let made = request["Labels"][LABEL_CREATED_AT].take();
        assert!(made.as_str().is_some_and(|made| made.parse::<jiff::Timestamp>().is_ok()), "{made}");
        let options = request["HostConfig"]["SecurityOpt"].as_array_mut().expect("options");
        let seccomp = options.pop().expect("a filter of system calls");
        assert_eq!(seccomp.as_str(), Some(format!("seccomp={SECCOMP}").as_str()));
        // Maps come in any order; a snapshot has one.
        request.sort_all_objects();
        insta::assert_json_snapshot!("create-request", request);
    }
}
