//! Acquires a run's workspace, and tells the run's readers when it has to wait for that.

use std::time::Duration;

use super::{PING, Run};
use crate::conversation::event::Event;
use nagaya_workspace::{AcquireError, Lease};

/// How often a run looks whether it still waits, and at which position.
const LOOK: Duration = Duration::from_millis(500);
/// Shortest time between two events about the same wait.
const SAY: Duration = Duration::from_secs(5);

impl Run {
    /// A workspace for the run. While the start of its container waits for others, readers are told how many come before it. A run that
    /// is cancelled meanwhile leaves the queue, and the result is an error.
    pub(super) async fn acquire(&mut self) -> Result<Lease, AcquireError> {
        let (cluster, occupant) = (self.services.cluster.clone(), self.occupant());
        let workspaces = cluster.workspaces();
        let conversation = occupant.conversation.clone();
        let mut acquired = Box::pin(cluster.acquire(occupant));
        let cancel = self.cancel.clone();
        let mut look = tokio::time::interval(LOOK);
        look.tick().await;
        let mut ping = tokio::time::interval(PING);
        ping.reset();
        let mut said: Option<(tokio::time::Instant, usize)> = None;
        loop {
            tokio::select! {
                acquired = &mut acquired => return acquired,
                () = cancel.cancelled(), if workspaces.start_position(&conversation).is_some() => {
                    workspaces.leave_start_queue(&conversation);
                }
                _ = look.tick() => {
                    let Some(before) = workspaces.start_position(&conversation) else { continue };
                    let due = said.is_none_or(|(when, what)| what != before && when.elapsed() >= SAY);
                    if due {
                        said = Some((tokio::time::Instant::now(), before));
                        self.emit(&Event::setup(waiting(before))).await;
                    }
                }
                _ = ping.tick() => self.emit(&Event::Ping { elapsed_ms: self.elapsed_ms() }).await,
            }
        }
    }
}

fn waiting(before: usize) -> String {
    match before {
        0 => "Waiting for the start of a workspace: this one is next".to_owned(),
        1 => "Waiting for the start of a workspace: 1 is started before this one".to_owned(),
        _ => format!("Waiting for the start of a workspace: {before} are started before this one"),
    }
}
