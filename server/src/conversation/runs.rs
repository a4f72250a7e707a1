//! All runs: at most one per conversation. Keeps the journals of finished runs within bounds.

mod steering;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;
use uuid::Uuid;

use super::journal::{Head, Journal, JournalRef, Note, Past};
use super::order::Order;
use super::run::{Run, Settled, Signals};
use super::services::RunServices;
use super::waiting::WaitError;
use nagaya_telemetry::audit;
use nagaya_workspace::OnShutdown;

/// How many journals of finished runs are kept, so that a client that was disconnected can still read the end; the oldest are
/// removed first.
const KEPT: usize = 1_000;
/// Size of these journals together, in bytes.
const KEPT_BYTES: u64 = 1024 * 1024 * 1024;
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
    tasks: TaskTracker,
    stop: CancellationToken,
    closed: CancellationToken,
}

#[derive(Debug, Default)]
struct Table {
    by_conversation: HashMap<String, Entry>,
    /// Conversations with an ended run, in the order of the ends.
    ended: VecDeque<String>,
    ended_bytes: u64,
}

#[derive(Debug, Clone)]
enum Entry {
    /// The run's task is alive, if only to write the finished run to the database.
    Running { journal: Arc<Journal>, signals: Signals },
    /// Only the run's journal is left.
    Ended(JournalRef),
}

