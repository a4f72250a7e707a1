//! The configuration. All of it is parsed and checked before anything is bound or started.
//!
//! This module is above all other parts of the server: it reads the environment and the file into the settings types that the
//! parts own, and no part imports it. Each file reads the settings of one concern from a `Reader`, which implements the
//! precedence (environment, file, default), records the effective settings for printing, and collects all errors.

mod driver;
mod egress;
mod oidc;
mod reader;
mod rooms;
mod service;
mod storage;
mod tenancy;
mod units;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use nagaya_workspace::state::{Embedded, PoolSize, Redis, State};

use crate::providers::Providers;
pub use driver::Drivers;
pub use reader::{ConfigError, Setting, Source};
pub use rooms::Rooms;
pub use service::Service;
pub use storage::Storage;

/// The complete, valid configuration of the server.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address, keys, logs and shutdown.
    pub service: Service,
    /// Database, shared state, audit trail and bucket.
    pub storage: Storage,
    /// Container engine, workspaces and warm pool.
    pub rooms: Rooms,
    /// Drivers of conversations.
    pub drivers: Drivers,
    /// Egress proxy of the workspaces.
    pub egress: nagaya_egress::Settings,
    /// What tenants may decide.
    pub tenancy: crate::tenancy::Settings,
    /// Where models are called; its region (`AWS_REGION`) is also that of the bucket.
    pub providers: Providers,
    /// Every effective setting as text, with its source.
    pub settings: Vec<Setting>,
}

impl Config {
    /// Reads the process's environment and, if given, the TOML file.
    ///
    /// # Errors
    /// All errors at once, each with the setting, its value (unless it is a secret) and what is accepted.
    pub fn load(file: Option<&Path>) -> Result<Self, Vec<ConfigError>> {
        let text = file
            .map(|path| {
                std::fs::read_to_string(path)
                    .map_err(|error| vec![ConfigError::new(format!("--config {}: {error}", path.display()))])
            })
            .transpose()?;
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self::parse(environment, text.as_deref())
    }

