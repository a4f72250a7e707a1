//! All runs: at most one per conversation.

mod steering;
mod takeover;

use std::collections::{HashMap, HashSet};
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;
use uuid::Uuid;

use super::journal::{Entry, Head, Journal, JournalRef, Note, Past, Position};
use super::order::Order;
use super::run::{Run, Settled, Signals};
use super::services::RunServices;
use super::waiting::WaitError;
use nagaya_telemetry::audit;
use nagaya_workspace::OnShutdown;

/// How long a cancelled run may take to end.
const END_DEADLINE: Duration = Duration::from_secs(60);

/// Why a run did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A run is in progress in the conversation.
    #[error("a run is in progress in this conversation; follow or cancel it")]
    Locked,
    /// The last run has ended, but is not in the database yet.
    #[error("the conversation's last run is not in the database yet; try again")]
    Unsettled,
    /// The journal cannot be written.
    #[error("the run's journal cannot be written: {0}")]
    Journal(#[from] io::Error),
    /// The message cannot wait for the run in progress.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// The server is stopping.
    #[error("the server is stopping")]
    Stopping,
}

/// All runs.
#[derive(Debug)]
pub struct Runs {
    services: RunServices,
    table: Mutex<Table>,
    /// Conversations whose run is being taken over.
    taking: Mutex<HashSet<String>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    closed: CancellationToken,
}

/// The runs whose task is alive, if only to write the finished run to the database, by conversation.
#[derive(Debug, Default)]
struct Table(HashMap<String, Running>);

#[derive(Debug, Clone)]
struct Running {
    journal: Arc<Journal>,
    signals: Signals,
}

impl Runs {
    /// Resumes the runs that an earlier process left, and begins those of the messages that waited.
    ///
    /// # Errors
    /// The journals cannot be read.
    pub async fn new(services: RunServices) -> io::Result<Arc<Self>> {
        let this = Arc::new(Self {
            services,
            table: Mutex::default(),
            taking: Mutex::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            closed: CancellationToken::new(),
        });
        let (waiting, mut needed_uploads) = (&this.services.waiting, Vec::new());
        let mut settled = Vec::new();
        for reference in this.services.journals.unsettled()? {
            let Some((journal, past)) = this.left(&reference).await? else { continue };
            this.restore_waiting(&past).await?;
            if past.settled {
                settled.push((reference.conversation.clone(), journal));
                continue;
            }
            needed_uploads.extend(past.head.order.uploads.clone());
            this.resume(journal, past);
        }
        needed_uploads.extend(waiting.uploads());
        this.services.uploads.sweep(&needed_uploads)?;
        for conversation in waiting.conversations() {
            this.start_next(&conversation).await;
        }
        // After the runs have begun whose messages are in these journals.
        for (conversation, journal) in settled {
            this.keep(&conversation, &journal).await;
        }
        Ok(this)
    }

    /// The journal of a run that an earlier process of this server has left; `None` if there is nothing to do with it.
    async fn left(&self, reference: &JournalRef) -> io::Result<Option<(Journal, Past)>> {
        let journals = &self.services.journals;
        if !self.is_own(reference).await? {
            tracing::info!(run = reference.run_id, "this run has ended, or another server has taken it over");
            journals.remove(reference)?;
            return Ok(None);
        }
        let left = journals.resume(reference).await?;
        if left.is_none() {
            tracing::warn!(
                conversation = reference.conversation,
                run = reference.run_id,
                "removing a journal without a first line"
            );
            journals.remove(reference)?;
        }
        Ok(left)
    }

    /// Takes up a run that another process has begun.
    fn resume(self: &Arc<Self>, journal: Journal, past: Past) {
        let conversation = past.head.order.conversation.conversation_id.clone();
        tracing::info!(conversation, run = past.head.run_id, events = past.seq, "resuming a run");
        past.room.iter().for_each(|room| self.services.cluster.workspaces().expect_run_in(room));
        let running = Running { journal: Arc::new(journal), signals: Signals::default() };
        // Before a request can find the run. What was decided is found in the journal until it is asked again.
        for (pending, _) in past.asked.iter().filter(|(_, decided)| decided.is_none()) {
            if let Err(why) = running.signals.approvals.ask(pending.clone()) {
                tracing::warn!(run = past.head.run_id, why, "a question of before the restart is not asked again");
            }
        }
        self.table().0.insert(conversation, running.clone());
        self.spawn(past, running);
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock()
    }

