//! The configuration. All of it is parsed and checked before anything is bound or started.
//!
//! This module is above all other parts of the server: it reads the environment and the file into the settings types that the
//! parts own, and no part imports it. Each file reads the settings of one concern from a `Reader`, which implements the
//! precedence (environment, file, default), records the effective settings for printing, and collects all errors.

mod egress;
mod reader;
mod rooms;
mod service;
mod storage;
mod units;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use nagaya_workspace::state::{Embedded, PoolSize, Redis, State};

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
    /// Egress proxy of the workspaces.
    pub egress: nagaya_egress::Settings,
    /// `AWS_REGION`: the default region of model calls, and the region of the bucket.
    pub region: String,
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
        let rooms = Rooms::read(&mut reader);
        let (egress, region) = egress::read(&mut reader);
        let settings = reader.finish()?;
        Ok(Self { service, storage, rooms, egress, region, settings })
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

    #[test]
    fn keys_are_required_beyond_loopback_and_in_production() {
        assert!(errors(&[("BIND_ADDR", "0.0.0.0:8000")], None).contains("API_KEYS"));
        assert!(errors(&[("APP_ENV", "production")], None).contains("API_KEYS"));
        parse(&[("APP_ENV", "production"), ("API_KEYS", "0123456789abcdef"), ("BIND_ADDR", "0.0.0.0:1")], None)
            .expect("valid");
    }
}
