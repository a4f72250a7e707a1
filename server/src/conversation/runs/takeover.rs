//! Runs of servers that have died: another server that can read the shared log takes them over.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Runs, StartError};
use crate::conversation::journal::shared::{SharedError, SharedRun};
use crate::conversation::journal::{JournalRef, Past, Retention};

/// How often a server looks for runs of servers that have died.
const LOOK: Duration = Duration::from_secs(2);
/// How long a run is left to its server, which may be starting again. The agent in the workspace waits longer (a minute).
const GRACE: Duration = Duration::from_secs(10);
/// How often what is kept no longer is removed from the log, and from this server's disk.
const FORGET: Duration = Duration::from_secs(600);

/// A conversation of which a run is being taken over: it begins no other until this is dropped.
struct Reserved {
    runs: Arc<Runs>,
    conversation: String,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.runs.taking.lock().remove(&self.conversation);
    }
}

impl Runs {
    /// Whether a journal that an earlier process of this server has left is still this server's to go on with.
    pub(super) async fn is_own(&self, reference: &JournalRef) -> io::Result<bool> {
        let journals = &self.services.journals;
        let Some(log) = journals.shared() else { return Ok(true) };
        match journals.shared_run(&reference.run_id).await? {
            // Begun by an earlier version, or by a server with another database.
            None => match log.begin(&reference.conversation, &reference.run_id).await {
                Err(SharedError::Refused) => Ok(false),
                begun => Ok(begun.map(|()| true)?),
            },
            // It has ended, and its journal is in the log: nothing is left to do, whoever has ended it.
            Some(run) if run.settled => Ok(false),
            Some(run) if self.is_running_server(&run.owner).await => Ok(false),
            Some(run) => journals.claim(&run).await,
        }
    }

    /// A server of which nobody knows whether it runs is taken for one that does.
    async fn is_running_server(&self, id: &str) -> bool {
        self.services.cluster.is_running(id).await.unwrap_or_else(|error| {
            tracing::debug!(server = id, %error, "cannot find out whether a server is running");
            true
        })
    }

    /// Takes over a conversation's run whose server has died; `false` if there is none.
    ///
    /// # Errors
    /// The shared log does not answer.
    pub async fn take_over_of(self: &Arc<Self>, conversation: &str) -> Result<bool, StartError> {
        // Without other servers nobody can say whether the one that has the run is dead.
        let Some(log) = self.services.journals.shared().filter(|_| self.services.cluster.is_shared()) else {
            return Ok(false);
        };
        let latest = log.latest(conversation).await.map_err(io::Error::from)?;
        match latest.filter(|run| !run.settled && run.owner != log.owner()) {
            Some(run) if !self.is_running_server(&run.owner).await => Ok(self.take_over(&run).await?),
            _ => Ok(false),
        }
    }

    /// Takes a run over; `false` if another server has done so before. It is taken over wholly or not at all, also if the future is
    /// dropped.
    async fn take_over(self: &Arc<Self>, run: &SharedRun) -> io::Result<bool> {
        let free = self.table().check_free(&run.conversation).is_ok();
        if self.closed.is_cancelled() || !free || !self.taking.lock().insert(run.conversation.clone()) {
            return Ok(false);
        }
        let (this, run) = (self.clone(), run.clone());
        let reserved = Reserved { runs: self.clone(), conversation: run.conversation.clone() };
        self.detached(async move { this.take_over_reserved(&run, reserved).await }).await?
    }

    async fn take_over_reserved(self: &Arc<Self>, run: &SharedRun, reserved: Reserved) -> io::Result<bool> {
        let journals = &self.services.journals;
        if !journals.claim(run).await? {
            return Ok(false);
        }
        tracing::warn!(conversation = run.conversation, run = run.run_id, "taking over a run whose server has died");
        let reference = JournalRef { conversation: run.conversation.clone(), run_id: run.run_id.clone() };
        let Some((journal, past)) = journals.resume(&reference).await? else {
            // Nobody has seen anything of it.
            journals.withdraw(&reference).await?;
            return Ok(false);
        };
        self.restore_waiting(&past).await?;
        if past.settled {
            drop(reserved);
            self.start_next(&run.conversation).await;
            self.keep(&run.conversation, &journal).await;
            return Ok(false);
        }
        self.resume(journal, past);
        drop(reserved);
        Ok(true)
    }

    /// Takes up the messages that wait in a journal, but those whose runs have begun.
    pub(super) async fn restore_waiting(&self, past: &Past) -> io::Result<()> {
        let conversation = &past.head.order.conversation.conversation_id;
        let mut waiting = Vec::new();
        for message in &past.waiting {
            if !self.services.journals.knows(conversation, &message.run_id).await? {
                waiting.push(message.clone());
            }
        }
        self.services.waiting.restore(waiting);
        Ok(())
    }

    /// Closes the connections of the shared log.
    pub async fn close_log(&self) {
        if let Some(log) = self.services.journals.shared() {
            log.close().await;
        }
    }

    /// Takes over the runs of servers that have died, begins what could not begin, and removes from the log what is kept no longer, until
    /// `enough`.
    pub async fn follow_log(self: Arc<Self>, retention: Retention, enough: CancellationToken) {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut forget = tokio::time::interval(FORGET);
        let mut alone_since: HashMap<String, Instant> = HashMap::new();
        loop {
            tokio::select! {
                () = enough.cancelled() => return,
                _ = forget.tick() => {
                    if let Err(error) = self.services.journals.forget(retention).await {
                        tracing::warn!(%error, "what is kept no longer was not removed from the log");
                    }
                }
                _ = look.tick(), if !self.closed.is_cancelled() => {
                    self.begin_what_waits().await;
                    if let Err(error) = self.look_for_orphans(&mut alone_since).await {
                        tracing::debug!(%error, "cannot look for runs of servers that have died");
                    }
                }
            }
        }
    }

    /// Begins the runs of messages that could not begin theirs when the run before had ended.
    async fn begin_what_waits(self: &Arc<Self>) {
        for conversation in self.services.waiting.conversations() {
            if !self.is_running(&conversation)
                && let Err(error) = self.try_start_next(&conversation).await
            {
                tracing::debug!(conversation, %error, "a message that waited still begins no run");
            }
        }
    }

    async fn look_for_orphans(self: &Arc<Self>, alone_since: &mut HashMap<String, Instant>) -> io::Result<()> {
        let Some(log) = self.services.journals.shared().filter(|_| self.services.cluster.is_shared()) else {
            return Ok(());
        };
        let mut running = HashMap::new();
        let mut alone = HashMap::new();
        for run in log.unsettled().await? {
            let lives = match running.get(&run.owner) {
                // This server's own, unless an attempt to take it over has failed half-way.
                _ if run.owner == log.owner() => {
                    self.running(&run.conversation).is_some_and(|own| own.journal.run_id() == run.run_id)
                }
                Some(lives) => *lives,
                None => {
                    let lives = self.is_running_server(&run.owner).await;
                    running.insert(run.owner.clone(), lives);
                    lives
                }
            };
            if lives {
                continue;
            }
            let since = alone_since.get(&run.run_id).copied().unwrap_or_else(Instant::now);
            if since.elapsed() < GRACE {
                alone.insert(run.run_id, since);
            } else if let Err(error) = self.take_over(&run).await {
                tracing::warn!(run = run.run_id, %error, "a run whose server has died was not taken over");
                alone.insert(run.run_id, since);
            }
        }
        *alone_since = alone;
        Ok(())
    }
}
