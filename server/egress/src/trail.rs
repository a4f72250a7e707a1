//! What is told of each request, and to whom.

use std::time::Duration;

/// Methods that are told apart in [`RequestRecord::method`]; what others are called is a client's to choose, and would make a
/// label of it.
pub const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "OTHER"];

/// Reasons for which policy denies a request that is well formed; what is malformed or too large has others.
pub const POLICY_DENIALS: [&str; 13] = [
    "not_allowed",
    "denied_by_rule",
    "credential_host",
    "address_loopback",
    "address_private",
    "address_link_local",
    "address_reserved",
    "not_tls",
    "tls_malformed",
    "sni_hidden",
    "sni_missing",
    "sni_mismatch",
    "too_many_requests",
];

/// Who is on the other side of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The workspace.
    pub workspace: String,
    /// The conversation in it, if there is one.
    pub conversation: Option<String>,
    /// The conversation's tenant.
    pub tenant: Option<String>,
}

/// What became of a request. Reasons come from a closed set and may serve as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It was let through.
    Allowed,
    /// Policy, or its form, forbade it.
    Denied(&'static str),
    /// It was let through and did not succeed.
    Failed(&'static str),
}

impl Decision {
    /// Why it was denied or failed.
    #[must_use]
    pub fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Allowed => None,
            Self::Denied(reason) | Self::Failed(reason) => Some(reason),
        }
    }
}

/// One request or tunnel that has ended. It holds no path, query or header: those may be secret.
#[derive(Debug, Clone)]
pub struct RequestRecord {
    /// Who asked.
    pub identity: Identity,
    /// HTTP method; `OTHER` for an unusual one.
    pub method: String,
    /// Host that was asked for; empty where none could be read.
    pub host: String,
    /// Port that was asked for.
    pub port: u16,
    /// What became of it.
    pub decision: Decision,
    /// Rule of the allow-list that decided.
    pub rule: Option<String>,
    /// Status of the answer.
    pub status: u16,
    /// Bytes of body, or of the tunnel, from the client.
    pub bytes_up: u64,
    /// The same to the client.
    pub bytes_down: u64,
    /// From the request's head to its last byte.
    pub duration: Duration,
}

/// Whoever keeps the records.
pub trait Trail: Send + Sync + 'static {
    /// A request has ended. Called on the proxy's own tasks: it must not block.
    fn request(&self, record: &RequestRecord);
}
