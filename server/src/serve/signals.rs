//! Signals that end the server, or make it reopen its files.

use std::fs::File;
use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM, SIGINT and SIGHUP, from the moment this is created.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    /// Whether the server was started from a terminal.
    has_terminal: bool,
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// To stop; with the signal's name.
    Stop(&'static str),
    /// To reopen files.
    Reload,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            has_terminal: terminal_is_open(),
        })
    }

    /// The next signal.
    pub(super) async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Asked::Stop("SIGINT"),
            // The kernel sends it when the terminal is closed; anybody else sends it to have files reopened.
            _ = self.hangup.recv() => match self.has_terminal && !terminal_is_open() {
                true => Asked::Stop("SIGHUP, because its terminal was closed"),
                false => Asked::Reload,
            },
        }
    }

    /// The name of the next signal that asks the server to stop. `reload` is called for others.
    pub(super) async fn stop(&mut self, reload: impl Fn()) -> &'static str {
        loop {
            match self.next().await {
                Asked::Stop(signal) => return signal,
                Asked::Reload => reload(),
            }
        }
    }
}

/// Whether the process has a controlling terminal. It cannot be opened once it is closed (tty(4): ENXIO).
fn terminal_is_open() -> bool {
    File::open("/dev/tty").is_ok()
}