    /// An id for a run; ids ascend with time.
    #[must_use]
    pub fn new_id() -> String {
        Uuid::now_v7().to_string()
    }

    /// Starts a run. It continues whether or not a client reads its journal.
    ///
    /// # Errors
    /// A run is in progress, the journal cannot be written, or the server is stopping.
    pub async fn start(self: &Arc<Self>, order: Order) -> Result<Arc<Journal>, StartError> {
        self.start_as(Self::new_id(), order).await
    }

    /// Starts a run with an id that [`Runs::new_id`] has made a moment ago. It starts wholly or not at all, also if the future is dropped.
    ///
    /// # Errors
    /// As for [`Runs::start`].
    pub fn start_as(
        self: &Arc<Self>,
        run_id: String,
        order: Order,
    ) -> BoxFuture<'static, Result<Arc<Journal>, StartError>> {
        let this = self.clone();
        Box::pin(async move {
            let begun = this.clone();
            this.detached(async move { begun.begin(run_id, order).await }).await?
        })
    }

    /// Does something to its end, also if the future that this returns is dropped, as it is when a client disconnects.
    async fn detached<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> io::Result<T> {
        let span = tracing::Span::current();
        self.tasks.spawn(Box::pin(work).instrument(span)).await.map_err(io::Error::other)
    }

    async fn begin(self: &Arc<Self>, run_id: String, order: Order) -> Result<Arc<Journal>, StartError> {
        if self.closed.is_cancelled() {
            return Err(StartError::Stopping);
        }
        let conversation = order.conversation.conversation_id.clone();
        if self.taking.lock().contains(&conversation) {
            return Err(StartError::Locked);
        }
        self.table().check_free(&conversation)?;
        if self.take_over_of(&conversation).await? {
            return Err(StartError::Locked);
        }
        let head = Head { run_id, began: Timestamp::now(), order };
        let journal = Arc::new(self.services.journals.begin(head.clone()).await?);
        let running = Running { journal: journal.clone(), signals: Signals::default() };
        let entered = {
            let mut table = self.table();
            // Another request may have started a run while the file was created.
            let taking = self.taking.lock().contains(&conversation);
            let free = if taking { Err(StartError::Locked) } else { table.check_free(&conversation) };
            free.map(|()| table.0.insert(conversation.clone(), running.clone()))
        };
        let earlier = match entered {
            Ok(earlier) => earlier,
            Err(error) => {
                let reference = reference_to(&conversation, &journal);
                if let Err(error) = self.services.journals.withdraw(&reference).await {
                    tracing::warn!(conversation, run = reference.run_id, %error, "the journal of a run that did not start was not removed");
                }
                return Err(error);
            }
        };
        // What waits goes with the run in progress.
        let waiting = self.services.waiting.all(&conversation).into_iter();
        for message in waiting.filter(|message| message.run_id != head.run_id) {
            if let Err(error) = journal.note(&Note::Waits(Box::new(message))).await {
                tracing::warn!(conversation, %error, "a message that waits is not in the run's journal");
            }
        }
        if let Some(Running { journal, .. }) = earlier.filter(|earlier| earlier.journal.is_set_aside()) {
            self.keep(&conversation, &journal).await;
        }
        self.services.audit.record(&audit::Event::RunStarted {
            subject: head.order.subject(None),
            run: &head.run_id,
            request_id: head.order.request_id.as_deref(),
            user: head.order.user.as_deref(),
            model: &head.order.model.model_id,
        });
        self.spawn(Past::none(head), running);
        Ok(journal)
    }

    fn spawn(self: &Arc<Self>, past: Past, Running { journal, signals }: Running) {
        let conversation = past.head.order.conversation.conversation_id.clone();
        // The span puts the request's id on every log line of the run, also after a restart.
        let (id, request_id) = (past.head.run_id.as_str(), past.head.order.request_id.as_deref());
        let span = tracing::info_span!("run", request_id, run = id, conversation, workspace = tracing::field::Empty);
        let run = Run::new(self.services.clone(), past, journal.clone(), signals, self.stop.clone());
        let this = self.clone();
        let work = async move {
            let after_panic = run.after_panic();
            let settled = match AssertUnwindSafe(Box::pin(run.drive())).catch_unwind().await {
                Ok(settled) => settled,
                Err(_) => {
                    after_panic.end_run().await;
                    Settled::Yes
                }
            };
            match settled {
                Settled::Yes => this.ended(&conversation, &journal).await,
                Settled::No => journal.leave(),
                Settled::Elsewhere => this.forget(&conversation, &journal),
            }
        };
        self.tasks.spawn(Box::pin(work).instrument(span));
    }

    /// Called when a run's task has ended and the run is settled.
    async fn ended(self: &Arc<Self>, conversation: &str, journal: &Journal) {
        // The messages that wait are in this journal until they are in that of the next run.
        self.start_next(conversation).await;
        match self.running(conversation) {
            // The conversation was deleted.
            None => return,
            // No run could begin for what waits, so it stays in this journal, where the next start finds it.
            Some(last)
                if last.journal.run_id() == journal.run_id() && self.services.waiting.next(conversation).is_some() =>
            {
                journal.set_aside();
                return;
            }
            Some(_) => {}
        }
        self.keep(conversation, journal).await;
        let mut table = self.table();
        let is_last = table.0.get(conversation).is_none_or(|running| running.journal.run_id() == journal.run_id());
        let deleted = is_last && table.0.remove(conversation).is_none();
        drop(table);
        if deleted {
            self.remove_all(conversation);
        }
    }

    async fn keep(&self, conversation: &str, journal: &Journal) {
        let kept = match journal.complete_copy().await {
            true => self.services.journals.keep(&reference_to(conversation, journal)).await,
            false => Err(io::Error::other("the shared log does not have all of it")),
        };
        if let Err(error) = kept {
            tracing::warn!(conversation, run = journal.run_id(), %error, "the journal of a settled run stays among those in progress; the next start tries again");
        }
    }

    /// Forgets a run that another server has taken over.
    fn forget(&self, conversation: &str, journal: &Journal) {
        journal.leave();
        let mut table = self.table();
        if table.0.get(conversation).is_some_and(|running| running.journal.run_id() == journal.run_id()) {
            table.0.remove(conversation);
        }
        drop(table);
        if let Err(error) = self.services.journals.remove(&reference_to(conversation, journal)) {
            tracing::warn!(conversation, run = journal.run_id(), %error, "this server's copy of another server's run was not removed");
        }
        self.services.waiting.drop_all(conversation);
    }

    fn remove_all(&self, conversation: &str) {
        if let Err(error) = self.services.journals.remove_all(conversation) {
            tracing::warn!(conversation, %error, "the journals of a deleted conversation were not removed");
        }
    }

    /// The journal of a conversation's current or last run.
    ///
    /// # Errors
    /// The journal exists but cannot be opened.
    pub async fn journal(&self, conversation: &str) -> io::Result<Option<Arc<Journal>>> {
        match self.running(conversation) {
            Some(Running { journal, .. }) => Ok(Some(journal)),
            None => Ok(self.services.journals.last(conversation).await?.map(Arc::new)),
        }
    }

    /// A page of the conversation's log: at most `most` entries after a place, and whether there are more.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn log(&self, conversation: &str, after: Position, most: usize) -> io::Result<(Vec<Entry>, bool)> {
        self.services.journals.list(conversation, after, most).await
    }

    fn running(&self, conversation: &str) -> Option<Running> {
        self.table().0.get(conversation).cloned()
    }

    /// A conversation's run that has not ended.
    fn going_on(&self, conversation: &str) -> Option<Running> {
        self.running(conversation).filter(|running| !running.journal.is_closed())
    }

    /// Id of a conversation's current or last run on this server, and whether it is in progress.
    #[must_use]
    pub fn last(&self, conversation: &str) -> Option<(String, bool)> {
        match self.running(conversation) {
            Some(Running { journal, .. }) => Some((journal.run_id().to_owned(), !journal.is_closed())),
            None => self.services.journals.last_kept(conversation).map(|run_id| (run_id, false)),
        }
    }

    /// Whether a run is in progress in a conversation.
    #[must_use]
    pub fn is_running(&self, conversation: &str) -> bool {
        self.going_on(conversation).is_some()
    }

    /// Cancels a conversation's run, and drops the messages that wait for its end; `false` if none is in progress.
    /// Both happen also if the future is dropped.
    ///
    /// # Errors
    /// The work that does it has panicked.
    pub async fn cancel(self: &Arc<Self>, conversation: &str) -> io::Result<bool> {
        let (this, id) = (self.clone(), conversation.to_owned());
        self.detached(async move {
            this.drop_waiting(&id).await;
            let Some(Running { journal, signals }) = this.going_on(&id) else { return false };
            // In the journal first, so that the next process ends the run if this one dies.
            if let Err(error) = journal.note(&Note::Cancel).await {
                tracing::warn!(run = journal.run_id(), %error, "the cancellation was not written to the journal");
            }
            signals.cancel.cancel();
            true
        })
        .await
    }

    /// Cancels a conversation's run, waits for its end and removes the conversation's log from this server; `false` if the run did not
    /// end in time.
    pub async fn end(self: &Arc<Self>, conversation: &str) -> bool {
        if let Err(error) = self.cancel(conversation).await {
            tracing::error!(conversation, %error, "the run of a conversation that is deleted was not cancelled");
            return false;
        }
        let running = self.running(conversation);
        if let Some(Running { journal, .. }) = &running {
            if tokio::time::timeout(END_DEADLINE, journal.ended()).await != Ok(true) {
                return false;
            }
            self.table().0.remove(conversation);
            let reference = reference_to(conversation, journal);
            if let Err(error) = self.services.journals.remove(&reference) {
                tracing::warn!(conversation, run = reference.run_id, %error, "the journal was not removed");
            }
        }
        self.remove_all(conversation);
        if let Some(log) = self.services.journals.shared()
            && let Err(error) = log.remove(conversation).await
        {
            tracing::warn!(conversation, %error, "the log of a conversation that is deleted was not removed; it goes with the conversation");
        }
        true
    }

    /// Refuses new runs, waits up to `deadline` for those in progress, then ends them or leaves them to the next process, as
    /// configured.
    pub async fn drain(&self, deadline: Duration) {
        self.closed.cancel();
        self.tasks.close();
        if !self.tasks.is_empty() {
            tracing::info!(runs = self.tasks.len(), "waiting for runs to end");
        }
        if tokio::time::timeout(deadline, self.tasks.wait()).await.is_ok() {
            return;
        }
        match self.services.on_shutdown {
            OnShutdown::Keep => {
                tracing::info!(
                    runs = self.tasks.len(),
                    "leaving runs in their workspaces; the next start resumes them"
                );
            }
            OnShutdown::Destroy => {
                tracing::warn!(runs = self.tasks.len(), "ending runs in progress");
            }
        }
        self.stop.cancel();
        if tokio::time::timeout(END_DEADLINE, self.tasks.wait()).await.is_err() {
            tracing::error!(runs = self.tasks.len(), "runs did not end");
        }
    }

    /// Ends the wait in [`Runs::drain`] early.
    pub fn hasten(&self) {
        self.stop.cancel();
    }
}

impl Table {
    fn check_free(&self, conversation: &str) -> Result<(), StartError> {
        match self.0.get(conversation) {
            Some(Running { journal, .. }) if !journal.is_closed() => Err(StartError::Locked),
            Some(Running { journal, .. }) if !journal.is_settled() => Err(StartError::Unsettled),
            _ => Ok(()),
        }
    }
}

fn reference_to(conversation: &str, journal: &Journal) -> JournalRef {
    JournalRef { conversation: conversation.into(), run_id: journal.run_id().into() }
}
