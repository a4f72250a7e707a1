//! What a policy is made of, as its maker writes it, and why it may be refused.

use std::sync::Arc;

use super::rates::Rates;
use crate::credentials::Credential;
use crate::model::ModelPolicy;

/// A rule of a layer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuleSpec {
    /// A host, `*.suffix` or an address, with an optional `:port` (80 and 443 where none is given; every port for a rule that
    /// denies); `!` before it denies.
    pub host: String,
    /// Methods that the rule covers, in upper case; none for all of them, and for tunnels.
    pub methods: Vec<String>,
    /// Prefixes of paths that the rule covers, in whole segments; none for all of them, and for tunnels.
    pub paths: Vec<String>,
}

impl RuleSpec {
    /// A rule for every request and tunnel to a host.
    #[must_use]
    pub fn host(host: impl Into<String>) -> Self {
        Self { host: host.into(), ..Self::default() }
    }
}

/// A layer of a policy: a request must be allowed by every layer.
#[derive(Debug, Clone, Default)]
pub struct LayerSpec {
    /// The layer's name in records and explanations, for example `tenant`.
    pub name: String,
    /// The layer's rules; what none of them allows is denied, unless the layer allows the rest.
    pub rules: Vec<RuleSpec>,
    /// Whether the layer allows what no rule of it matches: for a layer that only denies, or only has rates.
    pub allows_rest: bool,
    /// Rates for each listener.
    pub rates: Rates,
}

/// A policy, as its maker writes it.
#[derive(Debug, Clone, Default)]
pub struct PolicySpec {
    /// The policy's name in records, for example a version.
    pub name: String,
    /// Layers within the operator's, which is always present; in the order in which they are asked.
    pub layers: Vec<LayerSpec>,
    /// Credentials, in the order in which they are tried; the operator's come after them.
    pub credentials: Vec<Arc<Credential>>,
    /// Which models may be asked, and for what. `None` does not look into model requests.
    pub models: Option<ModelPolicy>,
}

/// Why a policy, a rule or a credential is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}")]
pub struct PolicyError {
    /// Where the fault is: `layers[0].rules[2].paths[1]`, or a field of a credential.
    pub place: String,
    /// What is wrong, and what is accepted.
    pub message: String,
}

impl PolicyError {
    pub(crate) fn new(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self { place: place.into(), message: message.into() }
    }
}

/// A field of a rule.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place {
    Host,
    Method(usize),
    Path(usize),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Method(index) => write!(f, "methods[{index}]"),
            Self::Path(index) => write!(f, "paths[{index}]"),
        }
    }
}
