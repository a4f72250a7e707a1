//! The log: one line per event, on standard error.
//!
//! Much of what is logged comes from outside: from clients, from workspaces, from the hosts that they talk to. The formatter escapes
//! whatever could end a line, move a terminal's cursor or reorder text, in every field and message, so that no call site has to.

mod escape;

use std::io::{self, IsTerminal};
use std::{fmt, panic};

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::debug_fn;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

use escape::{Escaped, EscapedJson};

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

/// A crate that warns of frames that a peer sends, each time. Workspaces are such peers, and could fill the log's disk.
const CHATTY: &str = "h2";

/// Changes the log's level while the process runs.
pub struct Verbosity(Box<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>);

impl Verbosity {
    /// Writes lines of this level and above from now on.
    ///
    /// # Errors
    /// The log is gone.
    pub fn set(&self, level: LevelFilter) -> Result<(), reload::Error> {
        (self.0)(filter(level))
    }
}

impl fmt::Debug for Verbosity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verbosity")
    }
}

/// Starts the log of this process, and logs panics in it. Other crates log from `warn` up, so that `debug` stays readable.
pub fn start(settings: LogSettings) -> Verbosity {
    let is_terminal = io::stderr().is_terminal();
    let json = match settings.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !is_terminal,
    };
    let verbosity = if json {
        let (log, verbosity) = as_json(settings.level, io::stderr);
        log.init();
        verbosity
    } else {
        let (log, verbosity) = as_text(settings.level, is_terminal, io::stderr);
        log.init();
        verbosity
    };
    // The standard hook writes the message as it is, and a message may quote what came from outside.
    panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("no message");
        let at = panic.location().map(ToString::to_string);
        let backtrace = std::backtrace::Backtrace::capture();
        let backtrace =
            (backtrace.status() == std::backtrace::BacktraceStatus::Captured).then(|| backtrace.to_string());
        tracing::error!(message, at, backtrace, "the server panicked, because of a bug in it");
    }));
    verbosity
}

fn filter(level: LevelFilter) -> EnvFilter {
    let others = level.min(LevelFilter::WARN);
    let ours = OURS.map(|name| format!(",{name}={level}")).concat();
    EnvFilter::new(format!("{others}{ours},{CHATTY}=off"))
}

fn as_json<W>(level: LevelFilter, writer: W) -> (impl Subscriber + Send + Sync, Verbosity)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt().with_env_filter(filter(level)).with_writer(EscapedJson(writer));
    let builder = builder.json().flatten_event(true).with_current_span(true).with_span_list(false);
    let builder = builder.with_filter_reloading();
    let handle = builder.reload_handle();
    (builder.finish(), Verbosity(Box::new(move |filter| handle.reload(filter))))
}

/// `ansi`: whether to colour the lines.
fn as_text<W>(level: LevelFilter, ansi: bool, writer: W) -> (impl Subscriber + Send + Sync, Verbosity)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    // As the default format writes fields, with the values escaped.
    let fields = debug_fn(|writer, field, value| {
        let value = Escaped(value);
        match field.name() {
            "message" => write!(writer, "{value}"),
            name if writer.has_ansi_escapes() => write!(writer, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m{value}"),
            name => write!(writer, "{name}={value}"),
        }
    });
    let builder = tracing_subscriber::fmt().with_env_filter(filter(level)).with_writer(writer);
    let builder = builder.with_target(false).with_ansi(ansi).fmt_fields(fields.delimited(" ")).with_filter_reloading();
    let handle = builder.reload_handle();
    (builder.finish(), Verbosity(Box::new(move |filter| handle.reload(filter))))
}

#[cfg(test)]
mod tests;
