//! All runs: at most one per conversation, and the journals of those that ended lately.

use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::journal::Journal;
use super::run::{Order, Run};
use super::store::Store;
use crate::telemetry::metrics::Metrics;
use crate::workspace::Workspaces;

/// Journals kept of runs that ended, so that a reader who was away can still read the end.
const KEPT: usize = 256;
/// How long, once told to, a run may take to end.
const END_DEADLINE: Duration = Duration::from_secs(60);

/// Why a run did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// One is going on in the conversation.
    #[error("a run is going on in this conversation; follow or cancel it")]
    Locked,
    /// The server is stopping.
    #[error("the server is stopping")]
    Stopping,
}

/// What runs are made with.
#[derive(Debug, Clone)]
pub struct Means {
    /// Where rooms come from.
    pub workspaces: Arc<Workspaces>,
    /// Where messages go.
    pub store: Store,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// How long one execution may take.
    pub execution_timeout: Duration,
}

/// All runs.
#[derive(Debug)]
pub struct Runs {
    means: Means,
    table: Mutex<Table>,
    tasks: TaskTracker,
    stop: CancellationToken,
    closed: CancellationToken,
}

#[derive(Debug, Default)]
struct Table {
    by_conversation: HashMap<String, Handle>,
    ended: VecDeque<String>,
}

#[derive(Debug, Clone)]
struct Handle {
    journal: Arc<Journal>,
    cancel: CancellationToken,
}

impl Runs {
    /// No run yet.
    #[must_use]
    pub fn new(means: Means) -> Arc<Self> {
        Arc::new(Self {
            means,
            table: Mutex::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            closed: CancellationToken::new(),
        })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a run; it goes on whoever reads its journal.
    ///
    /// # Errors
    /// One is going on, or the server is stopping.
    pub fn start(self: &Arc<Self>, order: Order) -> Result<Arc<Journal>, StartError> {
        if self.closed.is_cancelled() {
            return Err(StartError::Stopping);
        }
        let conversation = order.conversation.conversation_id.clone();
        let journal = Arc::new(Journal::new(Uuid::now_v7().to_string()));
        let cancel = CancellationToken::new();
        {
            let mut table = self.table();
            if table.by_conversation.get(&conversation).is_some_and(|run| !run.journal.is_closed()) {
                return Err(StartError::Locked);
            }
            table.ended.retain(|ended| *ended != conversation);
            table
                .by_conversation
                .insert(conversation.clone(), Handle { journal: journal.clone(), cancel: cancel.clone() });
        }
        let run = Run::new(self.means.clone(), order, journal.clone(), cancel, self.stop.clone());
        let this = self.clone();
        self.tasks.spawn(async move {
            let closing = run.closing();
            if AssertUnwindSafe(run.drive()).catch_unwind().await.is_err() {
                closing.after_panic();
            }
            this.ended(conversation);
        });
        Ok(journal)
    }

    fn ended(&self, conversation: String) {
        let mut table = self.table();
        table.ended.push_back(conversation);
        if table.ended.len() > KEPT
            && let Some(oldest) = table.ended.pop_front()
        {
            table.by_conversation.remove(&oldest);
        }
    }

    /// The journal of a conversation's current or last run.
    #[must_use]
    pub fn journal(&self, conversation: &str) -> Option<Arc<Journal>> {
        self.table().by_conversation.get(conversation).map(|run| run.journal.clone())
    }

    /// Asks a conversation's run to end; `false` where none is going on.
    pub fn cancel(&self, conversation: &str) -> bool {
        let going = self.table().by_conversation.get(conversation).filter(|run| !run.journal.is_closed()).cloned();
        going.map(|run| run.cancel.cancel()).is_some()
    }

    /// Ends a conversation's run and forgets its journal; `false` where the run did not end in time.
    pub async fn end(&self, conversation: &str) -> bool {
        self.cancel(conversation);
        let Some(journal) = self.journal(conversation) else { return true };
        let mut reader = journal.reader(journal.len());
        let ended = async { while reader.next().await.is_some() {} };
        if tokio::time::timeout(END_DEADLINE, ended).await.is_err() {
            return false;
        }
        let mut table = self.table();
        table.by_conversation.remove(conversation);
        table.ended.retain(|ended| ended != conversation);
        true
    }

    /// Takes no new run, gives those that go on until `deadline`, then ends them.
    pub async fn drain(&self, deadline: Duration) {
        self.closed.cancel();
        self.tasks.close();
        if !self.tasks.is_empty() {
            tracing::info!(runs = self.tasks.len(), "waiting for runs to end");
        }
        if tokio::time::timeout(deadline, self.tasks.wait()).await.is_ok() {
            return;
        }
        tracing::warn!(runs = self.tasks.len(), "ending runs that go on");
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
