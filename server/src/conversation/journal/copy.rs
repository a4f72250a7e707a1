//! A journal's copy in the shared log. While the database does not answer, the run goes on with the file alone, and what is missing is
//! copied from there once it answers.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::Journal;
use super::shared::{Added, SharedError, SharedLog};

/// How long readers wait for the database.
const PATIENCE: Duration = Duration::from_secs(2);
/// Shortest time between two attempts to copy what is missing.
const PAUSE: Duration = Duration::from_secs(1);
/// Bytes that are copied at a time.
const PIECE: usize = 256 * 1024;

/// The copy of one journal.
#[derive(Debug)]
pub(super) struct SharedCopy {
    log: Arc<SharedLog>,
    run_id: String,
    state: Mutex<State>,
    /// Held while what is missing is copied.
    catching_up: tokio::sync::Mutex<()>,
    lost: CancellationToken,
}

#[derive(Debug)]
struct State {
    /// Where the next line to be added begins in the file, and its number from 0.
    next: (u64, u64),
    /// Lines are missing: from `next` on, the file has to be copied.
    behind: bool,
    tried: Option<Instant>,
}

/// Lines on their way to the database. If nobody waits for their arrival, they are copied later.
pub(super) struct Sent<'a> {
    copy: &'a SharedCopy,
    added: Option<Added>,
    from: (u64, u64),
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        if self.added.is_some() {
            self.copy.fall_behind(self.from, "nobody has waited for it");
        }
    }
}

impl Sent<'_> {
    /// Waits until the lines are in the database. If that takes too long, they are copied later.
    pub(super) async fn wait(mut self) {
        let Some(added) = &mut self.added else { return };
        let arrived = tokio::time::timeout(PATIENCE, added.wait()).await;
        self.added = None;
        match arrived {
            Ok(Ok(())) => {}
            Ok(Err(SharedError::Lost)) => self.copy.lose(),
            Ok(Err(error)) => self.copy.fall_behind(self.from, &error.to_string()),
            Err(_) => self.copy.fall_behind(self.from, "it does not answer in time"),
        }
    }
}

impl SharedCopy {
    /// The copy of a new journal, or of one that has `next.1` lines, which end at `next.0` bytes in the file.
    pub(super) fn new(log: Arc<SharedLog>, run_id: String, next: Option<(u64, u64)>) -> Self {
        let state = Mutex::new(State { next: next.unwrap_or_default(), behind: next.is_some(), tried: None });
        Self { log, run_id, state, catching_up: tokio::sync::Mutex::default(), lost: CancellationToken::new() }
    }

    /// Sends lines, in the order of the calls. `in_file` says whether they are in the file.
    pub(super) fn submit(&self, lines: Vec<u8>, in_file: bool) -> Option<Sent<'_>> {
        let mut state = self.state.lock();
        state.behind |= !in_file;
        if state.behind || lines.is_empty() || self.lost.is_cancelled() {
            return None;
        }
        let from = state.next;
        let count = lines.iter().filter(|byte| **byte == b'\n').count();
        state.next = (from.0 + lines.len() as u64, from.1 + count as u64);
        Some(Sent { copy: self, added: Some(self.log.add(&self.run_id, from.1, lines)), from })
    }

    fn fall_behind(&self, from: (u64, u64), why: &str) {
        let mut state = self.state.lock();
        if !std::mem::replace(&mut state.behind, true) {
            tracing::warn!(
                run = self.run_id,
                why,
                "the shared log does not take events; clients are sent them from this server alone"
            );
        }
        state.next = state.next.min(from);
        state.tried = Some(Instant::now());
    }

    fn lose(&self) {
        if !self.lost.is_cancelled() {
            tracing::warn!(run = self.run_id, "another server has taken this run over");
        }
        self.lost.cancel();
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }

    pub(super) async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// Copies what is missing, unless that was tried a moment ago.
    pub(super) async fn catch_up(&self, journal: &Journal) {
        let due = |state: &State| state.behind && state.tried.is_none_or(|tried| tried.elapsed() >= PAUSE);
        if due(&self.state.lock()) && !self.lost.is_cancelled() {
            self.complete(journal).await;
        }
    }

    /// Copies what is missing; `false` if something is missing still.
    pub(super) async fn complete(&self, journal: &Journal) -> bool {
        if !self.state.lock().behind {
            return true;
        }
        let Ok(_only) = self.catching_up.try_lock() else { return false };
        loop {
            let next = {
                let written = journal.inner();
                let mut state = self.state.lock();
                if written.written == state.next.0 && written.pending.is_empty() {
                    state.behind = false;
                    tracing::info!(run = self.run_id, "the shared log has all events of the run again");
                    return true;
                }
                if written.written == state.next.0 {
                    return false;
                }
                state.next
            };
            let copied = match self.piece(journal, next.0) {
                Ok(piece) => {
                    let count = piece.iter().filter(|byte| **byte == b'\n').count();
                    let length = piece.len() as u64;
                    let mut added = self.log.add(&self.run_id, next.1, piece);
                    let added = tokio::time::timeout(PATIENCE, added.wait()).await.unwrap_or(Err(SharedError::Slow));
                    added.map(|()| (next.0 + length, next.1 + count as u64))
                }
                Err(error) => Err(SharedError::Failed(error.to_string())),
            };
            let mut state = self.state.lock();
            match copied {
                Ok(next) => state.next = next,
                Err(error) => {
                    state.tried = Some(Instant::now());
                    drop(state);
                    if matches!(error, SharedError::Lost) {
                        self.lose();
                    }
                    tracing::debug!(run = self.run_id, %error, "the shared log still does not take events");
                    return false;
                }
            }
        }
    }

    /// Complete lines of the file from an offset on: as many as fit, at least one.
    fn piece(&self, journal: &Journal, from: u64) -> io::Result<Vec<u8>> {
        let mut piece = vec![0; PIECE];
        let mut length = 0;
        loop {
            let count = journal.file.read_at(&mut piece[length..], from + length as u64)?;
            length += count;
            if let Some(end) = piece[..length].iter().rposition(|byte| *byte == b'\n') {
                piece.truncate(end + 1);
                return Ok(piece);
            }
            if count == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a line without an end"));
            }
            if length == piece.len() {
                piece.resize(length * 2, 0);
            }
        }
    }
}
