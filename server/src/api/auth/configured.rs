//! The keys of the configuration, `API_KEYS`.

use std::collections::HashMap;
use std::fmt;

use subtle::ConstantTimeEq;

use super::secret::{Hash, hash};
use super::{Principal, is_id};

/// Minimum length of a key, in characters: shorter ones can be guessed by brute force.
const SHORTEST_KEY: usize = 16;
/// Stands before the ':' of a key of [`Principal::Metrics`]; no tenant's id begins with '@'.
const METRICS_SCOPE: &str = "@metrics";

/// The configured keys, kept as SHA-256 hashes so that a memory dump does not reveal them.
#[derive(Clone, Default)]
pub struct ApiKeys(Vec<(Hash, Principal)>);

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

impl ApiKeys {
    /// Parses `KEY,TENANT:KEY,@metrics:KEY,…`: operators' keys, tenants' keys and keys for `/metrics`.
    ///
    /// # Errors
    /// A message with the number of the invalid key and the accepted form; it never contains a key.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut seen = HashMap::new();
        let mut keys = Vec::new();
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let number = keys.len() + 1;
            let (principal, key) = match item.split_once(':') {
                Some((METRICS_SCOPE, key)) => (Principal::Metrics, key),
                Some((tenant, key)) if is_id(tenant) => (Principal::Tenant(tenant.to_owned()), key),
                Some(_) => {
                    return Err(format!("key {number}: accepted before the ':': a tenant's id, or {METRICS_SCOPE}"));
                }
                None => (Principal::Operator, item),
            };
            if key.len() < SHORTEST_KEY || !key.bytes().all(|b| b.is_ascii_graphic()) {
                return Err(format!("key {number}: accepted: at least {SHORTEST_KEY} visible ASCII characters"));
            }
            let hash = hash(key);
            if let Some(earlier) = seen.insert(hash, number) {
                return Err(format!("keys {earlier} and {number} are the same"));
            }
            keys.push((hash, principal));
        }
        Ok(Self(keys))
    }

    /// Whether no keys are configured.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of the keys is an operator's.
    pub(super) fn have_operators(&self) -> bool {
        self.0.iter().any(|(_, principal)| *principal == Principal::Operator)
    }

    /// The position of a key, from 1, and its principal. Compares with every configured key in constant time, so that the response time
    /// does not reveal how much of a key matches.
    pub(super) fn find(&self, hash: &Hash) -> Option<(usize, Principal)> {
        let mut found = None;
        for (at, (known, principal)) in self.0.iter().enumerate() {
            if bool::from(known.ct_eq(hash)) {
                found = Some((at + 1, principal.clone()));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configured_key_is_found_with_its_principal() {
        let keys = ApiKeys::parse("0123456789abcdef, acme:fedcba9876543210,@metrics:fedcba98765432100").expect("valid");
        let find = |key| keys.find(&hash(key));
        assert_eq!(find("fedcba98765432100"), Some((3, Principal::Metrics)));
        assert_eq!(find("0123456789abcdef"), Some((1, Principal::Operator)));
        assert_eq!(find("fedcba9876543210"), Some((2, Principal::Tenant("acme".into()))));
        assert_eq!(find("0123456789abcdeF"), None);
        assert!(keys.have_operators());
        assert!(ApiKeys::parse("").expect("valid").is_empty());
    }

    #[test]
    fn error_messages_and_debug_output_contain_no_key() {
        for bad in [
            "hunter2",
            "@other:0123456789abcdef",
            "@metrics:hunter2",
            "te nant:0123456789abcdef",
            "acme:hunter2",
            "0123456789abcdef,0123456789abcdef",
        ] {
            let message = ApiKeys::parse(bad).expect_err("invalid");
            assert!(!message.contains("hunter2") && !message.contains("0123456789abcdef"), "{message}");
        }
        let keys = ApiKeys::parse("0123456789abcdef").expect("valid");
        assert!(!format!("{keys:?}").contains("0123"));
    }
}
