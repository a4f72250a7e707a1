//! A run's files: into the room before it, out of the room after it. The bucket's faults never fail a run.

use std::time::Duration;

use tokio::time::Instant;

use super::{PING, Run};
use crate::conversation::event::{ErrorType, Event};
use crate::files::{Done, StorageError};
use crate::workspace::Lease;

/// What is worth telling of a sync that went well.
const LONG: Duration = Duration::from_secs(1);

impl Run {
    /// The conversation's stored files, where the room has not had them yet.
    pub(super) async fn bring_files(&mut self, lease: &Lease) {
        let began = Instant::now();
        match self.with_pings(lease.bring_files()).await {
            Ok(Done { skipped, why_skipped: Some(why), .. }) => {
                self.tell(format!("stored files that are not in the room: {skipped}; {why}")).await;
            }
            Ok(Done { moved, .. }) if moved > 0 || began.elapsed() > LONG => {
                self.say(&Event::setup(format!("Stored files are in the room: {moved}"))).await;
            }
            Ok(_) => {}
            Err(error) => {
                self.tell(format!("stored files are not all in the room: {error}; the run goes on without them")).await;
            }
        }
    }

    /// Ends the lease once the room's files are stored, or will not be soon.
    pub(super) async fn part(&mut self, lease: Lease, session: Option<String>) {
        // From here on it is not the agent that is told of.
        (self.agent, self.told) = (0, 0);
        match self.with_pings(lease.take_files()).await {
            Ok(Done { skipped, why_skipped: Some(why), .. }) => {
                self.tell(format!("files that are not stored: {skipped}; {why}")).await;
            }
            Ok(_) => {}
            Err(error) => self.tell(format!("files are not all stored: {error}; the next run stores them")).await,
        }
        lease.finish(session).await;
    }

    async fn tell(&mut self, message: String) {
        self.fail(ErrorType::StorageError, message, true).await;
    }

    async fn with_pings(
        &mut self,
        work: impl Future<Output = Result<Done, StorageError>>,
    ) -> Result<Done, StorageError> {
        let mut ping = tokio::time::interval(PING);
        ping.reset();
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = ping.tick() => self.say(&Event::Ping { elapsed_ms: self.elapsed_ms() }).await,
            }
        }
    }
}
