//! What requests do to runs in progress: messages that wait for their end, interruptions, decisions.

use std::io;
use std::sync::Arc;

use nagaya_driver::{Ask, Driver};

use super::{Running, Runs, StartError};
use crate::conversation::approvals::{DecideError, Decision, Pending};
use crate::conversation::journal::{Journal, Note};
use crate::conversation::order::Order;
use crate::conversation::waiting::{Message, WaitError};

impl Runs {
    /// Starts a run, or lets it wait until the conversation's run in progress, and those that wait already, have ended. `run_id` is its id if
    /// one was written down already. With `interrupt` the turn that is in progress is interrupted where the run waits. Returns its id, and how
    /// many are before it. All of it happens also if the future is dropped.
    ///
    /// # Errors
    /// It can neither start nor wait; or a later id than `run_id` is in progress, because runs are in the order of their ids.
    pub async fn start_or_wait(
        self: &Arc<Self>,
        run_id: Option<String>,
        order: Order,
        interrupt: bool,
    ) -> Result<(String, usize), StartError> {
        let this = self.clone();
        self.detached(async move {
            let run_id = run_id.unwrap_or_else(Self::new_id);
            let conversation = order.conversation.conversation_id.clone();
            let before = this.wait_or_start(run_id.clone(), order, interrupt).await?;
            this.interrupt_for(&conversation, &run_id).await;
            Ok((run_id, before))
        })
        .await?
    }

    async fn wait_or_start(
        self: &Arc<Self>,
        run_id: String,
        order: Order,
        interrupt: bool,
    ) -> Result<usize, StartError> {
        if self.closed.is_cancelled() {
            return Err(StartError::Stopping);
        }
        let conversation = order.conversation.conversation_id.clone();
        if self.running(&conversation).is_some_and(|running| running.journal.run_id() > run_id.as_str()) {
            return Err(StartError::Locked);
        }
        let mut message = Message { run_id: run_id.clone(), order, interrupts: None };
        let waiting = &self.services.waiting;
        // From now on the end of a run in progress finds it.
        let before = waiting.add(message.clone())?;
        let waits = || waiting.all(&conversation).iter().any(|message| message.run_id == run_id);
        if let Err(error) = Box::pin(self.try_start_next(&conversation)).await
            && waits()
            && waiting.take(&conversation, &run_id)
        {
            return Err(error);
        }
        // The end of the run before may have begun this one meanwhile.
        if waits()
            && let Some(Running { journal, .. }) = self.running(&conversation)
            && journal.run_id() != run_id
        {
            if interrupt && !journal.is_closed() {
                message.interrupts = Some(journal.run_id().to_owned());
                waiting.interrupts(&conversation, &run_id, journal.run_id());
            }
            if let Err(error) = journal.note(&Note::Waits(Box::new(message))).await
                && waiting.take(&conversation, &run_id)
            {
                return Err(WaitError::Disk(error).into());
            }
        }
        // The run in progress counts as well.
        Ok(if waits() { before + 1 } else { 0 })
    }

    /// Whether a message was accepted under this id: how many runs are before it, or none if its run has begun.
    ///
    /// # Errors
    /// The log or the database does not answer.
    pub async fn accepted(&self, conversation: &str, run_id: &str) -> Result<Option<usize>, StartError> {
        let waiting = self.services.waiting.all(conversation);
        if let Some(before) = waiting.iter().position(|message| message.run_id == run_id) {
            return Ok(Some(before + 1));
        }
        let known = self.services.journals.knows(conversation, run_id).await?;
        let ended = async || self.services.store.has_run(run_id).await.map_err(io::Error::other);
        Ok((known || ended().await?).then_some(0))
    }

    /// Starts the run of the next message that waits, unless a run is in progress.
    pub(super) async fn start_next(self: &Arc<Self>, conversation: &str) {
        if let Err(error) = Box::pin(self.try_start_next(conversation)).await {
            tracing::error!(conversation, %error, "a message that waited begins no run; it is tried again");
        }
    }

    /// As [`Runs::start_next`].
    ///
    /// # Errors
    /// The run cannot begin, for another reason than a run in progress.
    pub(super) async fn try_start_next(self: &Arc<Self>, conversation: &str) -> Result<(), StartError> {
        let waiting = &self.services.waiting;
        let Some(message) = waiting.next(conversation) else { return Ok(()) };
        match self.start_as(message.run_id.clone(), message.order).await {
            Ok(_) => {}
            // The end of that run calls this again, or the next start of the server does.
            Err(StartError::Locked | StartError::Unsettled | StartError::Stopping) => return Ok(()),
            // Another call of this has begun the same run at the same time.
            Err(StartError::Journal(error)) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            Err(error) => return Err(error),
        }
        waiting.take(conversation, &message.run_id);
        Ok(())
    }

