//! All runs: at most one per conversation; and which journals of ended ones are kept.

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
use super::run::Run;
use super::services::RunServices;
use nagaya_telemetry::audit;
use nagaya_workspace::OnShutdown;

/// Journals kept of runs that ended, so that a reader who was away can still read the end; the oldest go first.
const KEPT: usize = 1_000;
/// Bytes they may have together.
const KEPT_BYTES: u64 = 1024 * 1024 * 1024;
/// How long, once told to, a run may take to end.
const END_DEADLINE: Duration = Duration::from_secs(60);

/// Why a run did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// One is going on in the conversation.
    #[error("a run is going on in this conversation; follow or cancel it")]
    Locked,
    /// The last one has ended, but the database does not take it.
    #[error("the conversation's last run is not yet in the database; try again")]
    Unsettled,
    /// Its journal cannot be written.
    #[error("the run's journal cannot be written: {0}")]
    Journal(#[from] io::Error),
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
    /// Conversations whose run ended, in that order.
    ended: VecDeque<String>,
    ended_bytes: u64,
}

#[derive(Debug, Clone)]
enum Entry {
    /// Its task goes on, if only to settle it with the database.
    Going { journal: Arc<Journal>, cancel: CancellationToken },
    /// Only its journal is left.
    Ended(JournalRef),
}

