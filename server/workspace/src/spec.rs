//! What a room is made of: the container's specification.

use std::collections::HashMap;
use std::path::PathBuf;

use nagaya_protocol::{BRIDGE_ADDR, ROOM_SOCKET_DIR, WORKSPACE_DIR};

use crate::engine::ContainerSpec;
use crate::id::RoomId;

/// Label that names the deployment a container belongs to.
pub const LABEL_DEPLOYMENT: &str = "nagaya.deployment";
/// Label that names the room.
pub const LABEL_WORKSPACE: &str = "nagaya.workspace";
/// Label that says when the room was made (RFC 3339).
pub const LABEL_CREATED_AT: &str = "nagaya.created-at";

/// Which system calls a room may use; kept with the image, which it must suit.
const SECCOMP: &str = include_str!("../../../workspace-base/seccomp.json");

/// Home directory of the room's user, in the image.
const HOME: &str = "/home/appuser";
/// Files one process may have open. Node.js and git need some hundreds; more than the engine's own limit would be refused,
/// and this is the lowest of those in use.
const OPEN_FILES: i64 = 4_096;

/// Resource limits of one container.
#[derive(Debug, Clone, Copy)]
pub struct RoomLimits {
    /// CPU time, in billionths of a CPU (`CONTAINER_CPUS`).
    pub nano_cpus: i64,
    /// Memory in bytes, memory file systems included, without swap (`CONTAINER_MEMORY`).
    pub memory: i64,
    /// Processes and threads (`CONTAINER_PIDS`).
    pub pids: i64,
    /// Bytes of the workspace directory (`CONTAINER_DISK`).
    pub disk: u64,
}

/// What the containers of all rooms of a deployment have in common.
#[derive(Debug, Clone)]
pub struct Template {
    /// Whose they are.
    pub deployment: String,
    /// Image they start from.
    pub image: String,
    /// What each may use.
    pub limits: RoomLimits,
    /// User and group.
    pub user: (u32, u32),
    /// Environment variables that lead the driver to its model, `NAME=value`. None of them is a secret.
    pub model_environment: Vec<String>,
}

impl Template {
    /// The specification of one room whose socket directory is `host_dir` on the engine's host.
    #[must_use]
    pub fn room(&self, id: &RoomId, host_dir: PathBuf) -> ContainerSpec {
        let (uid, gid) = self.user;
        let owned = |size: u64| format!("rw,exec,nosuid,nodev,mode=0700,uid={uid},gid={gid},size={size}");
        let memory = self.limits.memory.unsigned_abs();
        ContainerSpec {
            name: id.container(),
            image: self.image.clone(),
            user: format!("{uid}:{gid}"),
            env: self.environment(),
            labels: HashMap::from([
                (LABEL_DEPLOYMENT.into(), self.deployment.clone()),
                (LABEL_WORKSPACE.into(), id.to_string()),
                (LABEL_CREATED_AT.into(), jiff::Timestamp::now().to_string()),
            ]),
            mount: (host_dir, ROOM_SOCKET_DIR.into()),
            // Memory file systems count towards the room's memory, whatever their size says.
            tmpfs: HashMap::from([
                ("/tmp".into(), format!("rw,noexec,nosuid,nodev,mode=1777,size={}", memory / 2)),
                (WORKSPACE_DIR.into(), owned(self.limits.disk)),
                (HOME.into(), owned(memory / 2)),
            ]),
            seccomp: SECCOMP.into(),
            nano_cpus: self.limits.nano_cpus,
            memory: self.limits.memory,
            pids: self.limits.pids,
            open_files: OPEN_FILES,
        }
    }

    /// No secret, ever: a room's model calls leave unsigned, and the egress proxy signs them.
    fn environment(&self) -> Vec<String> {
        let bridge = format!("http://{BRIDGE_ADDR}");
        let mut env = vec![format!("HOME={HOME}"), "LANG=C.UTF-8".into()];
        env.extend(self.model_environment.iter().cloned());
        env.extend([
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1".into(),
            // A run ends with the driver's turn: what goes on behind it, a sub-agent or a long command, would be ended with it unseen.
            "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS=1".into(),
            "DISABLE_AUTOUPDATER=1".into(),
            // Node's own fetch looks at the proxy variables only where it is told to.
            "NODE_USE_ENV_PROXY=1".into(),
        ]);
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

    /// What Docker is asked for is what a room is locked by: each change of it is to be looked at.
    #[test]
    fn what_the_engine_is_asked_for() {
        let limits = RoomLimits { nano_cpus: 1_000_000_000, memory: 1 << 30, pids: 512, disk: 1 << 29 };
        let template = Template {
            deployment: "shapes".into(),
            image: "workspace-base:latest".into(),
            limits,
            user: (1000, 1000),
            model_environment: vec![
                "AWS_REGION=us-east-1".into(),
                "CLAUDE_CODE_USE_BEDROCK=1".into(),
                "CLAUDE_CODE_SKIP_BEDROCK_AUTH=1".into(),
                "ANTHROPIC_BEDROCK_BASE_URL=http://bedrock-runtime.us-east-1.amazonaws.com".into(),
            ],
        };
        let id = RoomId::parse("0123456789abcdef").expect("an id");
        for (name, remaps) in [("create-request", false), ("create-request-where-users-are-remapped", true)] {
            let request =
                create_request(template.room(&id, "/var/run/workspace-sockets/0123456789abcdef".into()), remaps);
            let mut request = serde_json::to_value(request).expect("JSON");
            let made = request["Labels"][LABEL_CREATED_AT].take();
            assert!(made.as_str().is_some_and(|made| made.parse::<jiff::Timestamp>().is_ok()), "{made}");
            let options = request["HostConfig"]["SecurityOpt"].as_array_mut().expect("options");
            let seccomp = options.pop().expect("a filter of system calls");
            assert_eq!(seccomp.as_str(), Some(format!("seccomp={SECCOMP}").as_str()));
            // Maps come in any order; a snapshot has one.
            request.sort_all_objects();
            insta::assert_json_snapshot!(name, request);
        }
    }
}