    /// Names of the settings whose values differ.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<&'static str> {
        let pairs = self.settings.iter().zip(&other.settings);
        pairs.filter(|(one, other)| !one.is_same(other)).map(|(one, _)| one.name).collect()
    }

    /// Variables of workspaces' containers for a driver that is started there by hand, each as `NAME=value`.
    #[must_use]
    pub fn driver_environment(&self) -> Vec<String> {
        let variables = self.drivers.kind.driver().by_hand(&self.providers.first());
        variables.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    /// The pool's size that was set by `PUT /api/admin/pool` and takes precedence over the configured one; `None` where none was, or
    /// where it cannot be read.
    pub async fn pool_set_by_api(&self) -> Option<PoolSize> {
        let Some(address) = self.storage.redis.clone() else {
            return Embedded::pool_in(&self.storage.state_dir.join("workspaces.sqlite")).await;
        };
        let deployment = match &self.storage.deployment_id {
            Some(id) => id.clone(),
            None => std::fs::read_to_string(self.storage.state_dir.join("deployment-id")).ok()?.trim().to_owned(),
        };
        Redis::new(address, &deployment, Duration::ZERO).ok()?.pool().await.ok()?
    }

    /// Reads the given environment and the text of a TOML file.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(environment: BTreeMap<String, String>, toml: Option<&str>) -> Result<Self, Vec<ConfigError>> {
        let home = environment.get("HOME").filter(|home| home.starts_with('/')).cloned();
        let mut reader = reader::Reader::new(environment, toml);
        let service = Service::read(&mut reader);
        let storage = Storage::read(&mut reader, home.as_deref());
        let (rooms, drivers) = Rooms::read(&mut reader);
        let (egress, providers) = egress::read(&mut reader, home.as_deref(), rooms.model_idle);
        let tenancy = tenancy::read(&mut reader, &rooms, &providers);
        let settings = reader.finish()?;
        Ok(Self { service, storage, rooms, drivers, egress, providers, tenancy, settings })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn parse(pairs: &[(&str, &str)], toml: Option<&str>) -> Result<Config, Vec<ConfigError>> {
        Config::parse(pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(), toml)
    }

    fn errors(pairs: &[(&str, &str)], toml: Option<&str>) -> String {
        let errors = parse(pairs, toml).expect_err("must be rejected");
        errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn an_empty_environment_is_valid() {
        let config = parse(&[], None).expect("an empty environment is valid");
        assert_eq!(config.rooms.settings.gc_interval.as_secs(), 60);
        assert_eq!(config.rooms.socket_base, Path::new("/var/run/workspace-sockets"));
        assert_eq!(config.rooms.socket_host_base, config.rooms.socket_base);
    }

    #[test]
    fn settings_accept_what_is_documented_and_nothing_beyond() {
        for (name, accepted, refused) in [
            (
                "CONTAINER_IMAGES",
                &["a=b", "a=b, 0.x_y-z=c:1"][..],
                &["a", "A=b", "a=", "a=b,a=c", "default=b", ".a=b"][..],
            ),
            ("LOG_RETENTION", &["1ms", "9999h"], &["0", "1y"]),
            ("LOG_MAX_BYTES", &["1", "1g"], &["0", "1t"]),
            ("S3_WORKSPACE_PREFIX", &["a/", "a/b_c.d"], &["/", "a//b", "a/../b", "a b/"]),
            ("AWS_REGION", &["eu-central-1"], &["EU", "a b", "-a"]),
            ("MODEL_PROVIDER_TOOLS", &["web_search", "a, b"], &["Web Search"]),
            ("VAULT_ROLES", &["arn:aws:iam::1:role/a"], &["a", "arn:aws:iam::1:user/a"]),
            ("PROXY_NAME_SERVERS", &["10.0.0.53", "10.0.0.53:5353, [fd00::53]:53"], &["a.example", "10.0.0.53:0x"]),
            ("PROXY_OPAQUE_TUNNELS", &["a.example:8443"], &["http://a"]),
        ] {
            for value in accepted {
                assert!(parse(&[(name, value)], None).is_ok(), "{name}={value}");
            }
            for value in refused {
                assert!(errors(&[(name, value)], None).contains(name), "{name}={value}");
            }
        }
    }

    #[test]
    fn all_errors_are_reported_at_once_and_contain_no_secret() {
        let message = errors(
            &[("CONTAINER_GC_INTERVAL", "0"), ("BIND_ADDR", "here"), ("API_KEYS", "hunter2"), ("APP_ENV", "prod")],
            Some("container_ttl = -1\nno_such = 3\n"),
        );
        for part in
            ["CONTAINER_GC_INTERVAL=\"0\"", "BIND_ADDR=\"here\"", "API_KEYS", "APP_ENV", "CONTAINER_TTL", "no_such"]
        {
            assert!(message.contains(part), "{part} in {message}");
        }
        assert!(!message.contains("hunter2"), "{message}");
        let message = errors(&[("PROXY_CREDENTIALS", "a.example=header:X-Key:hunter2")], None);
        assert!(message.contains("PROXY_CREDENTIALS: rule 1") && !message.contains("hunter2"), "{message}");
    }

    #[test]
    fn the_environment_overrides_the_file_and_the_file_the_default() {
        let config = parse(&[("CONTAINER_TTL", "5")], Some("container_ttl = 7\ncontainer_gc_interval = \"2m\"\n"))
            .expect("valid");
        assert_eq!((config.rooms.settings.ttl.as_secs(), config.rooms.settings.gc_interval.as_secs()), (5, 120));
        let source = |name| config.settings.iter().find(|s| s.name == name).map(|s| s.source);
        assert_eq!(source("CONTAINER_TTL"), Some(Source::Environment));
        assert_eq!(source("CONTAINER_GC_INTERVAL"), Some(Source::File));
        assert_eq!(source("CONTAINER_IMAGE"), Some(Source::Default));
    }

    #[test]
    fn settings_that_differ_are_named_secrets_included() {
        let started = parse(&[("CONTAINER_TTL", "5")], Some("api_keys = \"0123456789abcdef\"")).expect("valid");
        let newer = "api_keys = \"fedcba9876543210\"\ncontainer_ttl = 9\nlog_level = \"debug\"";
        let newer = parse(&[("CONTAINER_TTL", "5")], Some(newer)).expect("valid");
        assert_eq!(started.differences(&newer), ["API_KEYS", "LOG_LEVEL"], "the environment overrides the file");
        assert_eq!(started.differences(&started), Vec::<&str>::new());
        assert!(!format!("{:?}", newer.settings).contains("fedcba"));
    }

    #[test]
    fn a_socket_path_that_is_too_long_for_the_kernel_is_rejected_with_the_limit() {
        let long = format!("/{}", "a".repeat(90));
        let message = errors(&[("WORKSPACE_SOCKET_BASE_PATH", &long)], None);
        assert!(message.contains("107"), "{message}");
    }

    /// Compares the first column of the tables in docs/configuration.md with the settings that are read.
    #[test]
    fn the_docs_list_exactly_the_settings_that_exist() {
        let rows = include_str!("../../../docs/configuration.md").lines().filter(|line| line.starts_with("| `"));
        let first = rows.filter_map(|row| row.split('|').nth(1));
        let is_name = |name: &str| name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
        let documented: BTreeSet<&str> =
            first.flat_map(|cell| cell.split('`')).filter(|part| part.len() > 1 && is_name(part)).collect();
        let config = parse(&[], None).expect("valid");
        let existing: BTreeSet<&str> = config.settings.iter().map(|setting| setting.name).collect();
        let missing: Vec<_> = existing.difference(&documented).collect();
        let unknown: Vec<_> = documented.difference(&existing).collect();
        assert!(
            missing.is_empty() && unknown.is_empty(),
            "not in docs/configuration.md: {missing:?}; only there: {unknown:?}"
        );
    }

    fn value(config: &Config, name: &str) -> String {
        config
            .settings
            .iter()
            .find(|setting| setting.name == name)
            .map(|setting| setting.value.clone())
            .unwrap_or_default()
    }

    #[test]
    fn a_key_of_anthropic_alone_is_enough_and_asks_for_nothing_of_aws() {
        let config = parse(&[("ANTHROPIC_API_KEY", "hunter2")], None).expect("valid");
        assert_eq!(value(&config, "MODEL_PROVIDERS"), "anthropic");
        assert!(!config.egress.credentials.need_aws() && !config.providers.bedrock);
        assert_eq!(value(&config, "PROXY_ALLOWED_DOMAINS"), "api.anthropic.com");
        assert_eq!(config.egress.gateway.as_deref(), Some("api.anthropic.com"));
        assert!(config.settings.iter().all(|setting| !setting.value.contains("hunter2")));
        for aws in [("AWS_REGION", "eu-west-1"), ("AWS_PROFILE", "work"), ("AWS_ACCESS_KEY_ID", "AKID")] {
            let both = parse(&[("ANTHROPIC_API_KEY", "hunter2"), aws], None).expect("valid");
            assert_eq!(value(&both, "MODEL_PROVIDERS"), "bedrock,anthropic", "{aws:?}");
            assert!(both.egress.credentials.need_aws() && both.providers.anthropic.is_some());
            assert!(value(&both, "PROXY_ALLOWED_DOMAINS").ends_with(".amazonaws.com,api.anthropic.com"));
        }
        let neither = parse(&[], None).expect("valid");
        assert!(neither.providers.bedrock && neither.providers.anthropic.is_none());
        let told = parse(&[("MODEL_PROVIDERS", "bedrock"), ("ANTHROPIC_API_KEY", "hunter2")], None).expect("valid");
        assert!(told.providers.anthropic.is_none() && !value(&told, "PROXY_ALLOWED_DOMAINS").contains("anthropic"));
    }

    #[test]
    fn a_gateway_has_a_host_and_a_credential() {
        let url = ("ANTHROPIC_BASE_URL", "https://gw.example:8443/llm/");
        let config = parse(&[url, ("ANTHROPIC_AUTH_TOKEN", "hunter2")], None).expect("valid");
        assert_eq!(value(&config, "PROXY_ALLOWED_DOMAINS"), "gw.example:8443");
        assert_eq!(
            config.providers.anthropic.map(|endpoint| endpoint.to_string()).as_deref(),
            Some("https://gw.example:8443/llm")
        );
        assert_eq!(config.egress.gateway, None);
        let rule =
            ("PROXY_CREDENTIALS", "*.other.example=header:a:env:B,*.example=header:authorization:file:/etc/token");
        parse(&[url, rule], None).expect("a rule is a credential, too");

        let alone = errors(&[url], None);
        assert!(alone.contains("https://gw.example:8443/llm needs a credential: set ANTHROPIC_API_KEY"), "{alone}");
        let rule = ("PROXY_CREDENTIALS", "*.other.example=header:authorization:file:/etc/token");
        assert!(errors(&[url, rule], None).contains("a rule for gw.example"));
        assert!(errors(&[("MODEL_PROVIDERS", "anthropic")], None).contains("ANTHROPIC_API_KEY"));
        assert!(errors(&[("MODEL_PROVIDERS", "vertex")], None).contains("bedrock, anthropic"));
        let both = errors(&[("ANTHROPIC_API_KEY", "hunter2"), ("ANTHROPIC_AUTH_TOKEN", "hunter3")], None);
        assert!(both.contains("set one of them") && !both.contains("hunter"), "{both}");
        for bad in ["http://gw.example", "https://user:hunter2@gw.example", "https://*.example", "https://a..example"] {
            let told = errors(&[("ANTHROPIC_BASE_URL", bad), ("ANTHROPIC_API_KEY", "k")], None);
            assert!(
                told.contains("ANTHROPIC_BASE_URL") && told.contains("accepted") && !told.contains("hunter2"),
                "{told}"
            );
        }
    }

    #[test]
    fn keys_are_required_beyond_loopback_and_in_production() {
        assert!(errors(&[("BIND_ADDR", "0.0.0.0:8000")], None).contains("API_KEYS"));
        assert!(errors(&[("APP_ENV", "production")], None).contains("API_KEYS"));
        parse(&[("APP_ENV", "production"), ("API_KEYS", "0123456789abcdef"), ("BIND_ADDR", "0.0.0.0:1")], None)
            .expect("valid");
    }
}
