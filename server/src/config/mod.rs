//! The configuration. All of it is parsed and checked before anything is bound or started.
//!
//! This module is on top of every part of the server: it reads the environment and the file into the settings types that the
//! parts own, and no part imports it. One file per concern; each reads from a [`reader::Reader`], which knows the precedence
//! (environment, file, default), keeps what is needed to print the effective settings, and collects every fault.

mod egress;
mod reader;
mod rooms;
mod service;
mod storage;
mod units;

use std::collections::BTreeMap;
use std::path::Path;

pub use reader::{Fault, Setting, Source};
pub use rooms::Rooms;
pub use service::Service;
pub use storage::Storage;

/// Everything the server was told.
#[derive(Debug, Clone)]
pub struct Config {
    /// Clients, keys, logs, shutdown.
    pub service: Service,
    /// What is kept, and where.
    pub storage: Storage,
    /// Rooms.
    pub rooms: Rooms,
    /// The way out of the rooms.
    pub egress: nagaya_egress::Settings,
    /// `AWS_REGION`: the default region of model calls, and that of the bucket.
    pub region: String,
    /// The same, for print: one line per setting.
    pub settings: Vec<Setting>,
}

impl Config {
    /// Reads the process's environment and the file, if one is named.
    ///
    /// # Errors
    /// All faults found, each with what is accepted.
    pub fn load(file: Option<&Path>) -> Result<Self, Vec<Fault>> {
        let text = file
            .map(|path| {
                std::fs::read_to_string(path)
                    .map_err(|error| vec![Fault::new(format!("--config {}: {error}", path.display()))])
            })
            .transpose()?;
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self::parse(environment, text.as_deref())
    }

    /// Reads a given environment and the text of a file.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(environment: BTreeMap<String, String>, toml: Option<&str>) -> Result<Self, Vec<Fault>> {
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

    fn parse(pairs: &[(&str, &str)], toml: Option<&str>) -> Result<Config, Vec<Fault>> {
        Config::parse(pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(), toml)
    }

    fn faults(pairs: &[(&str, &str)], toml: Option<&str>) -> String {
        let faults = parse(pairs, toml).expect_err("must be refused");
        faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn nothing_set_is_enough() {
        let config = parse(&[], None).expect("an empty environment is valid");
        assert_eq!(config.rooms.settings.gc_interval.as_secs(), 60);
        assert_eq!(config.rooms.socket_base, Path::new("/var/run/workspace-sockets"));
        assert_eq!(config.rooms.socket_host_base, config.rooms.socket_base);
    }

    #[test]
    fn every_fault_is_told_at_once_and_no_secret_is() {
        let told = faults(
            &[("CONTAINER_GC_INTERVAL", "0"), ("BIND_ADDR", "here"), ("API_KEYS", "hunter2"), ("APP_ENV", "prod")],
            Some("container_ttl = -1\nno_such = 3\n"),
        );
        for part in
            ["CONTAINER_GC_INTERVAL=\"0\"", "BIND_ADDR=\"here\"", "API_KEYS", "APP_ENV", "CONTAINER_TTL", "no_such"]
        {
            assert!(told.contains(part), "{part} in {told}");
        }
        assert!(!told.contains("hunter2"), "{told}");
        let told = faults(&[("PROXY_CREDENTIALS", "a.example=header:X-Key:hunter2")], None);
        assert!(told.contains("PROXY_CREDENTIALS: rule 1") && !told.contains("hunter2"), "{told}");
    }

    #[test]
    fn environment_wins_over_file_and_file_over_default() {
        let config = parse(&[("CONTAINER_TTL", "5")], Some("container_ttl = 7\ncontainer_gc_interval = \"2m\"\n"))
            .expect("valid");
        assert_eq!((config.rooms.settings.ttl.as_secs(), config.rooms.settings.gc_interval.as_secs()), (5, 120));
        let source = |name| config.settings.iter().find(|s| s.name == name).map(|s| s.source);
        assert_eq!(source("CONTAINER_TTL"), Some(Source::Environment));
        assert_eq!(source("CONTAINER_GC_INTERVAL"), Some(Source::File));
        assert_eq!(source("CONTAINER_IMAGE"), Some(Source::Default));
    }

    #[test]
    fn a_socket_path_too_long_for_the_kernel_is_refused_with_the_sum() {
        let long = format!("/{}", "a".repeat(90));
        let told = faults(&[("WORKSPACE_SOCKET_BASE_PATH", &long)], None);
        assert!(told.contains("107"), "{told}");
    }

    /// The first column of the tables in docs/configuration.md, and the settings there are.
    #[test]
    fn every_setting_is_in_the_docs_and_no_other() {
        let rows = include_str!("../../../docs/configuration.md").lines().filter(|line| line.starts_with("| `"));
        let first = rows.filter_map(|row| row.split('|').nth(1));
        let is_name = |name: &str| name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
        let told: BTreeSet<&str> =
            first.flat_map(|cell| cell.split('`')).filter(|part| part.len() > 1 && is_name(part)).collect();
        let config = parse(&[], None).expect("valid");
        let known: BTreeSet<&str> = config.settings.iter().map(|setting| setting.name).collect();
        let missing: Vec<_> = known.difference(&told).collect();
        let unknown: Vec<_> = told.difference(&known).collect();
        assert!(
            missing.is_empty() && unknown.is_empty(),
            "not in docs/configuration.md: {missing:?}; only there: {unknown:?}"
        );
    }

    #[test]
    fn keys_are_required_beyond_loopback_and_in_production() {
        assert!(faults(&[("BIND_ADDR", "0.0.0.0:8000")], None).contains("API_KEYS"));
        assert!(faults(&[("APP_ENV", "production")], None).contains("API_KEYS"));
        parse(&[("APP_ENV", "production"), ("API_KEYS", "0123456789abcdef"), ("BIND_ADDR", "0.0.0.0:1")], None)
            .expect("valid");
    }
}
