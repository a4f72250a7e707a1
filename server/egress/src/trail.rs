//! The record of each request, and the trait that receives records.

use std::sync::Arc;
use std::time::Duration;

/// The values of [`RequestRecord::method`], a closed set that may serve as a metric label: clients choose method names freely, so
/// all others are recorded as `OTHER`.
pub const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "OTHER"];

/// Reasons for which policy denies a well-formed request. Malformed and oversized requests have other reasons.
pub const POLICY_DENIALS: [&str; 29] = [
    "not_allowed",
    "denied_by_rule",
    "closed",
    "method_not_allowed",
    "path_not_allowed",
    "ambiguous_path",
    "method_override",
    "path_override",
    "tunnel_not_inspectable",
    "credential_host",
    "operation_not_allowed",
    "no_run",
    "model_not_allowed",
    "server_tool_not_allowed",
    "ambiguous_body",
    "compressed_body",
    "policy_changed",
    "request_rate",
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
    "too_many_connections",
];

/// The client of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The workspace's id.
    pub workspace: String,
    /// The id of the conversation in that workspace; `None` while it has none.
    pub conversation: Option<String>,
    /// The id of the conversation's tenant. Listeners without a tenant share limits as if they had one in common.
    pub tenant: Option<String>,
}

/// How a request ended. Reasons come from a closed set and may serve as a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The request was forwarded.
    Allowed,
    /// The request was refused by policy or a limit, or was malformed.
    Denied(&'static str),
    /// The request was allowed and failed.
    Failed(&'static str),
}

impl Decision {
    /// Why the request was denied or failed, for example `not_allowed`; `None` for an allowed one.
    #[must_use]
    pub fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Allowed => None,
            Self::Denied(reason) | Self::Failed(reason) => Some(reason),
        }
    }
}

/// Requests or tunnels that have ended: mostly one; refusals beyond a listener's rate are recorded together. It holds no path,
/// query or header: those may be secret.
#[derive(Debug, Clone)]
pub struct RequestRecord {
    /// The client that sent the request.
    pub identity: Identity,
    /// HTTP method; `OTHER` for an unusual one.
    pub method: String,
    /// The requested host, normalised; empty where the request names none that can be parsed.
    pub host: String,
    /// The requested port; 0 where the request names none that can be parsed.
    pub port: u16,
    /// How it ended.
    pub decision: Decision,
    /// The allow-list rule that decided, as it was configured; `None` where none matched.
    pub rule: Option<String>,
    /// The layer that this rule is of, or that allows nothing of the kind: `operator` or a name of the policy's; of an allowed
    /// request the innermost one.
    pub layer: Option<Arc<str>>,
    /// Name of the policy that the request was judged by.
    pub policy: Option<Arc<str>>,
    /// Name of the credential that was added, or that refused the request.
    pub credential: Option<Arc<str>>,
    /// The operation that was asked for, where the credential has a list.
    pub operation: Option<Arc<str>>,
    /// HTTP status of the answer; 499 where the client left before it, 0 where the request was cut off by the listener's end.
    pub status: u16,
    /// Bytes of the body, or of the tunnel, from the client to the target.
    pub bytes_up: u64,
    /// Bytes of the body, or of the tunnel, from the target to the client.
    pub bytes_down: u64,
    /// Time from the request's head to the last byte of its answer; of several requests, the sum.
    pub duration: Duration,
    /// How many requests this is the record of: 1, or more for refusals of the same kind that were recorded together.
    pub count: u64,
}

impl RequestRecord {
    /// Adds another refusal of the same kind.
    pub(crate) fn join(&mut self, other: &Self) {
        self.bytes_up = self.bytes_up.saturating_add(other.bytes_up);
        self.bytes_down = self.bytes_down.saturating_add(other.bytes_down);
        self.duration = self.duration.saturating_add(other.duration);
        self.count = self.count.saturating_add(other.count);
    }
}

/// Receives the records of requests.
pub trait Trail: Send + Sync + 'static {
    /// A request has ended, or several refused ones of the same kind (see [`RequestRecord::count`]). Called on the proxy's own
    /// tasks: it must not block.
    fn request(&self, record: &RequestRecord);
}
