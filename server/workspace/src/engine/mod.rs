//! The interface to a container engine: [`Docker`] implements it with the Docker Engine API, [`memory`] in memory for tests.

mod docker;
pub mod memory;

use std::collections::HashMap;
use std::fmt::Debug;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;

pub use docker::Docker;
#[cfg(test)]
pub(crate) use docker::create_request;

/// A container engine, which may be unavailable at any time. Every call returns a result or [`EngineError::Timeout`] within a bounded
/// time.
#[async_trait]
pub trait Engine: Debug + Send + Sync {
    /// Checks that the engine answers within two seconds.
    ///
    /// # Errors
    /// The engine does not answer.
    async fn ping(&self) -> Result<(), EngineError>;

    /// Versions of the engine, and limits that it cannot enforce.
    ///
    /// # Errors
    /// The engine does not answer.
    async fn info(&self) -> Result<EngineInfo, EngineError>;

    /// Whether the engine has an image.
    ///
    /// # Errors
    /// The engine does not answer.
    async fn has_image(&self, image: &str) -> Result<bool, EngineError>;

    /// Creates and starts a container; returns its id. If starting fails, the caller removes the container by its name.
    ///
    /// # Errors
    /// The engine refuses or does not answer.
    async fn run(&self, spec: ContainerSpec) -> Result<String, EngineError>;

    /// Lists all containers with a label, running or not.
    ///
    /// # Errors
    /// The engine refuses or does not answer.
    async fn list(&self, label: &str, value: &str) -> Result<Vec<ListedContainer>, EngineError>;

    /// What a container is doing.
    ///
    /// # Errors
    /// The engine refuses or does not answer.
    async fn condition(&self, name: &str) -> Result<Condition, EngineError>;

    /// The last lines that a container has written to its output, in all at most [`MAX_OUTPUT`] bytes.
    ///
    /// # Errors
    /// The engine refuses or does not answer, or the container does not exist.
    async fn last_output(&self, name: &str) -> Result<String, EngineError>;

    /// Stops a container with SIGTERM, and SIGKILL after `grace`, or at once where that is zero, and removes it. A missing container is no error.
    ///
    /// # Errors
    /// The engine refuses or does not answer; the container may still exist.
    async fn remove(&self, name: &str, grace: Duration) -> Result<(), EngineError>;
}

/// Maximum length in bytes of what [`Engine::last_output`] returns.
pub const MAX_OUTPUT: usize = 1024;

/// What a container is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Its processes run.
    Running,
    /// Its processes are frozen (`docker pause`).
    Paused,
    /// It was created and not started, or has exited with this code.
    Stopped(i64),
    /// It does not exist.
    Missing,
}

/// The address on which the engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineAddress {
    /// Path of a Unix socket.
    Unix(PathBuf),
    /// `host:port` of a plain HTTP listener.
    Tcp(String),
}

impl EngineAddress {
    /// Parses `unix:///path`, a bare absolute path, `tcp://host:port` or `http://host:port`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let path = text.strip_prefix("unix://").unwrap_or(text);
        if path.starts_with('/') && path.len() > 1 {
            return Some(Self::Unix(PathBuf::from(path)));
        }
        let authority = text.strip_prefix("tcp://").or_else(|| text.strip_prefix("http://"))?;
        let authority = authority.trim_end_matches('/');
        let (host, port) = authority.rsplit_once(':')?;
        let host_ok = !host.is_empty() && !host.contains(['/', '@', ' ']);
        (host_ok && port.parse::<u16>().is_ok_and(|port| port > 0)).then(|| Self::Tcp(authority.to_owned()))
    }
}

impl std::fmt::Display for EngineAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(authority) => write!(f, "tcp://{authority}"),
        }
    }
}