impl Runs {
    /// Goes on with the runs that an earlier process left, and knows the journals of those that ended.
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
        let mut waited_for = Vec::new();
        for reference in journals.slips()? {
            if journals.is_settled(&reference)? {
                this.keep(reference);
            } else if let Some((journal, past)) = journals.resume(&reference)? {
                tracing::info!(
                    conversation = reference.conversation,
                    run = reference.run_id,
                    events = past.seq,
                    "a run is taken up again"
                );
                let (journal, cancel) = (Arc::new(journal), CancellationToken::new());
                let entry = Entry::Going { journal: journal.clone(), cancel: cancel.clone() };
                let earlier = this.table().by_conversation.insert(reference.conversation.clone(), entry);
                this.discard(earlier);
                waited_for.extend(past.head.order.uploads.clone());
                this.spawn(past, journal, cancel);
            } else {
                tracing::warn!(
                    conversation = reference.conversation,
                    run = reference.run_id,
                    "a journal without a beginning is removed"
                );
                journals.remove(&reference)?;
            }
        }
        this.services.uploads.sweep(&waited_for)?;
        Ok(this)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock()
    }

    /// Starts a run; it goes on whoever reads its journal.
    ///
    /// # Errors
    /// One is going on, the journal cannot be written, or the server is stopping.
    pub fn start(self: &Arc<Self>, order: Order) -> Result<Arc<Journal>, StartError> {
        if self.closed.is_cancelled() {
            return Err(StartError::Stopping);
        }
        let conversation = order.conversation.conversation_id.clone();
        self.table().is_free(&conversation)?;
        let head = Head { run_id: Uuid::now_v7().to_string(), began: Timestamp::now(), order };
        let journal = Arc::new(self.services.journals.begin(head.clone())?);
        let cancel = CancellationToken::new();
        let earlier = {
            let mut table = self.table();
            // Another may have been quicker while the file was made.
            table.is_free(&conversation).inspect_err(|_| self.remove(&reference_to(&conversation, &journal)))?;
            table.take_ended(&conversation);
            let entry = Entry::Going { journal: journal.clone(), cancel: cancel.clone() };
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
        self.spawn(Past::none(head), journal.clone(), cancel);
        Ok(journal)
    }

    fn spawn(self: &Arc<Self>, past: Past, journal: Arc<Journal>, cancel: CancellationToken) {
        let conversation = past.head.order.conversation.conversation_id.clone();
        // Its lines in the log are found by the request that asked for it, also after a restart.
        let (id, request_id) = (past.head.run_id.as_str(), past.head.order.request_id.as_deref());
        let span = tracing::info_span!("run", request_id, run = id, conversation, workspace = tracing::field::Empty);
        let run = Run::new(self.services.clone(), past, journal.clone(), cancel, self.stop.clone());
        let this = self.clone();
        let work = async move {
            let closing = run.closing();
            let settled = match AssertUnwindSafe(run.drive()).catch_unwind().await {
                Ok(settled) => settled,
                Err(_) => closing.after_panic(),
            };
            if settled {
                this.ended(reference_to(&conversation, &journal));
            } else {
                journal.leave();
            }
        };
        self.tasks.spawn(work.instrument(span));
    }

    /// A run's task has ended, and nothing is left to be done.
    fn ended(&self, reference: JournalRef) {
        let is_last = match self.table().by_conversation.get(&reference.conversation) {
            Some(Entry::Going { journal, .. }) => journal.run_id() == reference.run_id,
            _ => false,
        };
        // Else its conversation was deleted, or the next run was quick.
        if is_last { self.keep(reference) } else { self.remove(&reference) }
    }

    /// Keeps the journal of a conversation's last run, within bounds.
    fn keep(&self, reference: JournalRef) {
        let mut gone = Vec::new();
        {
            let mut table = self.table();
            gone.extend(table.take_ended(&reference.conversation));
            table.ended_bytes += reference.bytes;
            table.ended.push_back(reference.conversation.clone());
            table.by_conversation.insert(reference.conversation.clone(), Entry::Ended(reference));
            while table.ended.len() > KEPT || (table.ended_bytes > KEPT_BYTES && table.ended.len() > 1) {
                let Some(oldest) = table.ended.front().cloned() else { break };
                gone.extend(table.take_ended(&oldest));
            }
        }
        gone.iter().for_each(|reference| self.remove(reference));
    }

    /// Removes the journal of a conversation's earlier run.
    fn discard(&self, earlier: Option<Entry>) {
        match earlier {
            Some(Entry::Going { journal, .. }) => {
                tracing::debug!(run = journal.run_id(), "a run ended just as the next began");
            }
            Some(Entry::Ended(reference)) => self.remove(&reference),
            None => {}
        }
    }

    fn remove(&self, reference: &JournalRef) {
        if let Err(error) = self.services.journals.remove(reference) {
            tracing::warn!(conversation = reference.conversation, run = reference.run_id, %error, "a journal is left");
        }
    }

    /// The journal of a conversation's current or last run.
    ///
    /// # Errors
    /// It is there and cannot be opened.
    pub fn journal(&self, conversation: &str) -> io::Result<Option<Arc<Journal>>> {
        let entry = self.table().by_conversation.get(conversation).cloned();
        match entry {
            Some(Entry::Going { journal, .. }) => Ok(Some(journal)),
            Some(Entry::Ended(reference)) => {
                self.services.journals.read(&reference).map(|journal| Some(Arc::new(journal)))
            }
            None => Ok(None),
        }
    }

    fn going(&self, conversation: &str) -> Option<(Arc<Journal>, CancellationToken)> {
        match self.table().by_conversation.get(conversation) {
            Some(Entry::Going { journal, cancel }) => Some((journal.clone(), cancel.clone())),
            _ => None,
        }
    }

    /// The current or last run of a conversation, and whether it goes on.
    #[must_use]
    pub fn last(&self, conversation: &str) -> Option<(String, bool)> {
        match self.table().by_conversation.get(conversation)? {
            Entry::Going { journal, .. } => Some((journal.run_id().to_owned(), !journal.is_closed())),
            Entry::Ended(reference) => Some((reference.run_id.clone(), false)),
        }
    }

    /// Whether a run is going on in a conversation.
    #[must_use]
    pub fn is_going(&self, conversation: &str) -> bool {
        self.going(conversation).is_some_and(|(journal, _)| !journal.is_closed())
    }

    /// Asks a conversation's run to end; `false` where none is going on.
    pub fn cancel(&self, conversation: &str) -> bool {
        let Some((journal, cancel)) = self.going(conversation).filter(|(journal, _)| !journal.is_closed()) else {
            return false;
        };
        // So that it is not forgotten if this process dies before the run has ended.
        if let Err(error) = journal.note(&Note::Cancel) {
            tracing::warn!(run = journal.run_id(), %error, "a cancellation is not in the journal");
        }
        cancel.cancel();
        true
    }

    /// Ends a conversation's run and forgets its journal; `false` where the run did not end in time.
    pub async fn end(&self, conversation: &str) -> bool {
        self.cancel(conversation);
        if let Some((journal, _)) = self.going(conversation)
            && tokio::time::timeout(END_DEADLINE, journal.ended()).await != Ok(true)
        {
            return false;
        }
        let reference = {
            let mut table = self.table();
            let ended = table.take_ended(conversation);
            let going = table.by_conversation.remove(conversation);
            ended.or_else(|| match going? {
                Entry::Going { journal, .. } => Some(reference_to(conversation, &journal)),
                Entry::Ended(reference) => Some(reference),
            })
        };
        reference.iter().for_each(|reference| self.remove(reference));
        true
    }

    /// Takes no new run, gives those that go on until `deadline`, then ends or leaves them, as configured.
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
                tracing::info!(runs = self.tasks.len(), "runs go on in their rooms; the next start takes them up");
            }
            OnShutdown::Destroy => {
                tracing::warn!(runs = self.tasks.len(), "ending runs that go on");
            }
        }
        self.stop.cancel();
        if tokio::time::timeout(END_DEADLINE, self.tasks.wait()).await.is_err() {
            tracing::error!(runs = self.tasks.len(), "runs did not end");
        }
    }

    /// Ends the wait of [`Runs::drain`] early.
    pub fn hasten(&self) {
        self.stop.cancel();
    }
}

impl Table {
    fn is_free(&self, conversation: &str) -> Result<(), StartError> {
        match self.by_conversation.get(conversation) {
            Some(Entry::Going { journal, .. }) if !journal.is_closed() => Err(StartError::Locked),
            Some(Entry::Going { journal, .. }) if !journal.is_settled() => Err(StartError::Unsettled),
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