impl Runs {
    /// Resumes the runs that an earlier process left, and indexes the journals of those that ended.
    ///
    /// # Errors
    /// The journals cannot be read.
    pub fn new(services: RunServices) -> io::Result<Arc<Self>> {
        let this = Arc::new(Self {
            services,
            table: Mutex::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            closed: CancellationToken::new(),
        });
        let journals = &this.services.journals;
        let mut needed_uploads = Vec::new();
        for reference in journals.list()? {
            this.services.waiting.taken(&reference.conversation, &reference.run_id);
            if journals.is_settled(&reference)? {
                this.keep(reference);
            } else if let Some((journal, past)) = journals.resume(&reference)? {
                tracing::info!(
                    conversation = reference.conversation,
                    run = reference.run_id,
                    events = past.seq,
                    "resuming a run"
                );
                past.room.iter().for_each(|room| this.services.cluster.workspaces().expect_run_in(room));
                let (journal, signals) = (Arc::new(journal), Signals::default());
                let entry = Entry::Running { journal: journal.clone(), signals: signals.clone() };
                let earlier = this.table().by_conversation.insert(reference.conversation.clone(), entry);
                this.discard(earlier);
                needed_uploads.extend(past.head.order.uploads.clone());
                this.spawn(past, journal, signals);
            } else {
                tracing::warn!(
                    conversation = reference.conversation,
                    run = reference.run_id,
                    "removing a journal without a first line"
                );
                journals.remove(&reference)?;
            }
        }
        needed_uploads.extend(this.services.waiting.uploads());
        this.services.uploads.sweep(&needed_uploads)?;
        for conversation in this.services.waiting.conversations() {
            this.start_next(&conversation);
        }
        Ok(this)
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
    pub fn start(self: &Arc<Self>, order: Order) -> Result<Arc<Journal>, StartError> {
        self.start_as(Self::new_id(), order)
    }

    /// Starts a run with an id that [`Runs::new_id`] has made a moment ago.
    ///
    /// # Errors
    /// As for [`Runs::start`].
    pub fn start_as(self: &Arc<Self>, run_id: String, order: Order) -> Result<Arc<Journal>, StartError> {
        if self.closed.is_cancelled() {
            return Err(StartError::Stopping);
        }
        let conversation = order.conversation.conversation_id.clone();
        self.table().check_free(&conversation)?;
        let head = Head { run_id, began: Timestamp::now(), order };
        let journal = Arc::new(self.services.journals.begin(head.clone())?);
        let signals = Signals::default();
        let earlier = {
            let mut table = self.table();
            // Another request may have started a run while the file was created.
            table.check_free(&conversation).inspect_err(|_| self.remove(&reference_to(&conversation, &journal)))?;
            table.take_ended(&conversation);
            let entry = Entry::Running { journal: journal.clone(), signals: signals.clone() };
            table.by_conversation.insert(conversation, entry)
        };
        self.discard(earlier);
        self.services.audit.record(&audit::Event::RunStarted {
            subject: head.order.subject(None),
            run: &head.run_id,
            request_id: head.order.request_id.as_deref(),
            user: head.order.user.as_deref(),
            model: &head.order.model.model_id,
        });
        self.spawn(Past::none(head), journal.clone(), signals);
        Ok(journal)
    }

    fn spawn(self: &Arc<Self>, past: Past, journal: Arc<Journal>, signals: Signals) {
        let conversation = past.head.order.conversation.conversation_id.clone();
        // The span puts the request's id on every log line of the run, also after a restart.
        let (id, request_id) = (past.head.run_id.as_str(), past.head.order.request_id.as_deref());
        let span = tracing::info_span!("run", request_id, run = id, conversation, workspace = tracing::field::Empty);
        let run = Run::new(self.services.clone(), past, journal.clone(), signals, self.stop.clone());
        let this = self.clone();
        let work = async move {
            let after_panic = run.after_panic();
            let settled = AssertUnwindSafe(Box::pin(run.drive())).catch_unwind().await.unwrap_or_else(|_| {
                after_panic.end_run();
                Settled::Yes
            });
            match settled {
                Settled::Yes => {
                    this.ended(reference_to(&conversation, &journal));
                    this.start_next(&conversation);
                }
                Settled::No => journal.leave(),
            }
        };
        self.tasks.spawn(work.instrument(span));
    }

    /// Called when a run's task has ended and the run is settled.
    fn ended(&self, reference: JournalRef) {
        let is_last = match self.table().by_conversation.get(&reference.conversation) {
            Some(Entry::Running { journal, .. }) => journal.run_id() == reference.run_id,
            _ => false,
        };
        // Otherwise the conversation was deleted, or its next run has already begun.
        if is_last { self.keep(reference) } else { self.remove(&reference) }
    }

    /// Keeps the journal of a conversation's last run, and removes the oldest ones beyond the bounds.
    fn keep(&self, reference: JournalRef) {
        let mut removed = Vec::new();
        {
            let mut table = self.table();
            removed.extend(table.take_ended(&reference.conversation));
            table.ended_bytes += reference.bytes;
            table.ended.push_back(reference.conversation.clone());
            table.by_conversation.insert(reference.conversation.clone(), Entry::Ended(reference));
            while table.ended.len() > KEPT || (table.ended_bytes > KEPT_BYTES && table.ended.len() > 1) {
                let Some(oldest) = table.ended.front().cloned() else { break };
                removed.extend(table.take_ended(&oldest));
            }
        }
        removed.iter().for_each(|reference| self.remove(reference));
    }

    /// Removes the journal of a conversation's earlier run.
    fn discard(&self, earlier: Option<Entry>) {
        match earlier {
            Some(Entry::Running { journal, .. }) => {
                tracing::debug!(run = journal.run_id(), "the run ended while the next one began");
            }
            Some(Entry::Ended(reference)) => self.remove(&reference),
            None => {}
        }
    }

    fn remove(&self, reference: &JournalRef) {
        if let Err(error) = self.services.journals.remove(reference) {
            tracing::warn!(conversation = reference.conversation, run = reference.run_id, %error, "the journal was not removed");
        }
    }

    /// The journal of a conversation's current or last run.
    ///
    /// # Errors
    /// The journal exists but cannot be opened.
    pub fn journal(&self, conversation: &str) -> io::Result<Option<Arc<Journal>>> {
        let entry = self.table().by_conversation.get(conversation).cloned();
        match entry {
            Some(Entry::Running { journal, .. }) => Ok(Some(journal)),
            Some(Entry::Ended(reference)) => {
                self.services.journals.read(&reference).map(|journal| Some(Arc::new(journal)))
            }
            None => Ok(None),
        }
    }

    fn running(&self, conversation: &str) -> Option<(Arc<Journal>, Signals)> {
        match self.table().by_conversation.get(conversation) {
            Some(Entry::Running { journal, signals }) => Some((journal.clone(), signals.clone())),
            _ => None,
        }
    }

    /// A conversation's run that has not ended.
    fn going_on(&self, conversation: &str) -> Option<(Arc<Journal>, Signals)> {
        self.running(conversation).filter(|(journal, _)| !journal.is_closed())
    }

    /// Id of a conversation's current or last run, and whether it is in progress.
    #[must_use]
    pub fn last(&self, conversation: &str) -> Option<(String, bool)> {
        match self.table().by_conversation.get(conversation)? {
            Entry::Running { journal, .. } => Some((journal.run_id().to_owned(), !journal.is_closed())),
            Entry::Ended(reference) => Some((reference.run_id.clone(), false)),
        }
    }

    /// Whether a run is in progress in a conversation.
    #[must_use]
    pub fn is_running(&self, conversation: &str) -> bool {
        self.running(conversation).is_some_and(|(journal, _)| !journal.is_closed())
    }

    /// Cancels a conversation's run, and drops the messages that wait for its end; `false` if none is in progress.
    pub fn cancel(&self, conversation: &str) -> bool {
        self.drop_waiting(conversation);
        let Some((journal, signals)) = self.going_on(conversation) else { return false };
        // In the journal, so that the next process ends the run if this one dies first.
        if let Err(error) = journal.note(&Note::Cancel) {
            tracing::warn!(run = journal.run_id(), %error, "the cancellation was not written to the journal");
        }
        signals.cancel.cancel();
        true
    }

    /// Cancels a conversation's run, waits for its end and removes its journal; `false` if the run did not end in time.
    pub async fn end(&self, conversation: &str) -> bool {
        self.cancel(conversation);
        if let Some((journal, _)) = self.running(conversation)
            && tokio::time::timeout(END_DEADLINE, journal.ended()).await != Ok(true)
        {
            return false;
        }
        let reference = {
            let mut table = self.table();
            let ended = table.take_ended(conversation);
            let running = table.by_conversation.remove(conversation);
            ended.or_else(|| match running? {
                Entry::Running { journal, .. } => Some(reference_to(conversation, &journal)),
                Entry::Ended(reference) => Some(reference),
            })
        };
        reference.iter().for_each(|reference| self.remove(reference));
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
        match self.by_conversation.get(conversation) {
            Some(Entry::Running { journal, .. }) if !journal.is_closed() => Err(StartError::Locked),
            Some(Entry::Running { journal, .. }) if !journal.is_settled() => Err(StartError::Unsettled),
            _ => Ok(()),
        }
    }

    fn take_ended(&mut self, conversation: &str) -> Option<JournalRef> {
        let Some(Entry::Ended(reference)) = self.by_conversation.get(conversation).cloned() else { return None };
        self.by_conversation.remove(conversation);
        self.ended.retain(|ended| ended != conversation);
        self.ended_bytes -= reference.bytes;
        Some(reference)
    }
}

fn reference_to(conversation: &str, journal: &Journal) -> JournalRef {
    JournalRef { conversation: conversation.into(), run_id: journal.run_id().into(), bytes: journal.bytes() }
}
