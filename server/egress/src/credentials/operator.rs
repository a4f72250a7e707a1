//! The credentials of the operator's settings.

use std::str::FromStr;
use std::sync::Arc;

use super::operations::Operations;
use super::secret::{SecretText, Stored};
use super::source::{Kind, SigV4, Value, is_word};
use super::{Credential, RuleId, When};
use crate::allow::{HostPattern, items};
use crate::policy::RuleSet;

/// `HOST=sigv4:SERVICE:REGION`, `HOST=header:NAME:env:VARIABLE`, `HOST=header:NAME:file:PATH`; HOST as in the allow-list,
/// without a port. The first that matches counts. With a signature for the service `bedrock`, only its model operations may be asked
/// ([`Operations::bedrock`]).
#[derive(Debug, Clone, Default)]
pub struct CredentialRules(Vec<Arc<Credential>>);

fn parse(item: &str) -> Option<(HostPattern, Kind)> {
    let (host, credential) = item.split_once('=')?;
    let word = |text: &str| is_word(text).then(|| text.to_owned());
    let kind = match credential.split_once(':')? {
        ("sigv4", rest) => {
            let (service, region) = rest.split_once(':')?;
            Kind::SigV4(SigV4 { service: word(service)?, region: word(region)?, chain: None })
        }
        ("header", rest) => {
            let (name, source) = rest.split_once(':')?;
            let secret = match source.split_once(':')? {
                ("env", variable) if !variable.is_empty() => Stored::Variable(variable.to_owned()),
                ("file", path) if path.starts_with('/') => Stored::File(path.into()),
                _ => return None,
            };
            let name = name.to_ascii_lowercase().parse().ok()?;
            Kind::Header { name, value: Value::Stored(secret), around: (0, 0) }
        }
        _ => return None,
    };
    Some((HostPattern::parse(host)?, kind))
}

impl FromStr for CredentialRules {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let accepted = "HOST=sigv4:SERVICE:REGION, HOST=header:NAME:env:VARIABLE, HOST=header:NAME:file:/PATH";
        let mut rules = Self::default();
        for (index, item) in items(text).enumerate() {
            // The message does not quote the item, because it may contain the secret by mistake.
            let (host, kind) = parse(item).ok_or_else(|| format!("rule {}: accepted: {accepted}", index + 1))?;
            let bedrock = matches!(&kind, Kind::SigV4(signed) if signed.service == "bedrock");
            rules.add(host, kind, if bedrock { Operations::bedrock() } else { Operations::any() });
        }
        Ok(rules)
    }
}

impl CredentialRules {
    fn add(&mut self, host: HostPattern, kind: Kind, operations: Operations) {
        let name = format!("operator:{}", self.0.len() + 1).into();
        let (id, scope, when) = (RuleId::next(), RuleSet::default(), When::Always);
        self.0.push(Arc::new(Credential { id, name, host, port: None, scope, when, operations, kind }));
    }

    /// Adds a rule that sets the header `name` to `secret` on requests to `host`. Adds nothing if `host` is not a host pattern or
    /// `name` not a header name.
    #[must_use]
    pub fn with_header(self, host: &str, name: &str, secret: &str) -> Self {
        self.with_header_for(host, name, secret, Operations::any())
    }

    /// As [`Self::with_header`], for these operations only; everything else at `host` is refused.
    #[must_use]
    pub fn with_header_for(mut self, host: &str, name: &str, secret: &str, operations: Operations) -> Self {
        if let (Some(pattern), Ok(name)) = (HostPattern::parse(host), name.to_ascii_lowercase().parse()) {
            let value = Value::Stored(Stored::Literal(SecretText::new(secret.to_owned())));
            self.add(pattern, Kind::Header { name, value, around: (0, 0) }, operations);
        }
        self
    }

    pub(crate) fn all(&self) -> &[Arc<Credential>] {
        &self.0
    }

    /// Whether a rule needs AWS credentials.
    #[must_use]
    pub fn need_aws(&self) -> bool {
        self.0.iter().any(|credential| credential.signature().is_some())
    }

    /// The rules whose secret is missing, empty, or no valid header: what is to be set for each, one message each.
    #[must_use]
    pub fn missing_secrets(&self) -> Vec<String> {
        let missing = |(index, credential): (usize, &Arc<Credential>)| match &credential.kind {
            Kind::Header { name, value: Value::Stored(secret), .. } => {
                let usable = secret.read().is_some_and(|text| http::HeaderValue::from_str(text.expose()).is_ok());
                (!usable)
                    .then(|| format!("PROXY_CREDENTIALS: rule {} ({name}): {secret:?} is missing or empty", index + 1))
            }
            Kind::Header { .. } | Kind::SigV4(_) => None,
        };
        self.0.iter().enumerate().filter_map(missing).collect()
    }
}
