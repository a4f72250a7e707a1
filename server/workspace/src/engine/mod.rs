//! What we ask of a container engine, in our own words; Docker's are in [`docker`], and [`memory`] is the one for tests.

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

/// A container engine that may come and go. No call waits for ever: each ends with an answer or [`EngineError::Timeout`].
#[async_trait]
pub trait Engine: Debug + Send + Sync {
    /// Whether it answers, and quickly.
    ///
    /// # Errors
    /// It does not.
    async fn ping(&self) -> Result<(), EngineError>;

    /// What it is and cannot do.
    ///
    /// # Errors
    /// It does not answer.
    async fn info(&self) -> Result<EngineInfo, EngineError>;

    /// Whether an image is there.
    ///
    /// # Errors
    /// The engine does not answer.
    async fn has_image(&self, image: &str) -> Result<bool, EngineError>;

    /// Creates and starts a container; returns its id. Where starting fails, the container is left for the caller to
    /// remove by its name.
    ///
    /// # Errors
    /// As the engine says.
    async fn run(&self, spec: ContainerSpec) -> Result<String, EngineError>;

    /// All containers with a label, running or not.
    ///
    /// # Errors
    /// As the engine says.
    async fn list(&self, label: &str, value: &str) -> Result<Vec<ListedContainer>, EngineError>;

    /// Whether a container's first process lives; `false` also where there is no such container.
    ///
    /// # Errors
    /// As the engine says.
    async fn is_running(&self, name: &str) -> Result<bool, EngineError>;

    /// Stops a container — SIGTERM, and SIGKILL after `grace` — and removes it. One that is gone is fine.
    ///
    /// # Errors
    /// The container may still be there.
    async fn remove(&self, name: &str, grace: Duration) -> Result<(), EngineError>;
}

/// Where the engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineAddress {
    /// A Unix socket.
    Unix(PathBuf),
    /// `host:port`, plain HTTP.
    Tcp(String),
}

impl EngineAddress {
    /// Reads `unix:///path`, a bare absolute path, `tcp://host:port` or `http://host:port`.
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

/// Everything that makes up a container of ours.
#[derive(Debug, Clone)]
pub struct ContainerSpec {
    /// Unique on the engine.
    pub name: String,
    /// Image reference.
    pub image: String,
    /// `uid:gid` of the first process.
    pub user: String,
    /// Environment, `NAME=value`.
    pub env: Vec<String>,
    /// Labels.
    pub labels: HashMap<String, String>,
    /// The one host directory it sees: host path and path inside.
    pub mount: (PathBuf, String),
    /// Memory file systems: path inside and mount options.
    pub tmpfs: HashMap<String, String>,
    /// Seccomp profile, as JSON.
    pub seccomp: String,
    /// CPU, in billionths.
    pub nano_cpus: i64,
    /// Memory in bytes, swap included.
    pub memory: i64,
    /// Processes and threads.
    pub pids: i64,
    /// Open files per process.
    pub open_files: i64,
}

/// A container of ours as the engine lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedContainer {
    /// Engine's id.
    pub id: String,
    /// Its labels.
    pub labels: HashMap<String, String>,
    /// Whether its first process lives.
    pub running: bool,
    /// Seconds since the epoch.
    pub created: i64,
}

/// What `doctor` wants to know about an engine.
#[derive(Debug, Clone)]
pub struct EngineInfo {
    /// Its version.
    pub version: String,
    /// API version agreed on.
    pub api_version: String,
    /// Which of our limits it cannot enforce.
    pub missing_limits: Vec<&'static str>,
}

/// Why the engine did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Nobody answers at its address.
    #[error("the container engine does not answer at {address}: {why}")]
    Unreachable {
        /// Where it was looked for.
        address: String,
        /// In the system's words.
        why: String,
    },
    /// It did not answer in time.
    #[error("the container engine took longer than {limit:?} to {what}")]
    Timeout {
        /// What was asked.
        what: &'static str,
        /// How long was waited.
        limit: Duration,
    },
    /// It answered that what was named does not exist.
    #[error("not found: {0}")]
    NotFound(String),
    /// The engine's host has no directory under the path that a container was to mount.
    #[error("the container engine's host has no such directory: {0}")]
    NoSuchHostPath(String),
    /// Another client is removing the container.
    #[error("the container is already being removed")]
    RemovalInProgress,
    /// It refused.
    #[error("the container engine refused to {what}: {why}")]
    Refused {
        /// What was asked.
        what: &'static str,
        /// In its words.
        why: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_junk() {
        let unix = |path: &str| Some(EngineAddress::Unix(PathBuf::from(path)));
        assert_eq!(EngineAddress::parse("unix:///var/run/docker.sock"), unix("/var/run/docker.sock"));
        assert_eq!(EngineAddress::parse("/run/d.sock"), unix("/run/d.sock"));
        assert_eq!(EngineAddress::parse("tcp://h:2375"), Some(EngineAddress::Tcp("h:2375".into())));
        assert_eq!(EngineAddress::parse("http://[::1]:2375/"), Some(EngineAddress::Tcp("[::1]:2375".into())));
        for junk in ["", "/", "docker.sock", "ftp://h:1", "tcp://h", "tcp://:1", "tcp://h:0", "tcp://h:x", "unix://d"] {
            assert_eq!(EngineAddress::parse(junk), None, "{junk}");
        }
    }
}
