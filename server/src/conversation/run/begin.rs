//! The beginning of a run: a workspace, and a turn in it, of a driver that waits, of a new one, or of one that an earlier process follows.

use jiff::Timestamp;
use nagaya_driver::Prompt;
use nagaya_protocol::ExecuteRequest;

use super::content::fits;
use super::follow::Turn;
use super::request::digest;
use super::transcript::NotRestored;
use super::{Outcome, Run, since};
use crate::conversation::event::{ErrorType, Event};
use crate::conversation::journal::{Note, PastExecution};
use crate::conversation::recovery::Stream;
use crate::conversation::store::StoreError;
use nagaya_workspace::{AcquireError, Lease, Living, OnShutdown, Origin, ReleaseReason, Session};

impl Run {
    /// Acquires a workspace, starts the execution in it and follows that to its end.
    pub(super) async fn start(&mut self) -> Option<Outcome> {
        // The conversation may have been archived or deleted between the request's look-up and the run's entry into the table. From
        // the entry on a deletion cancels the run, so this second look closes the gap.
        if self.has_no_conversation().await {
            return Some(Outcome::cancelled());
        }
        self.emit(&Event::setup("Opening a workspace")).await;
        let lease = match self.acquire().await {
            Ok(lease) => lease,
            Err(_) if self.cancel.is_cancelled() => return Some(Outcome::cancelled()),
            Err(error) => {
                let kind = match error {
                    AcquireError::Busy => ErrorType::ConversationLocked,
                    _ => ErrorType::WorkspaceError,
                };
                self.fail(kind, error.to_string()).await;
                return Some(Outcome::error());
            }
        };
        self.enter(lease.workspace_id());
        let origin = match lease.origin() {
            Origin::Reused => "already the conversation's",
            Origin::Warm => "from the warm pool",
            Origin::Cold => "newly created",
        };
        let (workspace, took_ms) = (lease.workspace_id(), self.elapsed_ms());
        self.emit(&Event::setup(format!("Workspace {workspace} is ready: {origin}, {took_ms} ms"))).await;
        if let Some(loss) = lease.loss() {
            let message = format!(
                "The conversation's former workspace was lost: {}. This run has a new one",
                loss.why.explanation()
            );
            let files = loss.files.into();
            self.emit(&Event::ContainerRecovered { message, recovered: true, retry_recommended: false, files }).await;
        }
        let restored = self.restore_files(&lease).await;
        self.note_untouched(&lease, restored);
        if let Err(why) = self.copy_uploads(&lease).await {
            let why = format!("files of the request are not in the workspace: {why}; the model was not called");
            self.fail(ErrorType::StorageError, why).await;
            self.store_files_and_finish(lease, None).await;
            return Some(Outcome::error());
        }
        if self.cancel.is_cancelled() {
            return Some(Outcome::cancelled());
        }
        if self.stop.is_cancelled() && self.services.on_shutdown == OnShutdown::Keep {
            return None;
        }
        // Before the request to the agent: from here on a restarted server must look for the execution in this room.
        if let Err(error) = self.journal.note(&Note::Room { workspace: lease.workspace_id().into() }).await {
            return Some(self.end_without_journal(lease, None, error).await);
        }
        self.remove_uploads();
        let session = lease.session().cloned();
        self.begin(lease, session).await
    }

