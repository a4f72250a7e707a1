//! Executions: one at a time. The events of the last one are kept for readers that reconnect.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nagaya_protocol::{AgentEvent, ExecuteRequest};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::buffer::Buffer;
use crate::claude_code::version::Cli;
use crate::driver::{self, Driver};
use crate::input::{Input, Refusal};
use crate::memory;
use crate::process;

/// Time limit for an execution to end after it is cancelled.
const END_DEADLINE: Duration = Duration::from_secs(15);
/// How long a driver that waits for a turn may take to exit before it is killed: a container that stops, and a conversation that needs
/// another driver, have little time.
const FAREWELL: Duration = Duration::from_secs(3);

/// A running or completed execution.
#[derive(Debug)]
pub(crate) struct Execution {
    pub(crate) id: String,
    pub(crate) events: Arc<Buffer>,
    pub(crate) input: Input,
    pub(crate) cancelled: CancellationToken,
    /// Until when the driver waits for its next input; `None` during a turn.
    parked: watch::Sender<Option<Instant>>,
    /// Process id of the driver, once it has started.
    process: watch::Sender<Option<i32>>,
    /// How many processes the kernel had killed for want of memory when the turn began.
    killed_before: AtomicU64,
    /// Whether the turn's clients have been told of processes that were killed since.
    told: AtomicBool,
}

impl Execution {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            id: new_id(),
            events: Buffer::new(),
            input: Input::default(),
            cancelled: CancellationToken::new(),
            parked: watch::Sender::new(None),
            process: watch::Sender::new(None),
            killed_before: AtomicU64::new(0),
            told: AtomicBool::new(false),
        })
    }

    /// Cancels the execution; `true` once all its processes have exited, `false` after the time limit. A driver that waits for a turn has
    /// its input closed first, and may write what it has to.
    pub(crate) async fn end(&self) -> bool {
        if self.is_parked() {
            self.input.close();
            if tokio::time::timeout(FAREWELL, self.events.closed()).await.is_err() {
                tracing::warn!("the driver does not exit, and is killed");
            }
        }
        self.cancelled.cancel();
        tokio::time::timeout(END_DEADLINE, self.events.closed()).await.is_ok()
    }

    /// Notes the driver's process.
    pub(crate) fn runs_as(&self, process: i32) {
        self.process.send_replace(Some(process));
    }

    /// Takes lines for the driver, which begin its next turn if it is parked.
    pub(crate) fn write(&self, id: &str, lines: &[String]) -> Result<(), Refusal> {
        if self.events.is_closed() {
            return Err(Refusal::Closed);
        }
        self.input.push(id, lines)?;
        if self.parked.send_replace(None).is_some() {
            self.turn_begins();
        }
        Ok(())
    }

    /// Notes that a turn begins: what is killed from now on for want of memory is killed during it.
    pub(crate) fn turn_begins(&self) {
        self.begins_after(memory::kills());
    }

    fn begins_after(&self, kills: u64) {
        self.killed_before.store(kills, Ordering::Relaxed);
        self.told.store(false, Ordering::Relaxed);
    }

    /// Whether the kernel has killed a process for want of memory since the turn began.
    pub(crate) fn has_lost_processes(&self) -> bool {
        memory::kills() > self.killed_before.load(Ordering::Relaxed)
    }

    /// As [`Execution::has_lost_processes`], the first time in a turn.
    pub(crate) fn loses_processes(&self) -> bool {
        !self.is_parked() && !self.told.load(Ordering::Relaxed) && self.is_first_loss(memory::kills())
    }

    fn is_first_loss(&self, kills: u64) -> bool {
        kills > self.killed_before.load(Ordering::Relaxed) && !self.told.swap(true, Ordering::Relaxed)
    }

    /// Ends a turn: kills every process but the driver's own, which then waits for this long.
    pub(crate) async fn park(&self, time: Duration) -> io::Result<()> {
        let process = *self.process.borrow();
        process::kill_descendants_except(process).await?;
        self.parked.send_replace(Some(Instant::now() + time));
        Ok(())
    }

    /// Whether the driver waits for its next turn.
    pub(crate) fn is_parked(&self) -> bool {
        self.parked.borrow().is_some()
    }

    /// Waits until the driver has waited in vain for as long as it was to.
    pub(crate) async fn parked_in_vain(&self) {
        let mut parked = self.parked.subscribe();
        loop {
            let until = *parked.borrow_and_update();
            let up = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = up => return,
                // The sender is a field of this.
                _ = parked.changed() => {}
            }
        }
    }
}

/// The executions in this workspace.
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

    /// Starts an execution whose log lines carry the id of the API request; `None` if one is in progress.
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
            let execution = Execution::new();
            *last = Some(execution.clone());
            execution
        };
        let (this, running) = (self.clone(), execution.clone());
        let span = tracing::info_span!("execution", id = execution.id, request_id);
        let work = async move {
            tracing::info!("execution started");
            running.events.write(&AgentEvent::Started { execution_id: running.id.clone() }).await;
            let ended = this.driver.drive(&request, &running).await;
            driver::clean_up().await;
            tracing::info!("execution ended");
            running.events.write(&AgentEvent::Ended(ended)).await;
        };
        self.tasks.spawn(work.instrument(span));
        Some(execution)
    }

    /// The id of the execution of which a turn is running, or else of the one that is parked.
    pub(crate) fn running(&self) -> (Option<String>, Option<String>) {
        let last = self.last();
        let Some(execution) = last.as_ref().filter(|execution| !execution.events.is_closed()) else {
            return (None, None);
        };
        let id = Some(execution.id.clone());
        if execution.is_parked() { (None, id) } else { (id, None) }
    }

    /// The execution with this id, if it is in progress or was the last one.
    pub(crate) fn get(&self, id: &str) -> Option<Arc<Execution>> {
        self.last().as_ref().filter(|execution| execution.id == id).cloned()
    }

    /// Cancels the execution in progress, if any, and waits for it.
    pub(crate) async fn shutdown(&self) {
        let last = self.last().clone();
        if let Some(execution) = last.filter(|execution| !execution.events.is_closed()) {
            execution.end().await;
        }
        self.tasks.close();
        if tokio::time::timeout(END_DEADLINE, self.tasks.wait()).await.is_err() {
            tracing::error!("an execution did not end within the time limit");
        }
    }
}

/// A new id, unique in this workspace and not predictable from earlier ones.
fn new_id() -> String {
    use std::hash::{BuildHasher, RandomState};
    format!("{:016x}", RandomState::new().hash_one(std::time::Instant::now()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_killed_for_memory_is_told_once_in_a_turn() {
        let execution = Execution::new();
        for before in [0, 5] {
            execution.begins_after(before);
            let told = [before, before + 1, before + 2].map(|kills| execution.is_first_loss(kills));
            assert_eq!(told, [false, true, false], "after {before}");
        }
    }
}
