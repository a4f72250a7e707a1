//! Policies: what one listener may do.
//!
//! A policy has layers. The operator's is the proxy's own ([`crate::Settings::allowed`]) and always present; further ones narrow it.
//! A request must be allowed by every layer. One function decides, [`decide()`], for requests and for explanations alike.

mod asked;
mod decide;
mod explain;
mod path;
mod rates;
mod reach;
mod rules;
mod spec;

use std::fmt;
use std::sync::Arc;

pub(crate) use asked::{Asked, Call};
pub(crate) use decide::{Decided, Ground, Inspect, decide};
pub(crate) use explain::explain;
pub use explain::{Explanation, Question};
pub(crate) use path::plain as plain_path;
pub use rates::Rates;
pub(crate) use rates::Used;
pub(crate) use reach::unreachable;
pub(crate) use rules::{Applies, RuleSet, Verdict, cut};
pub(crate) use spec::Place;
pub use spec::{LayerSpec, PolicyError, PolicySpec, RuleSpec};

use crate::allow::Pattern;
use crate::credentials::Credential;
use crate::model::ModelPolicy;

/// What one listener may do, within what the operator allows. Immutable; shared by all listeners that it is for.
pub struct Policy {
    name: Arc<str>,
    closed: bool,
    layers: Box<[Layer]>,
    rates: Box<[Rates]>,
    pub(crate) credentials: Box<[Arc<Credential>]>,
    pub(crate) models: Option<ModelPolicy>,
}

/// A layer: rules, and the name that records give it.
pub(crate) struct Layer {
    pub(crate) name: Arc<str>,
    pub(crate) rules: RuleSet,
    /// Whether what no rule matches is allowed.
    pub(crate) allows_rest: bool,
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layers: Vec<&str> = self.layers.iter().map(|layer| &*layer.name).collect();
        let (credentials, models) = (&self.credentials, &self.models);
        let mut shown = f.debug_struct("Policy");
        shown.field("name", &self.name).field("closed", &self.closed).field("layers", &layers);
        shown.field("credentials", credentials).field("models", models).finish()
    }
}

impl Policy {
    /// Builds a policy.
    ///
    /// # Errors
    /// A rule that cannot be read or can never match; the error names its place.
    pub fn new(spec: PolicySpec) -> Result<Self, PolicyError> {
        let PolicySpec { name, layers, credentials, models } = spec;
        let rates = layers.iter().map(|layer| layer.rates).collect();
        let build = |(index, layer): (usize, &LayerSpec)| {
            let place = |rule: usize, place: Place| format!("layers[{index}].rules[{rule}].{place}");
            let rules = RuleSet::new(&layer.rules, place)?;
            Ok(Layer { name: layer.name.as_str().into(), rules, allows_rest: layer.allows_rest })
        };
        let layers = layers.iter().enumerate().map(build).collect::<Result<_, PolicyError>>()?;
        Ok(Self { name: name.into(), closed: false, layers, rates, credentials: credentials.into(), models })
    }

    /// The policy that allows what the operator's settings do, and nothing else decides.
    #[must_use]
    pub fn operator() -> Self {
        Self {
            name: "operator".into(),
            closed: false,
            layers: Box::default(),
            rates: Box::default(),
            credentials: Box::default(),
            models: None,
        }
    }

    /// The policy that denies everything: for a listener that belongs to nobody yet.
    #[must_use]
    pub fn closed() -> Self {
        Self { name: "closed".into(), closed: true, ..Self::operator() }
    }

    /// The policy's name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Whether every layer, and `operator`, allows anything that a pattern matches.
    pub(crate) fn meets(&self, operator: &Layer, pattern: &Pattern, port: Option<u16>) -> bool {
        let ports = port.map_or(reach::WEB.to_vec(), |port| vec![port]);
        let mut layers = std::iter::once(operator).chain(&self.layers);
        !self.closed && layers.all(|layer| layer.may_allow(pattern, Some(&ports)))
    }

    pub(crate) fn rates(&self) -> &[Rates] {
        &self.rates
    }

    /// Memory of the rules, in bytes: what each policy takes beside its credentials and models.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let layer = |layer: &Layer| size_of::<Layer>() + layer.name.len() + layer.rules.bytes();
        size_of::<Self>() + self.name.len() + self.layers.iter().map(layer).sum::<usize>()
    }
}