    /// Begins a turn, and follows it: of the driver that waits for it, else of a new one, which continues the driver's session or is told
    /// the history where there is none.
    pub(super) async fn begin(&mut self, lease: Lease, session: Option<Session>) -> Option<Outcome> {
        let blocks = match self.blocks(&lease).await {
            Ok(blocks) => blocks,
            Err(_) if self.cancel.is_cancelled() => {
                lease.finish(session).await;
                return Some(Outcome::cancelled());
            }
            Err(why) => return Some(self.not_sent(lease, session, why).await),
        };
        let driver = self.services.driver.clone();
        let mut options = self.options();
        let digest = digest(&*self.services.driver, &options);
        let run = self.journal.run_id().to_owned();
        if let Some(Living { execution, read, options: started_with }) = session.as_ref().and_then(|s| s.living.clone())
        {
            if started_with == digest {
                let prompt = Prompt { text: self.input(), blocks: blocks.clone(), command: self.order.command };
                let lines = driver.prompt(&run, &prompt);
                if let Err(why) = fits(&lines) {
                    return Some(self.not_sent(lease, session, why).await);
                }
                // Followed first: the agent ends a turn of which nobody has read for as long as this driver has waited.
                if let Ok(stream) = Stream::resume(&lease, execution.clone(), read).await
                    && lease.write(&execution, &run, lines).await.is_ok()
                {
                    self.note_execution(execution.clone(), read).await;
                    self.continues = false;
                    let turn = Turn::new(lease, stream, driver.dialogue(&options, Some(&run)), digest, self.longest());
                    return Box::pin(self.follow(turn)).await;
                }
            }
            // It has ended, does not answer, or was started with other options.
            if let Err(error) = lease.cancel(&execution).await {
                return Some(self.give_up_agent(lease, &error).await);
            }
        }
        options.session = session.map(|session| session.id);
        if options.session.is_none() && !std::mem::replace(&mut self.restored, true) {
            options.session = match self.restore_memory(&lease).await {
                Ok(session) => session,
                Err(NotRestored::Agent(error)) => return Some(self.give_up_agent(lease, &error).await),
                Err(NotRestored::Cancelled) => {
                    lease.finish(None).await;
                    return Some(Outcome::cancelled());
                }
                Err(NotRestored::Store(error)) => return Some(self.no_memory(lease, &error).await),
            };
        }
        self.continues = options.session.is_some();
        if self.order.command && !self.continues {
            let why =
                "the driver has no session of this conversation that the command could be about; send a message first";
            self.fail(ErrorType::ExecutionError, why.to_owned()).await;
            lease.finish(None).await;
            return Some(Outcome::error());
        }
        let text = match self.continues {
            true => self.input(),
            false => match self.input_for_new_session().await {
                Ok(input) => input,
                Err(error) => return Some(self.no_memory(lease, &error).await),
            },
        };
        if let Err(why) = self.place_skills(&lease).await {
            self.fail(ErrorType::StorageError, format!("{why}; the model was not called")).await;
            lease.finish(None).await;
            return Some(Outcome::error());
        }
        let prompt = Prompt { text, blocks, command: self.order.command };
        let input = [driver.introduce(&options), driver.prompt(&run, &prompt)].concat();
        if let Err(why) = fits(&input) {
            return Some(self.not_sent(lease, options.session.map(Session::ended), why).await);
        }
        match self.take_over(&lease, &options, &prompt).await {
            Ok(Some(stream)) => {
                let turn = Turn::new(lease, stream, driver.dialogue(&options, Some(&run)), digest, self.longest());
                return Box::pin(self.follow(turn)).await;
            }
            Ok(None) => {}
            Err(error) => return Some(self.give_up_agent(lease, &error).await),
        }
        let request = ExecuteRequest { input, ..driver.start(&options) };
        let request_id = self.order.request_id.clone();
        let mut started = lease.execute(&request, request_id.as_deref()).await;
        if matches!(&started, Err(error) if error.is_busy()) {
            started = match lease.cancel_stray().await {
                Ok(()) => lease.execute(&request, request_id.as_deref()).await,
                Err(error) => Err(error),
            };
        }
        match started {
            Ok(stream) => {
                let turn =
                    Turn::new(lease, Stream::new(stream), driver.dialogue(&options, None), digest, self.longest());
                Box::pin(self.follow(turn)).await
            }
            Err(error) => Some(self.give_up_agent(lease, &error).await),
        }
    }

    /// Ends a run whose message cannot be sent; its workspace is kept.
    async fn not_sent(&mut self, lease: Lease, session: Option<Session>, why: String) -> Outcome {
        self.fail(ErrorType::StorageError, format!("{why}; the model was not called")).await;
        lease.finish(session).await;
        Outcome::error()
    }

    /// Ends a run for which nobody can say what the conversation was about so far; what is stored of it stays.
    async fn no_memory(&mut self, lease: Lease, error: &StoreError) -> Outcome {
        tracing::error!(conversation = self.order.conversation.conversation_id, %error, "cannot read what a new driver should know");
        let why = "the conversation's history cannot be read, and its workspace does not have it; try again";
        self.fail(ErrorType::ExecutionError, why.to_owned()).await;
        lease.finish(None).await;
        Outcome::error()
    }

    /// The user's input for a driver that remembers nothing of the conversation, whose transcript begins with it.
    async fn input_for_new_session(&self) -> Result<String, StoreError> {
        self.services.store.forget_transcript(&self.order.conversation.conversation_id).await?;
        self.input_with_history().await
    }

    /// Continues an execution that an earlier process has left in a room.
    pub(super) async fn resume(&mut self, room: &str, execution: Option<PastExecution>) -> Option<Outcome> {
        self.enter(room);
        let reattached = self.services.cluster.reattach(self.occupant(), room);
        let lease = self.stop.run_until_cancelled(reattached).await?;
        // The driver in a room of an earlier version cannot be followed.
        let Some(lease) = lease.filter(|lease| !lease.is_outdated()) else {
            if self.has_no_conversation().await {
                return Some(Outcome::cancelled());
            }
            let why = "the workspace was lost: it ended while no server was running".to_owned();
            self.report_crash(&why);
            self.fail(ErrorType::ExecutionError, why).await;
            let acquired = self.services.cluster.acquire(self.occupant()).await;
            self.offer_new_room(acquired).await;
            return Some(Outcome::error());
        };
        let Some(PastExecution { id, began, after }) = execution else {
            // The agent may have started an execution, whose id is not known: only a new room is sure to be free of it.
            let why = "the server stopped before the agent had answered".to_owned();
            return Some(self.replace_room(lease, ReleaseReason::Dead, why).await);
        };
        // The turn is read from its beginning, for what its first events say of the later ones; where the agent no longer has them, from
        // the last one that was handled, of whose events only some may be in the journal.
        let (stream, whole) = match Stream::resume(&lease, id.clone(), after).await {
            Err(error) if error.is_gone() => (Stream::resume(&lease, id, self.past.asked_again_after()).await, false),
            stream => (stream, true),
        };
        let run = self.journal.run_id().to_owned();
        match stream {
            Ok(stream) => {
                let own = since(began).saturating_sub(self.past.waited_until(Timestamp::now()));
                let left = self.longest().saturating_sub(own);
                let options = self.options();
                let digest = digest(&*self.services.driver, &options);
                let after_others = (whole && after > 0).then_some(run.as_str());
                let dialogue = self.services.driver.dialogue(&options, after_others);
                Box::pin(self.follow(Turn::new(lease, stream, dialogue, digest, left))).await
            }
            Err(error) => Some(self.give_up_agent(lease, &error).await),
        }
    }
}