    /// Drops the messages of a conversation that wait.
    pub(super) async fn drop_waiting(&self, conversation: &str) {
        let dropped = self.services.waiting.drop_all(conversation);
        if dropped.is_empty() {
            return;
        }
        if let Some(Running { journal, .. }) = self.running(conversation)
            && let Err(error) = journal.note(&Note::Dropped).await
        {
            tracing::warn!(conversation, %error, "that messages no longer wait was not written to the journal");
        }
        for message in dropped {
            tracing::info!(conversation, run = message.run_id, "a message that waited was dropped");
            message.order.uploads.iter().for_each(|uploads| self.services.uploads.remove(uploads));
        }
    }

    /// Interrupts the turn for which a message waits that was sent with `interrupt`, if it is in progress still: no later one, however often
    /// the message is sent again.
    pub async fn interrupt_for(&self, conversation: &str, run_id: &str) {
        let interrupted = self.services.waiting.interrupted_for(conversation, run_id);
        if let Some(running) = self.going_on(conversation)
            && interrupted.as_deref() == Some(running.journal.run_id())
        {
            self.interrupt_run(running).await;
        }
    }

    /// Interrupts the turn of a conversation's run, whose driver lives on; `false` if none is in progress. It is interrupted also if the future
    /// is dropped.
    pub async fn interrupt(&self, conversation: &str) -> bool {
        let Some(running) = self.going_on(conversation) else { return false };
        self.interrupt_run(running).await
    }

    async fn interrupt_run(&self, Running { journal, signals }: Running) -> bool {
        let interrupted = self.detached(async move {
            if let Err(error) = journal.note(&Note::Interrupt).await {
                tracing::warn!(run = journal.run_id(), %error, "the interruption was not written to the journal");
            }
            signals.interrupt.cancel();
        });
        interrupted.await.is_ok()
    }

    /// What conducts the conversations.
    #[must_use]
    pub fn driver(&self) -> &dyn Driver {
        self.services.driver.as_ref()
    }

    /// What the driver of a conversation's run waits for, oldest first.
    #[must_use]
    pub fn pending_approvals(&self, conversation: &str) -> Vec<Pending> {
        self.going_on(conversation).map(|run| run.signals.approvals.pending()).unwrap_or_default()
    }

    /// What a question of the conversation's current or last run asks, whatever has become of it.
    ///
    /// # Errors
    /// The run's journal cannot be read.
    pub async fn asked(&self, conversation: &str, id: &str) -> io::Result<Option<Ask>> {
        match self.running(conversation) {
            Some(Running { journal, signals }) => match signals.approvals.asked(id) {
                Some(ask) => Ok(Some(ask)),
                None => Ok(asked_in(journal, id).await?.map(|(pending, _)| pending.ask)),
            },
            None => Ok(self.asked_before(conversation, id).await?.map(|(pending, _)| pending.ask)),
        }
    }

    /// A question of the conversation's last run, which has ended, with the decision that was made.
    async fn asked_before(&self, conversation: &str, id: &str) -> io::Result<Option<(Pending, Option<Decision>)>> {
        match self.journal(conversation).await? {
            Some(journal) => asked_in(journal, id).await,
            None => Ok(None),
        }
    }

    /// Decides what the driver of a conversation's run has asked; the same decision again changes nothing.
    ///
    /// # Errors
    /// The decision does not count.
    pub async fn decide(&self, conversation: &str, id: &str, decision: Decision) -> Result<Decision, DecideError> {
        let before = match self.running(conversation) {
            Some(Running { journal, signals }) => {
                match journal.decide(&signals.approvals, id, decision.clone()).await {
                    // Told before a restart, or so long ago that it is in the journal alone.
                    Err(DecideError::Unknown) => asked_in(journal, id).await?,
                    decided => return decided,
                }
            }
            None => self.asked_before(conversation, id).await?,
        };
        match before {
            None => Err(DecideError::Unknown),
            Some((_, None)) => Err(DecideError::Withdrawn),
            Some((_, Some(earlier))) if earlier.answer == decision.answer => Ok(earlier),
            Some((pending, Some(Decision { by: None, .. }))) => Err(DecideError::Late(pending.expires_at)),
            Some((_, Some(_))) => Err(DecideError::Otherwise),
        }
    }
}

/// A question of a run, with the decision that was made, from its journal.
async fn asked_in(journal: Arc<Journal>, id: &str) -> io::Result<Option<(Pending, Option<Decision>)>> {
    let id = id.to_owned();
    tokio::task::spawn_blocking(move || journal.asked(&id)).await.map_err(io::Error::other)?
}
