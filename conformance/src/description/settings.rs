//! Settings: the suite calls them as the contract does, the target may call them otherwise.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

/// Every setting that the suite sets or reads, by the contract's name.
pub const NAMES: &[&str] = &[
    "ALERT_MAIL_TO",
    "ALERT_WEBHOOK_URL",
    "ANTHROPIC_API_KEY",
    "API_KEYS",
    "APPROVAL_TIMEOUT",
    "APP_ENV",
    "AUDIT_LOG",
    "AWS_ACCESS_KEY_ID",
    "AWS_REGION",
    "AWS_SECRET_ACCESS_KEY",
    "BIND_ADDR",
    "CONTAINER_DISK",
    "CONTAINER_EXECUTION_TIMEOUT",
    "CONTAINER_GC_INTERVAL",
    "CONTAINER_GRACE_PERIOD",
    "CONTAINER_IMAGE",
    "CONTAINER_IMAGES",
    "CONTAINER_MAX",
    "CONTAINER_MEMORY",
    "CONTAINER_STARTS",
    "CONTAINER_START_QUEUE",
    "CONTAINER_TTL",
    "CONTAINER_UIDS",
    "DATABASE_URL",
    "DEPLOYMENT_ID",
    "DOCKER_SOCKET_PATH",
    "DRIVER",
    "DRIVER_KEEP_ALIVE",
    "DRIVER_KEEP_ALIVE_MAX",
    "LOG_FORMAT",
    "LOG_LEVEL",
    "MODEL_IDLE_TIMEOUT",
    "MODEL_PROVIDERS",
    "OIDC_AUDIENCE",
    "OIDC_ISSUER",
    "OIDC_SCOPES",
    "OIDC_TENANT_CLAIM",
    "PROXY_ALLOWED_DOMAINS",
    "PROXY_ALLOWED_NETWORKS",
    "PROXY_CREDENTIALS",
    "PROXY_EXTRA_CA_FILE",
    "PROXY_RESOLVE",
    "RATE_LIMIT_PERIOD",
    "RATE_LIMIT_REQUESTS",
    "REDIS_URL",
    "S3_BUCKET_NAME",
    "S3_ENDPOINT_URL",
    "S3_SYNC_TIMEOUT",
    "SHUTDOWN_TIMEOUT",
    "SHUTDOWN_WORKSPACES",
    "STATE_DIR",
    "VAULT_KEY_FILE",
    "VAULT_OLD_KEY_FILES",
    "WARM_POOL_MAX_SIZE",
    "WARM_POOL_MIN_SIZE",
    "WARM_POOL_MODEL",
    "WORKSPACE_SOCKET_BASE_PATH",
    "WORKSPACE_SOCKET_HOST_PATH",
];

/// How the target is configured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    names: Arc<BTreeMap<String, String>>,
    fixed: Arc<BTreeMap<String, String>>,
    file_keys: Arc<BTreeMap<String, String>>,
}

impl Settings {
    /// With these names of the target's, and these variables in every environment.
    #[must_use]
    pub fn new(names: BTreeMap<String, String>, fixed: BTreeMap<String, String>) -> Self {
        Self { names: Arc::new(names), fixed: Arc::new(fixed), file_keys: Arc::default() }
    }

    /// The same with these keys in a file of settings.
    #[must_use]
    pub fn with_file_keys(self, file_keys: BTreeMap<String, String>) -> Self {
        Self { file_keys: Arc::new(file_keys), ..self }
    }

    /// A file of settings (TOML) in the target's words. Settings that it does not have are left out.
    #[must_use]
    pub fn file(&self, settings: &[(&str, toml::Value)]) -> String {
        let key = |name: &str| {
            let named = self.file_keys.get(name).cloned();
            named.or_else(|| Some(self.name(name)?.to_lowercase())).filter(|key| !key.is_empty())
        };
        settings.iter().filter_map(|(name, value)| Some(format!("{} = {value}\n", key(name)?))).collect()
    }

    /// The target's name of a setting; `None` if it has no such setting.
    #[must_use]
    pub fn name<'n>(&'n self, name: &'n str) -> Option<&'n str> {
        Some(self.names.get(name).map_or(name, String::as_str)).filter(|name| !name.is_empty())
    }

    /// An environment in the target's words. Settings that it does not have are left out.
    #[must_use]
    pub fn environment(&self, env: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let named = env.iter().filter_map(|(name, value)| Some((self.name(name)?.to_owned(), value.clone())));
        self.fixed.iter().map(|(name, value)| (name.clone(), value.clone())).chain(named).collect()
    }

    /// What the target printed, with the contract's names of settings.
    #[must_use]
    pub fn in_contract_words(&self, text: &str) -> String {
        // The longest first: one name may be part of another.
        let mut pairs: Vec<_> = self.names.iter().filter(|(_, theirs)| !theirs.is_empty()).collect();
        pairs.sort_by_key(|(_, theirs)| std::cmp::Reverse(theirs.len()));
        pairs.into_iter().fold(text.to_owned(), |text, (ours, theirs)| text.replace(theirs.as_str(), ours))
    }

    /// A printed configuration with the contract's names.
    #[must_use]
    pub fn in_contract_names(&self, config: Value) -> Value {
        let ours = |name: String| {
            let found = self.names.iter().find(|(_, theirs)| **theirs == name);
            found.map_or(name, |(ours, _)| ours.clone())
        };
        match config {
            Value::Object(fields) => {
                let renamed = fields.into_iter().map(|(key, value)| match (key.as_str(), value) {
                    ("name", Value::String(name)) => (key, Value::String(ours(name))),
                    (_, value) => (ours(key), self.in_contract_names(value)),
                });
                Value::Object(renamed.collect())
            }
            Value::Array(items) => Value::Array(items.into_iter().map(|item| self.in_contract_names(item)).collect()),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn names_are_translated_for_the_target_and_back() {
        let names = map(&[("BIND_ADDR", "LISTEN"), ("STATE_DIR", "LISTEN_DIR"), ("AUDIT_LOG", "")]);
        let settings = Settings::new(names, map(&[("LANG", "C")]));
        let asked = map(&[("BIND_ADDR", "a"), ("STATE_DIR", "b"), ("AUDIT_LOG", "c"), ("HOME", "/h")]);
        let given = map(&[("LISTEN", "a"), ("LISTEN_DIR", "b"), ("HOME", "/h"), ("LANG", "C")]);
        assert_eq!(settings.environment(&asked), given);
        assert_eq!((settings.name("AUDIT_LOG"), settings.name("REDIS_URL")), (None, Some("REDIS_URL")));
        assert_eq!(settings.in_contract_words("LISTEN_DIR=1, LISTEN=2"), "STATE_DIR=1, BIND_ADDR=2");
        let values = [("BIND_ADDR", "a".into()), ("STATE_DIR", 1.into()), ("AUDIT_LOG", "c".into())];
        assert_eq!(settings.file(&values), "listen = \"a\"\nlisten_dir = 1\n");
        let settings = settings.with_file_keys(map(&[("BIND_ADDR", "server.listen")]));
        assert_eq!(settings.file(&values), "server.listen = \"a\"\nlisten_dir = 1\n");
        let config = json!({"settings": [{"name": "LISTEN", "value": "LISTEN"}], "LISTEN_DIR": 1});
        let ours = json!({"settings": [{"name": "BIND_ADDR", "value": "LISTEN"}], "STATE_DIR": 1});
        assert_eq!(settings.in_contract_names(config), ours);
    }
}
