//! Rules about hosts, which what applies to a conversation shares with the document that they come from.

use std::ops::Deref;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;

use super::problem::{LONGEST_TEXT, Problems, check_list};

/// Something that may be reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ConfigurationAllowRule)]
pub struct AllowRule {
    /// A host, `*.suffix` (its subdomains) or an address, with an optional `:port` (80 and 443 where none is given).
    pub host: String,
    /// Methods that are allowed; all if absent. Requests inside a tunnel cannot be seen, so a rule with methods or paths allows no tunnel:
    /// clients in the workspace use `http://` addresses, which the proxy upgrades to TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 100)]
    pub methods: Option<Vec<String>>,
    /// Beginnings of paths that are allowed, whole segments: `/v1` allows `/v1` and `/v1/x`, and not `/v10`. All if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 100)]
    pub paths: Option<Vec<String>>,
}

impl AllowRule {
    pub(super) fn check(&self, place: &str, problems: &mut Problems) {
        let short = self.host.len() <= LONGEST_TEXT && !self.host.is_empty();
        problems.require(short, format!("{place}.host"), format!("must have 1 to {LONGEST_TEXT} characters"));
        let denies = self.host.starts_with('!');
        problems.require(!denies, format!("{place}.host"), "must not begin with '!'; use egress.deny");
        check_list(problems, &format!("{place}.methods"), self.methods.as_deref());
        check_list(problems, &format!("{place}.paths"), self.paths.as_deref());
        let (no_methods, no_paths) = (Some(&Vec::new()), Some(&Vec::new()));
        problems.require(self.methods.as_ref() != no_methods, format!("{place}.methods"), "must not be empty");
        problems.require(self.paths.as_ref() != no_paths, format!("{place}.paths"), "must not be empty");
    }
}

/// Rules of one document; cloning them copies nothing.
#[derive(Debug, Clone, Eq)]
pub struct Rules(Arc<[AllowRule]>);

impl PartialEq for Rules {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl Deref for Rules {
    type Target = [AllowRule];

    fn deref(&self) -> &[AllowRule] {
        &self.0
    }
}

impl<'a> IntoIterator for &'a Rules {
    type Item = &'a AllowRule;
    type IntoIter = std::slice::Iter<'a, AllowRule>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl From<Vec<AllowRule>> for Rules {
    fn from(rules: Vec<AllowRule>) -> Self {
        Self(rules.into())
    }
}

impl Serialize for Rules {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Rules {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(Self::from)
    }
}
