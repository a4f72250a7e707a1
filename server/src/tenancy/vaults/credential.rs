//! Credentials of a vault: what each is for, which everybody with the tenant's key may see, and the secret, which nobody sees again.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use zeroize::Zeroizing;

use crate::tenancy::address::https_host;
use crate::tenancy::problem::{Problem, Problems};

/// Length of a secret, in bytes, at most.
const LONGEST_SECRET: usize = 16 * 1024;
/// Length of any other text, in bytes, at most.
const LONGEST_TEXT: usize = 2_048;

/// A secret: `Debug` does not show it, and its memory is cleared when it is dropped.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = String, format = Password)]
pub struct Secret(Zeroizing<String>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Secret {
    /// The secret in the clear.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(Zeroizing::new(text.to_owned()))
    }
}

/// When a credential is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = CredentialWhen)]
pub enum When {
    /// Only while a run is in progress.
    #[default]
    Run,
    /// Also between runs, for processes that a run has left in the workspace.
    Always,
}

/// Which requests get the credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CredentialPurpose)]
pub struct Purpose {
    /// A host, `*.suffix` or an address, without a port. The request leaves with TLS.
    pub host: String,
    /// Methods; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 100)]
    pub methods: Option<Vec<String>>,
    /// Beginnings of paths, whole segments; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 100)]
    pub paths: Option<Vec<String>>,
    /// What may be asked with it, exactly; anything within methods and paths if absent. Credentials that sign need it, except for
    /// `bedrock`, which has a list of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 100)]
    pub operations: Option<Vec<Operation>>,
    /// When it is used.
    #[serde(default)]
    pub when: When,
}

/// Something that may be asked with a credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CredentialOperation, example = json!({"method": "GET", "path": "/repos/{owner}/{repo}/issues"}))]
pub struct Operation {
    /// The method, in upper case.
    pub method: String,
    /// The path: `{name}` stands for one segment, and `{+name}` at the end for all that follow.
    pub path: String,
}

/// A credential with its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
#[schema(as = CredentialSecret)]
pub enum Auth {
    /// A header that contains the secret.
    Header {
        /// Name of the header; the client's own header of this name is replaced.
        name: String,
        /// Value of the header, in which `{}` stands for the secret, such as `Bearer {}`; the secret alone if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        template: Option<String>,
        /// The secret that replaces `{}`.
        secret: Secret,
    },
    /// `Authorization: Basic` (RFC 7617).
    Basic {
        /// The user; no colon.
        username: String,
        /// The password of this user.
        password: Secret,
    },
    /// AWS Signature Version 4, with keys.
    Sigv4 {
        /// Service, such as `s3`.
        service: String,
        /// Region, such as `eu-central-1`.
        region: String,
        /// Id of the access key.
        access_key_id: String,
        /// The secret access key.
        secret_access_key: Secret,
        /// Token of a temporary key.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        session_token: Option<Secret>,
    },
    /// AWS Signature Version 4, with a role that the server assumes with its own credentials. The operator lists the roles
    /// (`VAULT_ROLES`); the external id is `nagaya:` and the tenant's id.
    Role {
        /// Service, such as `s3`.
        service: String,
        /// Region, such as `eu-central-1`.
        region: String,
        /// ARN of the role.
        role_arn: String,
    },
    /// An OAuth 2.0 client (RFC 6749): the server fetches access tokens and sends them as `Authorization: Bearer`.
    Oauth {
        /// Address of the token endpoint: `https`, and reachable by the tenant's workspaces.
        token_url: String,
        /// Id of the client.
        client_id: String,
        /// The client's secret, sent as HTTP Basic authentication.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        client_secret: Option<Secret>,
        /// A refresh token; without it, the client's own credentials are the grant.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        refresh_token: Option<Secret>,
        /// Scopes, separated by spaces.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        scope: Option<String>,
    },
}

