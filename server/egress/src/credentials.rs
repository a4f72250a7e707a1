//! Credential rules: which credential requests to a host get. Secrets are read when needed and never shown.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use http::HeaderName;

use crate::allow::{HostPattern, items};
use crate::host::Host;

/// `HOST=sigv4:SERVICE:REGION`, `HOST=header:NAME:env:VARIABLE`, `HOST=header:NAME:file:PATH`; HOST as in the allow-list,
/// without a port. The first that matches counts.
#[derive(Debug, Clone, Default)]
pub struct CredentialRules(Vec<(HostPattern, Credential)>);

/// Index of the rule that a credential comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct RuleId(pub(crate) usize);

/// A credential that is added to requests.
#[derive(Debug, Clone)]
pub(crate) enum Credential {
    /// A signature (AWS Signature Version 4).
    SigV4 {
        /// AWS service to sign for.
        service: String,
        /// AWS region to sign for.
        region: String,
    },
    /// A header that contains a secret.
    Header(HeaderName, Secret),
}

/// Source of a secret.
#[derive(Clone)]
pub(crate) enum Secret {
    Literal(String),
    Variable(String),
    File(PathBuf),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(_) => f.write_str("[redacted]"),
            Self::Variable(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

impl Secret {
    /// Reads the secret; `None` if its source does not exist.
    pub(crate) fn read(&self) -> Option<String> {
        let text = match self {
            Self::Literal(text) => Some(text.clone()),
            Self::Variable(name) => std::env::var(name).ok(),
            Self::File(path) => std::fs::read_to_string(path).ok(),
        };
        text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
    }
}

fn parse(item: &str) -> Option<(HostPattern, Credential)> {
    let (host, credential) = item.split_once('=')?;
    let word = |text: &str| {
        (!text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')).then(|| text.to_owned())
    };
    let credential = match credential.split_once(':')? {
        ("sigv4", rest) => {
            let (service, region) = rest.split_once(':')?;
            Credential::SigV4 { service: word(service)?, region: word(region)? }
        }
        ("header", rest) => {
            let (name, source) = rest.split_once(':')?;
            let secret = match source.split_once(':')? {
                ("env", variable) if !variable.is_empty() => Secret::Variable(variable.to_owned()),
                ("file", path) if path.starts_with('/') => Secret::File(path.into()),
                _ => return None,
            };
            Credential::Header(name.to_ascii_lowercase().parse().ok()?, secret)
        }
        _ => return None,
    };
    Some((HostPattern::parse(host)?, credential))
}

impl FromStr for CredentialRules {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let accepted = "HOST=sigv4:SERVICE:REGION, HOST=header:NAME:env:VARIABLE, HOST=header:NAME:file:/PATH";
        // The message does not quote the item, because it may contain the secret by mistake.
        let rules = items(text)
            .enumerate()
            .map(|(index, item)| parse(item).ok_or_else(|| format!("rule {}: accepted: {accepted}", index + 1)));
        Ok(Self(rules.collect::<Result<_, _>>()?))
    }
}

impl CredentialRules {
    /// Adds a rule that sets the header `name` to `secret` on requests to `host`. Adds nothing if `host` is not a host pattern or
    /// `name` not a header name.
    #[must_use]
    pub fn with_header(mut self, host: &str, name: &str, secret: &str) -> Self {
        if let (Some(pattern), Ok(name)) = (HostPattern::parse(host), name.to_ascii_lowercase().parse()) {
            self.0.push((pattern, Credential::Header(name, Secret::Literal(secret.to_owned()))));
        }
        self
    }

    /// Whether a rule needs AWS credentials.
    #[must_use]
    pub fn need_aws(&self) -> bool {
        self.0.iter().any(|(_, credential)| matches!(credential, Credential::SigV4 { .. }))
    }

    /// The rules whose secret is missing, empty, or no valid header: what is to be set for each, one message each.
    #[must_use]
    pub fn missing_secrets(&self) -> Vec<String> {
        let missing = |(index, (_, credential)): (usize, &(HostPattern, Credential))| match credential {
            Credential::Header(name, secret) => {
                let usable = secret.read().is_some_and(|text| http::HeaderValue::from_str(&text).is_ok());
                (!usable)
                    .then(|| format!("PROXY_CREDENTIALS: rule {} ({name}): {secret:?} is missing or empty", index + 1))
            }
            Credential::SigV4 { .. } => None,
        };
        self.0.iter().enumerate().filter_map(missing).collect()
    }

    /// The first rule for `host`, and its credential.
    pub(crate) fn get(&self, host: &Host) -> Option<(RuleId, &Credential)> {
        let (index, (_, credential)) = self.0.iter().enumerate().find(|(_, (pattern, _))| pattern.matches(host))?;
        Some((RuleId(index), credential))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_and_found_by_host() {
        let rules: CredentialRules =
            "bedrock-runtime.us-east-1.amazonaws.com=sigv4:bedrock:us-east-1,*.example.com=header:X-Key:env:KEY"
                .parse()
                .expect("rules");
        let rules = rules.with_header("api.anthropic.com", "x-api-key", "hunter2");
        let get = |host: &str| rules.get(&Host::parse(host).expect("a host"));
        assert!(matches!(get("bedrock-runtime.us-east-1.amazonaws.com"), Some((RuleId(0), Credential::SigV4 { .. }))));
        assert!(matches!(get("a.example.com"), Some((RuleId(1), Credential::Header(name, _))) if name == "x-key"));
        assert!(get("example.com").is_none());
        assert!(!format!("{rules:?}").contains("hunter2"));
    }

    #[test]
    fn a_rule_whose_secret_is_missing_is_named() {
        let rules: CredentialRules =
            "a.example=header:X-Key:file:/no/such/file,b.example=sigv4:s3:eu-west-1".parse().expect("rules");
        assert!(rules.need_aws() && !CredentialRules::default().need_aws());
        let missing = rules.with_header("c.example", "x-key", "hunter2").missing_secrets();
        assert_eq!(missing, ["PROXY_CREDENTIALS: rule 1 (x-key): file:/no/such/file is missing or empty"]);
    }

    #[test]
    fn an_error_does_not_reveal_the_secret() {
        for bad in ["hunter2", "a.example=hunter2", "a.example=header:x-key:hunter2", "a.example=sigv4:bedrock"] {
            let told = bad.parse::<CredentialRules>().expect_err(bad);
            assert!(!told.contains("hunter2"), "{told}");
        }
    }
}
