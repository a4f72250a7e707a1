//! The log: one line per event, on standard error.

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

/// Format of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// Text for people.
    Text,
    /// [`LogFormat::Text`] where standard error is a terminal, else [`LogFormat::Json`].
    Auto,
}

/// Settings of the log.
#[derive(Debug, Clone, Copy)]
pub struct LogSettings {
    /// Least severe level that is written (`LOG_LEVEL`).
    pub level: LevelFilter,
    /// Format of a line (`LOG_FORMAT`).
    pub format: LogFormat,
}

/// Crates of this server, as `tracing` names them in the target of a line.
const OURS: [&str; 5] = ["nagaya", "nagaya_server", "nagaya_workspace", "nagaya_egress", "nagaya_telemetry"];

/// Starts the log of this process. Other crates log from `warn` up, so that `debug` stays readable.
pub fn start(settings: LogSettings) {
    let level = settings.level;
    let others = level.min(LevelFilter::WARN);
    let ours = OURS.map(|name| format!(",{name}={level}")).concat();
    let filter = EnvFilter::new(format!("{others}{ours}"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let json = match settings.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !std::io::stderr().is_terminal(),
    };
    if json {
        builder.json().flatten_event(true).with_current_span(true).with_span_list(false).init();
    } else {
        builder.with_target(false).with_ansi(std::io::stderr().is_terminal()).init();
    }
}