/// A credential without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[schema(as = CredentialKind)]
pub enum Shown {
    /// A header that contains the secret.
    Header {
        /// Name of the header.
        name: String,
        /// Value of the header, with `{}` for the secret.
        template: Option<String>,
    },
    /// `Authorization: Basic` (RFC 7617).
    Basic {
        /// The user of that name.
        username: String,
    },
    /// AWS Signature Version 4, with keys.
    Sigv4 {
        /// AWS service that is signed for.
        service: String,
        /// AWS region that is signed for.
        region: String,
        /// Id of the access key.
        access_key_id: String,
    },
    /// AWS Signature Version 4, with a role that the server assumes.
    Role {
        /// AWS service that is signed for.
        service: String,
        /// AWS region that is signed for.
        region: String,
        /// ARN of the role that is assumed.
        role_arn: String,
    },
    /// An OAuth 2.0 client (RFC 6749).
    Oauth {
        /// Address of the token endpoint.
        token_url: String,
        /// Id of the client at that endpoint.
        client_id: String,
        /// Scopes, separated by spaces.
        scope: Option<String>,
        /// Whether it has a refresh token.
        refreshes: bool,
    },
}

impl Auth {
    /// What may be shown of it.
    #[must_use]
    pub fn shown(&self) -> Shown {
        match self.clone() {
            Self::Header { name, template, .. } => Shown::Header { name, template },
            Self::Basic { username, .. } => Shown::Basic { username },
            Self::Sigv4 { service, region, access_key_id, .. } => Shown::Sigv4 { service, region, access_key_id },
            Self::Role { service, region, role_arn } => Shown::Role { service, region, role_arn },
            Self::Oauth { token_url, client_id, scope, refresh_token, .. } => {
                Shown::Oauth { token_url, client_id, scope, refreshes: refresh_token.is_some() }
            }
        }
    }

    /// What is wrong with it; no message repeats a secret.
    pub(crate) fn problems(&self, roles: &[String]) -> Vec<Problem> {
        let mut problems = Problems::default();
        let mut text = |place: &str, text: &str| {
            let fits = (1..=LONGEST_TEXT).contains(&text.len()) && text.bytes().all(|b| (b' '..=b'~').contains(&b));
            problems.require(fits, place, format!("must have 1 to {LONGEST_TEXT} visible ASCII characters"));
        };
        match self {
            Self::Header { name, template, .. } => {
                text("auth.name", name);
                text("auth.template", template.as_deref().unwrap_or("{}"));
            }
            Self::Basic { username, .. } => text("auth.username", username),
            Self::Sigv4 { service, region, access_key_id, .. } => {
                text("auth.service", service);
                text("auth.region", region);
                text("auth.access_key_id", access_key_id);
            }
            Self::Role { service, region, role_arn } => {
                text("auth.service", service);
                text("auth.region", region);
                text("auth.role_arn", role_arn);
            }
            Self::Oauth { token_url, client_id, scope, .. } => {
                text("auth.token_url", token_url);
                text("auth.client_id", client_id);
                text("auth.scope", scope.as_deref().unwrap_or("x"));
            }
        }
        for (place, secret) in self.secrets() {
            let fits = (1..=LONGEST_SECRET).contains(&secret.reveal().len())
                && secret.reveal().bytes().all(|b| (b' '..=b'~').contains(&b));
            problems.require(fits, place, format!("must have 1 to {LONGEST_SECRET} visible ASCII characters"));
        }
        match self {
            Self::Header { name, template, .. } => {
                let is_name = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
                problems.require(is_name, "auth.name", "must be the name of a header");
                let once = template.as_deref().unwrap_or("{}").matches("{}").count() == 1;
                problems.require(once, "auth.template", "must contain {} once, which stands for the secret");
            }
            Self::Basic { username, .. } => {
                problems.require(!username.contains(':'), "auth.username", "must have no colon (RFC 7617)");
            }
            Self::Sigv4 { service, region, .. } | Self::Role { service, region, .. } => {
                let word = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
                problems.require(word(service), "auth.service", "must be letters, digits and hyphens");
                problems.require(word(region), "auth.region", "must be letters, digits and hyphens");
            }
            Self::Oauth { token_url, client_secret, refresh_token, .. } => {
                let plain = https_host(token_url).is_some();
                let accepted = "must be an https address without user, password and fragment";
                problems.require(plain, "auth.token_url", accepted);
                let grant = client_secret.is_some() || refresh_token.is_some();
                problems.require(grant, "auth", "needs a client_secret, a refresh_token, or both");
            }
        }
        if let Self::Role { role_arn, .. } = self {
            let listed = roles.contains(role_arn);
            problems.require(listed, "auth.role_arn", "is not in the operator's list of roles (VAULT_ROLES)");
        }
        problems.0
    }

