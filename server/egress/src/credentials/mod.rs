//! Credentials: what is added to which requests. Secrets are read when needed and never shown.

mod operations;
mod operator;
mod secret;
mod source;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use operations::Operations;
pub(crate) use operations::{Api, Operation, segment_text};
pub use operator::CredentialRules;
pub use secret::SecretText;
pub use source::{Keys, Source, TokenSource};
pub(crate) use source::{Kind, SigV4};

use crate::allow::{HostPattern, Pattern, parse_pattern};
use crate::host::Host;
use crate::policy::{Applies, Call, Place, PolicyError, RuleSet, RuleSpec, cut};

/// Identifies a credential among all of this process, so that connections are not shared beyond it. Another version of the same
/// secret is another credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct RuleId(pub(crate) u64);

impl RuleId {
    fn next() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed))
    }
}

/// When a credential is added.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum When {
    /// While a run is active; requests that would get the credential are refused otherwise.
    Run,
    /// Always.
    #[default]
    Always,
}

/// A credential, as its maker writes it.
#[derive(Debug)]
pub struct CredentialSpec {
    /// The credential's name in records and explanations: an id, never a secret.
    pub name: String,
    /// A host, `*.suffix` or an address, with an optional `:port`; without one, every port. Credentials are sent by TLS, and port 80
    /// becomes 443.
    pub host: String,
    /// Methods of the requests that get the credential; none for all.
    pub methods: Vec<String>,
    /// Prefixes of their paths; none for all.
    pub paths: Vec<String>,
    /// When it is added.
    pub when: When,
    /// What may be asked with it; everything else at its host is refused. `None`: for a header, anything; for a signature of the
    /// service `bedrock`, [`Operations::bedrock`]; other signatures need a list.
    pub operations: Option<Operations>,
    /// What is added.
    pub source: Source,
}

/// A credential that is added to requests to a host.
pub struct Credential {
    pub(crate) id: RuleId,
    pub(crate) name: Arc<str>,
    host: HostPattern,
    port: Option<u16>,
    /// One rule, with the methods and prefixes.
    scope: RuleSet,
    pub(crate) when: When,
    pub(crate) operations: Operations,
    pub(crate) kind: Kind,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Credential");
        shown.field("name", &self.name).field("host", &self.host).field("when", &self.when);
        shown.field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl Credential {
    /// Builds a credential. Every call makes another one, which shares no connection with any before it.
    ///
    /// # Errors
    /// A field that cannot be read, a rule that can never match, or a signature without a list of operations. Messages contain no
    /// secret.
    pub fn new(spec: CredentialSpec) -> Result<Self, PolicyError> {
        let CredentialSpec { name, host, methods, paths, when, operations, source: Source(kind) } = spec;
        let accepted = "accepted: a host, *.suffix or an address ([IPv6] in brackets), with an optional :port";
        let (pattern, port) =
            parse_pattern(&host).ok_or_else(|| PolicyError::new("host", format!("{:?}: {accepted}", cut(&host))))?;
        if port == Some(80) {
            let message = "port 80 never matches: credentials are sent by TLS, and port 80 becomes 443";
            return Err(PolicyError::new("host", message));
        }
        let rule = RuleSpec { host, methods, paths };
        let scope = RuleSet::new(&[rule], |_, place: Place| place.to_string())?;
        let operations = match (operations, &kind) {
            (Some(operations), Kind::SigV4(_)) if operations.are_any() => Err("a signature needs a list of operations"),
            (Some(operations), _) => Ok(operations),
            (None, Kind::Header { .. }) => Ok(Operations::any()),
            (None, Kind::SigV4(signed)) if signed.service == "bedrock" => Ok(Operations::bedrock()),
            (None, Kind::SigV4(_)) => Err("a signature needs a list of operations; only bedrock has one of its own"),
        };
        let operations = operations.map_err(|message| PolicyError::new("operations", message))?;
        let id = RuleId::next();
        Ok(Self { id, name: name.into(), host: HostPattern(pattern), port, scope, when, operations, kind })
    }

    /// The credential's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The host or suffix that it is for, and the port if it has one.
    pub(crate) fn host(&self) -> (&Pattern, Option<u16>) {
        (&self.host.0, self.port)
    }

    /// Whether it is for this host and port.
    pub(crate) fn is_for(&self, host: &Host, port: u16) -> bool {
        self.port.is_none_or(|own| own == port) && self.host.matches(host)
    }

    /// Whether a request to its host has one of its methods and paths.
    pub(crate) fn covers(&self, call: &Call<'_>) -> Applies {
        self.scope.first_applies(call)
    }

    pub(crate) fn signature(&self) -> Option<&SigV4> {
        match &self.kind {
            Kind::SigV4(signature) => Some(signature),
            Kind::Header { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests;
