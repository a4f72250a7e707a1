//! Where a credential's value comes from, and how it is added to a request.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use base64::Engine;
use http::{HeaderName, HeaderValue};
use zeroize::Zeroizing;

use super::secret::{SecretText, Stored};
use crate::answer::Refusal;
use crate::chain::Chain;
use crate::headers;
use crate::policy::PolicyError;

/// How long a token's source may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Yields a header's current value, for example `Bearer …` of an OAuth client. The source refreshes it.
#[async_trait]
pub trait TokenSource: Send + Sync + 'static {
    /// The header's whole value; `None` if there is none, and the request is refused. Called for each request: a value that is
    /// still good comes from memory.
    async fn value(&self) -> Option<SecretText>;
}

/// What a credential adds to a request.
#[derive(Debug)]
pub struct Source(pub(crate) Kind);

/// Keys of an AWS account.
#[derive(Debug, Clone)]
pub struct Keys {
    /// Access key id.
    pub access_key_id: String,
    /// Secret access key.
    pub secret_access_key: SecretText,
    /// Session token of temporary keys.
    pub session_token: Option<SecretText>,
}

#[derive(Debug)]
pub(crate) enum Kind {
    /// A header; with the lengths of what stands before and behind the secret in its value.
    Header {
        name: HeaderName,
        value: Value,
        around: (usize, usize),
    },
    SigV4(SigV4),
}

/// A signature (AWS Signature Version 4).
#[derive(Debug)]
pub(crate) struct SigV4 {
    pub(crate) service: String,
    pub(crate) region: String,
    /// `None` for the operator's own credential chain.
    pub(crate) chain: Option<Chain>,
}

pub(crate) enum Value {
    Stored(Stored),
    Token(Arc<dyn TokenSource>),
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stored(stored) => stored.fmt(f),
            Self::Token(_) => f.write_str("[token]"),
        }
    }
}

impl Value {
    /// The header's value now.
    pub(crate) async fn current(&self) -> Result<HeaderValue, Refusal> {
        let (text, missing): (_, fn() -> Refusal) = match self {
            Self::Stored(stored) => (stored.read(), Refusal::no_secret),
            Self::Token(source) => {
                (tokio::time::timeout(PATIENCE, source.value()).await.ok().flatten(), Refusal::no_token)
            }
        };
        let text = text.ok_or_else(missing)?;
        let mut value = HeaderValue::from_str(text.expose()).map_err(|_| missing())?;
        value.set_sensitive(true);
        Ok(value)
    }
}

impl Source {
    /// A header whose value is `template` with the secret in place of `{}`: `Bearer {}`, `Token token={}`, or `{}` alone.
    ///
    /// # Errors
    /// The name is no header that can be set, the template has not exactly one `{}`, or the result is no header value. Messages do
    /// not contain the secret.
    pub fn header(name: &str, template: &str, secret: &SecretText) -> Result<Self, PolicyError> {
        let mut parts = template.split("{}");
        let (Some(before), Some(after), None) = (parts.next(), parts.next(), parts.next()) else {
            return Err(PolicyError::new("template", "accepted: a text with one {}, for example Bearer {}"));
        };
        if secret.expose().is_empty() {
            return Err(PolicyError::new("secret", "it is empty"));
        }
        let value = SecretText::new(format!("{before}{}{after}", secret.expose()));
        if HeaderValue::from_str(value.expose()).is_err() || value.expose().trim() != value.expose() {
            return Err(PolicyError::new("secret", "accepted: visible ASCII without line ends, as a header's value"));
        }
        let around = (before.len(), after.len());
        let value = Value::Stored(Stored::Literal(value));
        Ok(Self(Kind::Header { name: header_name(name)?, value, around }))
    }

    /// `Authorization: Basic …` of a user and password (RFC 7617).
    ///
    /// # Errors
    /// The user has a colon, or one of them a control character.
    pub fn basic(user: &str, password: &SecretText) -> Result<Self, PolicyError> {
        let plain = |text: &str| !text.chars().any(char::is_control);
        if user.contains(':') || !plain(user) {
            return Err(PolicyError::new("user", "accepted: a user without colons and control characters"));
        }
        if !plain(password.expose()) {
            return Err(PolicyError::new("secret", "accepted: a password without control characters"));
        }
        let both = Zeroizing::new(format!("{user}:{}", password.expose()));
        let encoded = SecretText::new(base64::engine::general_purpose::STANDARD.encode(both.as_bytes()));
        Self::header("authorization", "Basic {}", &encoded)
    }

    /// A header whose value changes, for example of an OAuth client.
    ///
    /// # Errors
    /// The name is no header that can be set.
    pub fn token(name: &str, source: Arc<dyn TokenSource>) -> Result<Self, PolicyError> {
        Ok(Self(Kind::Header { name: header_name(name)?, value: Value::Token(source), around: (0, 0) }))
    }

    /// A signature with given keys.
    ///
    /// # Errors
    /// Service or region are no names.
    pub fn sigv4(service: &str, region: &str, keys: &Keys) -> Result<Self, PolicyError> {
        let token = keys.session_token.as_ref().map(|token| token.expose().to_owned());
        let secret = keys.secret_access_key.expose();
        let credentials = Credentials::new(&keys.access_key_id, secret, token, None, "policy");
        Self::sigv4_from(service, region, SharedCredentialsProvider::new(credentials))
    }

    /// A signature with keys from a provider, for example of a role to assume. It is asked when keys are needed, and again when they
    /// expire or the target refuses them.
    ///
    /// # Errors
    /// Service or region are no names.
    pub fn sigv4_from(service: &str, region: &str, keys: SharedCredentialsProvider) -> Result<Self, PolicyError> {
        for (place, text) in [("service", service), ("region", region)] {
            if !is_word(text) {
                return Err(PolicyError::new(place, "accepted: letters, digits and hyphens"));
            }
        }
        let chain = Some(Chain::of_policy(keys));
        Ok(Self(Kind::SigV4(SigV4 { service: service.to_owned(), region: region.to_owned(), chain })))
    }
}

pub(crate) fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// A header that may hold a credential: none that frames the message, or that is dropped on the way.
pub(crate) fn header_name(name: &str) -> Result<HeaderName, PolicyError> {
    let parsed: Option<HeaderName> = name.to_ascii_lowercase().parse().ok();
    parsed.filter(headers::may_hold_credential).ok_or_else(|| {
        PolicyError::new(
            "header",
            "accepted: the name of a header that neither frames the message nor is meant for a proxy",
        )
    })
}
