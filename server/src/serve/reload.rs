//! What SIGHUP asks for: files are opened or read again, and what cannot take effect is named.

use std::path::PathBuf;
use std::sync::Arc;

use nagaya_telemetry::audit::Audit;
use nagaya_telemetry::logs::Verbosity;

use crate::config::Config;

/// The one setting that takes effect while the server runs.
const LOG_LEVEL: &str = "LOG_LEVEL";

/// What SIGHUP reloads.
pub(super) struct Reload {
    /// The file given with `--config`.
    pub(super) file: Option<PathBuf>,
    /// The configuration that the server was started with.
    pub(super) started: Config,
    pub(super) audit: Arc<Audit>,
    pub(super) verbosity: Verbosity,
}

impl Reload {
    /// Opens the audit trail again, and reads the configuration file. Files named in `PROXY_CREDENTIALS` are read whenever they are needed.
    pub(super) fn run(&self) {
        match self.audit.reopen() {
            Ok(()) => tracing::info!("SIGHUP: the audit trail is opened again"),
            Err(error) => tracing::error!(%error, "SIGHUP: AUDIT_LOG cannot be opened again; the open file is used"),
        }
        let Some(file) = &self.file else {
            tracing::info!(
                "SIGHUP: there is no configuration file (--config), and the environment of a process does not change: other settings \
                 need a restart"
            );
            return;
        };
        match Config::load(Some(file)) {
            Ok(config) => self.apply(&config),
            Err(errors) => errors.iter().for_each(|error| {
                tracing::error!(%error, "SIGHUP: the configuration file is invalid; nothing of it is applied");
            }),
        }
    }

    fn apply(&self, config: &Config) {
        let level = config.service.logs.level;
        match self.verbosity.set(level) {
            Ok(()) => tracing::info!(%level, "SIGHUP: the configuration file is read again; LOG_LEVEL is applied"),
            Err(error) => tracing::error!(%error, "SIGHUP: LOG_LEVEL is not applied"),
        }
        let waiting: Vec<&str> =
            self.started.differences(config).into_iter().filter(|name| *name != LOG_LEVEL).collect();
        if !waiting.is_empty() {
            let settings = waiting.join(", ");
            tracing::warn!(settings, "SIGHUP: these settings have changed and are not applied: they need a restart");
        }
    }
}