/// The specification of a room's container.
#[derive(Debug, Clone)]
pub struct ContainerSpec {
    /// Name of the container, unique on the engine.
    pub name: String,
    /// Reference of the image.
    pub image: String,
    /// User and group of the first process, as `uid:gid`.
    pub user: String,
    /// Environment variables, each as `NAME=value`.
    pub env: Vec<String>,
    /// Labels of the container.
    pub labels: HashMap<String, String>,
    /// The only bind mount: path on the engine's host and path in the container.
    pub mount: (PathBuf, String),
    /// Memory file systems (tmpfs): mount options by path in the container.
    pub tmpfs: HashMap<String, String>,
    /// Seccomp profile as JSON.
    pub seccomp: String,
    /// CPU time in billionths of a CPU.
    pub nano_cpus: i64,
    /// Memory in bytes, including swap.
    pub memory: i64,
    /// Maximum number of processes and threads.
    pub pids: i64,
    /// Maximum number of open files per process.
    pub open_files: i64,
}

/// A container as the engine lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedContainer {
    /// Id that the engine gave the container.
    pub id: String,
    /// Labels of the container.
    pub labels: HashMap<String, String>,
    /// Whether the container runs; `false` while it is paused.
    pub running: bool,
    /// Whether the container's processes are frozen.
    pub paused: bool,
    /// Time of creation, in seconds since the Unix epoch.
    pub created: i64,
}

/// Properties of an engine, for `doctor`.
#[derive(Debug, Clone)]
pub struct EngineInfo {
    /// Version of the engine.
    pub version: String,
    /// API version negotiated with the engine.
    pub api_version: String,
    /// Limits of workspaces that the engine cannot enforce.
    pub missing_limits: Vec<&'static str>,
}

/// Why a call to the engine failed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The engine cannot be connected to.
    #[error("the container engine does not answer at {address}: {why}")]
    Unreachable {
        /// Address of the engine.
        address: String,
        /// The innermost error.
        why: String,
        /// Kind of the I/O error of connecting or exchanging, if there was one.
        io_error: Option<std::io::ErrorKind>,
    },
    /// The engine did not answer in time.
    #[error("the container engine took longer than {limit:?} to {what}")]
    Timeout {
        /// The call, as a verb phrase.
        what: &'static str,
        /// The time limit.
        limit: Duration,
    },
    /// The container or image does not exist.
    #[error("not found: {0}")]
    NotFound(String),
    /// The source directory of the bind mount does not exist on the engine's host.
    #[error("the container engine's host has no such directory: {0}")]
    NoSuchHostPath(String),
    /// Another client is removing the container.
    #[error("the container is already being removed")]
    RemovalInProgress,
    /// The engine refused the call.
    #[error("the container engine refused to {what}: {why}")]
    Refused {
        /// The call, as a verb phrase.
        what: &'static str,
        /// The engine's message.
        why: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_addresses_are_parsed_and_others_rejected() {
        let unix = |path: &str| Some(EngineAddress::Unix(PathBuf::from(path)));
        assert_eq!(EngineAddress::parse("unix:///var/run/docker.sock"), unix("/var/run/docker.sock"));
        assert_eq!(EngineAddress::parse("/run/d.sock"), unix("/run/d.sock"));
        assert_eq!(EngineAddress::parse("tcp://h:2375"), Some(EngineAddress::Tcp("h:2375".into())));
        assert_eq!(EngineAddress::parse("http://[::1]:2375/"), Some(EngineAddress::Tcp("[::1]:2375".into())));
        for junk in ["", "/", "docker.sock", "ftp://h:1", "tcp://h", "tcp://:1", "tcp://h:0", "tcp://h:x", "unix://d"] {
            assert_eq!(EngineAddress::parse(junk), None, "{junk}");
        }
    }

    #[tokio::test]
    async fn an_unreachable_engine_is_reported_with_the_kind_of_the_io_error() {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("docker.sock");
        // The socket's file outlives its listener; connecting to it is refused.
        drop(std::os::unix::net::UnixListener::bind(&socket).expect("binds"));
        let error = Docker::new(EngineAddress::Unix(socket)).ping().await.expect_err("no engine answers");
        let EngineError::Unreachable { io_error, .. } = error else { panic!("{error}") };
        assert_eq!(io_error, Some(std::io::ErrorKind::ConnectionRefused));
    }
}
