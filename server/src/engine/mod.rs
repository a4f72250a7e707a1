//! What we ask of a container engine, in our own words; Docker's are in [`docker`].

mod docker;

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

pub use docker::Engine;

/// Longest a single question to the engine may take; creating a container on a busy host is the slowest of them.
pub const CALL_DEADLINE: Duration = Duration::from_secs(60);

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
pub struct Listed {
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
        address: EngineAddress,
        /// In the system's words.
        why: String,
    },
    /// It did not answer in time.
    #[error("the container engine took longer than {CALL_DEADLINE:?} to {what}")]
    Timeout {
        /// What was asked.
        what: &'static str,
    },
    /// It answered that what was named does not exist.
    #[error("not found: {0}")]
    NotFound(String),
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