    fn secrets(&self) -> Vec<(&'static str, &Secret)> {
        match self {
            Self::Header { secret, .. } => vec![("auth.secret", secret)],
            Self::Basic { password, .. } => vec![("auth.password", password)],
            Self::Sigv4 { secret_access_key, session_token, .. } => {
                let token = session_token.iter().map(|token| ("auth.session_token", token));
                std::iter::once(("auth.secret_access_key", secret_access_key)).chain(token).collect()
            }
            Self::Role { .. } => Vec::new(),
            Self::Oauth { client_secret, refresh_token, .. } => {
                let secret = client_secret.iter().map(|secret| ("auth.client_secret", secret));
                secret.chain(refresh_token.iter().map(|token| ("auth.refresh_token", token))).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn auth(json: serde_json::Value) -> Auth {
        serde_json::from_value(json).expect("a credential")
    }

    fn all() -> Vec<Auth> {
        vec![
            auth(json!({"type": "header", "name": "X-Key", "template": "Bearer {}", "secret": "hunter2"})),
            auth(json!({"type": "basic", "username": "u", "password": "hunter2"})),
            auth(json!({"type": "sigv4", "service": "s3", "region": "r-1", "access_key_id": "A",
                "secret_access_key": "hunter2", "session_token": "hunter2"})),
            auth(json!({"type": "role", "service": "s3", "region": "r-1", "role_arn": "arn:aws:iam::1:role/r"})),
            auth(json!({"type": "oauth", "token_url": "https://id.example/token", "client_id": "c",
                "client_secret": "hunter2", "refresh_token": "hunter2"})),
        ]
    }

    #[test]
    fn no_kind_shows_its_secret() {
        for auth in all() {
            let shown = serde_json::to_string(&auth.shown()).expect("JSON");
            assert!(!shown.contains("hunter2") && !format!("{auth:?}").contains("hunter2"), "{shown}");
            assert_eq!(auth.problems(&["arn:aws:iam::1:role/r".into()]), []);
            // What is sealed is the whole.
            let sealed = serde_json::to_value(&auth).expect("JSON");
            assert_eq!(serde_json::from_value::<Auth>(sealed).expect("a credential"), auth);
        }
    }

    #[test]
    fn what_is_wrong_is_told_without_the_secret() {
        for (wrong, place) in [
            (json!({"type": "header", "name": "X Key", "secret": "hunter2"}), "auth.name"),
            (json!({"type": "header", "name": "X", "template": "Bearer", "secret": "hunter2"}), "auth.template"),
            (json!({"type": "header", "name": "X", "secret": "hunter2\r\nX: y"}), "auth.secret"),
            (json!({"type": "header", "name": "X", "secret": ""}), "auth.secret"),
            (json!({"type": "basic", "username": "a:b", "password": "hunter2"}), "auth.username"),
            (json!({"type": "role", "service": "s3", "region": "r", "role_arn": "arn:other"}), "auth.role_arn"),
            (
                json!({"type": "oauth", "token_url": "http://id.example/", "client_id": "c", "client_secret": "hunter2"}),
                "auth.token_url",
            ),
            (json!({"type": "oauth", "token_url": "https://id.example/", "client_id": "c"}), "auth"),
        ] {
            let problems = auth(wrong.clone()).problems(&[]);
            assert!(problems.iter().any(|problem| problem.place == place), "{wrong}: {problems:?}");
            assert!(!format!("{problems:?}").contains("hunter2"));
        }
        let text = |field: &str, length: usize| {
            let mut fields = json!({"type": "sigv4", "service": "s3", "region": "r", "access_key_id": "A",
                "secret_access_key": "hunter2"});
            fields[field] = json!("a".repeat(length));
            auth(fields).problems(&[]).len()
        };
        for (field, longest) in [
            ("service", LONGEST_TEXT),
            ("region", LONGEST_TEXT),
            ("access_key_id", LONGEST_TEXT),
            ("secret_access_key", LONGEST_SECRET),
            ("session_token", LONGEST_SECRET),
        ] {
            assert_eq!([1, longest, longest + 1, 0].map(|length| text(field, length)), [0, 0, 1, 1], "{field}");
        }
        let unknown = json!({"type": "basic", "username": "u", "password": "hunter2", "color": 1});
        assert!(serde_json::from_value::<Auth>(unknown).is_err());
    }
}
