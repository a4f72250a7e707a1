//! The driver's own memory of the conversation: what it reports of it is stored as it grows, and given to another workspace's driver.

use bytes::Bytes;
use tokio::time::{Duration, Instant};

use super::Run;
use crate::conversation::store::StoreError;
use nagaya_workspace::Lease;
use nagaya_workspace::agent::AgentError;

/// Bytes that are stored at once, and the longest time that fewer wait while others arrive.
const AT_ONCE: usize = 256 * 1024;
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// How long a workspace may take to get the driver's memory. Others wait for their turn meanwhile.
const WRITE_DEADLINE: Duration = Duration::from_secs(60);
/// How long a run goes on after a failed attempt before there is another: an attempt may take many seconds, in which clients see nothing.
const AFTER_FAILURE: Duration = Duration::from_secs(30);
/// Bytes that may wait for a database that does not answer. With more, the transcript has a gap and is forgotten.
const MOST_WAITING: usize = 32 << 20;
/// Files of which lines may wait: those of the session and of its sub-agents.
const MOST_PARTS: usize = 100;

/// What the driver has reported of its transcript and the database does not have yet.
#[derive(Debug, Default)]
pub(super) struct Unstored {
    parts: Vec<(String, String)>,
    bytes: usize,
    /// When something was stored last, and when that failed.
    stored: Option<Instant>,
    failed: Option<Instant>,
    /// Something was left out.
    gap: bool,
}

impl Unstored {
    /// Adds lines of a file.
    pub(super) fn add(&mut self, file: String, lines: String) {
        if lines.is_empty() {
            return;
        }
        self.bytes += file.len() + lines.len();
        if self.bytes > MOST_WAITING || self.parts.len() > MOST_PARTS {
            (self.parts, self.bytes, self.gap) = (Vec::new(), 0, true);
        }
        if self.gap {
            return;
        }
        // The order counts within each file alone.
        match self.parts.iter_mut().find(|(other, _)| *other == file) {
            Some((_, before)) => before.push_str(&lines),
            None => self.parts.push((file, lines)),
        }
    }

    fn is_due(&self) -> bool {
        let waited = self.stored.is_none_or(|stored| stored.elapsed() >= LONGEST_WAIT);
        let hopeless = self.failed.is_some_and(|failed| failed.elapsed() < AFTER_FAILURE);
        !hopeless && (self.gap || self.bytes >= AT_ONCE || (waited && !self.parts.is_empty()))
    }
}

/// Why the driver's memory is not restored, though there may be one.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotRestored {
    /// It cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The run is cancelled.
    #[error("the run is cancelled")]
    Cancelled,
    /// The workspace does not take it.
    #[error(transparent)]
    Agent(#[from] AgentError),
}

impl Run {
    /// Stores what the driver has reported of its transcript, if there is enough of it.
    pub(super) async fn store_transcript_when_due(&mut self) {
        if self.unstored.is_due()
            && let Err(error) = self.store_transcript().await
        {
            self.unstored.failed = Some(Instant::now());
            tracing::debug!(run = self.journal.run_id(), %error, "the driver's transcript is not stored yet");
        }
    }

    /// Stores what the driver has reported of its transcript.
    ///
    /// # Errors
    /// The database failed; another attempt stores the same.
    pub(super) async fn store_transcript(&mut self) -> Result<(), StoreError> {
        let conversation = &self.order.conversation.conversation_id;
        if self.unstored.gap {
            self.services.store.break_transcript(conversation).await?;
            tracing::warn!(
                conversation,
                "the driver's transcript has a gap and is forgotten; another workspace is told the messages instead"
            );
            self.unstored.gap = false;
        } else if !self.unstored.parts.is_empty() {
            self.services.store.add_transcript(conversation, &self.unstored.parts).await?;
        }
        (self.unstored.parts, self.unstored.bytes) = (Vec::new(), 0);
        self.unstored.stored = Some(Instant::now());
        Ok(())
    }

    /// Gives the workspace's driver the memory that the conversation's former driver has reported, and returns the session to continue;
    /// `None` where there is none, or not all of it.
    ///
    /// # Errors
    /// The transcript cannot be read, or the agent cannot be reached. Neither says anything of the transcript, which stays.
    pub(super) async fn restore_memory(&self, lease: &Lease) -> Result<Option<String>, NotRestored> {
        let conversation = &self.order.conversation.conversation_id;
        // Each takes memory of several times the transcript, which may be large.
        let turn = self.cancel.run_until_cancelled(self.services.restoring.acquire()).await;
        let _turn = turn.ok_or(NotRestored::Cancelled)?;
        let transcript = self.services.store.transcript(conversation).await?;
        if transcript.is_empty() {
            return Ok(None);
        }
        let driver = self.services.driver.clone();
        let restored = tokio::task::spawn_blocking(move || driver.restore(&transcript)).await.ok().flatten();
        let Some(memory) = restored else {
            tracing::warn!(conversation, "the driver's transcript is not complete; it is told the messages instead");
            return Ok(None);
        };
        let (files, bytes) = (memory.files.len(), memory.files.iter().map(|(_, content)| content.len()).sum::<usize>());
        let until = Instant::now() + WRITE_DEADLINE;
        for (path, content) in memory.files {
            let written = tokio::time::timeout_at(until, lease.write_home(&path, Bytes::from(content))).await;
            let slow =
                || AgentError::Hostile(format!("it has not taken the driver's memory within {WRITE_DEADLINE:?}"));
            match written.unwrap_or_else(|_| Err(slow())) {
                Err(error @ AgentError::Refused { .. }) => {
                    tracing::warn!(conversation, path, %error, "the driver's transcript does not fit into the workspace; it is told the messages instead");
                    return Ok(None);
                }
                written => written?,
            }
        }
        tracing::info!(conversation, session = memory.session, files, bytes, "the driver's memory is restored");
        Ok(Some(memory.session))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_joined_by_file_and_forgotten_when_it_is_too_much() {
        let mut unstored = Unstored::default();
        assert!(!unstored.is_due());
        for (file, lines) in [("a", "1\n"), ("a", "2\n"), ("b", "3\n"), ("a", "4\n")] {
            unstored.add(file.into(), lines.into());
        }
        unstored.add("c".into(), String::new());
        let parts = [("a", "1\n2\n4\n"), ("b", "3\n")].map(|(file, lines)| (file.to_owned(), lines.to_owned()));
        assert_eq!(unstored.parts, parts);
        assert!(unstored.is_due(), "nothing was stored yet");
        unstored.stored = Some(Instant::now());
        assert!(!unstored.is_due());
        unstored.add("a".into(), "x".repeat(AT_ONCE));
        assert!(unstored.is_due());
        unstored.failed = Some(Instant::now());
        assert!(!unstored.is_due(), "the database has just failed");
        unstored.failed = None;
        unstored.add("a".into(), "x".repeat(MOST_WAITING));
        assert!(unstored.gap && unstored.parts.is_empty());
        unstored.add("a".into(), "later\n".into());
        assert!(unstored.parts.is_empty(), "what follows a gap is of no use");
    }
}
