//! Executions: one at a time, the last one's events kept for whoever comes back.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nagaya_protocol::{AgentEvent, ExecuteRequest};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::buffer::Buffer;
use crate::driver::{self, Driver};
use crate::version::Cli;

/// How long an execution may take to end once it is told to.
const END_DEADLINE: Duration = Duration::from_secs(15);

/// One execution.
#[derive(Debug)]
pub(crate) struct Execution {
    pub(crate) id: String,
    pub(crate) events: Arc<Buffer>,
    cancel: CancellationToken,
}

impl Execution {
    /// Ends the execution; `true` once nothing of it runs, `false` where that took too long.
    pub(crate) async fn end(&self) -> bool {
        self.cancel.cancel();
        tokio::time::timeout(END_DEADLINE, self.events.closed()).await.is_ok()
    }
}

/// The room's executions.
#[derive(Debug)]
pub(crate) struct Executions {
    driver: Driver,
    last: Mutex<Option<Arc<Execution>>>,
    tasks: TaskTracker,
}

impl Executions {
    pub(crate) fn new(driver: Driver) -> Self {
        Self { driver, last: Mutex::default(), tasks: TaskTracker::new() }
    }

    pub(crate) fn cli(&self) -> &Cli {
        &self.driver.cli
    }

    fn last(&self) -> MutexGuard<'_, Option<Arc<Execution>>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts an execution, whose lines in the log carry the id of the request that asked for it; `None` where one is going on.
    pub(crate) fn start(
        self: &Arc<Self>,
        request: ExecuteRequest,
        request_id: Option<String>,
    ) -> Option<Arc<Execution>> {
        let execution = {
            let mut last = self.last();
            if last.as_ref().is_some_and(|execution| !execution.events.is_closed()) {
                return None;
            }
            let execution =
                Arc::new(Execution { id: new_id(), events: Buffer::new(), cancel: CancellationToken::new() });
            *last = Some(execution.clone());
            execution
        };
        let (this, running) = (self.clone(), execution.clone());
        let span = tracing::info_span!("execution", id = execution.id, request_id);
        let work = async move {
            tracing::info!("begins");
            running.events.write(&AgentEvent::Started { execution_id: running.id.clone() }).await;
            let ending = this.driver.drive(&request, &running.events, &running.cancel).await;
            driver::clean_up().await;
            tracing::info!("ends");
            running.events.write(&ending).await;
        };
        self.tasks.spawn(work.instrument(span));
        Some(execution)
    }

    /// The id of the execution that is running.
    pub(crate) fn running(&self) -> Option<String> {
        self.last().as_ref().filter(|execution| !execution.events.is_closed()).map(|execution| execution.id.clone())
    }

    /// The execution of this id, if it is going on or was the last.
    pub(crate) fn get(&self, id: &str) -> Option<Arc<Execution>> {
        self.last().as_ref().filter(|execution| execution.id == id).cloned()
    }

    /// Ends what is going on.
    pub(crate) async fn shutdown(&self) {
        let last = self.last().clone();
        if let Some(execution) = last.filter(|execution| !execution.events.is_closed()) {
            execution.end().await;
        }
        self.tasks.close();
        if tokio::time::timeout(END_DEADLINE, self.tasks.wait()).await.is_err() {
            tracing::error!("an execution does not end");
        }
    }
}

/// Unique in this room's life, and not to be guessed from an earlier one.
fn new_id() -> String {
    use std::hash::{BuildHasher, RandomState};
    format!("{:016x}", RandomState::new().hash_one(std::time::Instant::now()))
}
