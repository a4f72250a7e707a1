//! The log: one line per event, on standard error.

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

/// What a line looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object.
    Json,
    /// For a person.
    Text,
    /// [`LogFormat::Text`] on a terminal, else [`LogFormat::Json`].
    Auto,
}

/// How the log is written.
#[derive(Debug, Clone, Copy)]
pub struct LogSettings {
    /// What is written at all.
    pub level: LevelFilter,
    /// How it looks.
    pub format: LogFormat,
}

/// Starts the log of this process. Libraries are heard from `warn` up, so that `debug` stays readable.
pub fn start(settings: LogSettings) {
    let level = settings.level;
    let libraries = level.min(LevelFilter::WARN);
    let filter = EnvFilter::new(format!("{libraries},nagaya_server={level},nagaya_egress={level}"));
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
