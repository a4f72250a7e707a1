//! A run's files: into the room before it, out of the room after it. The bucket's faults never fail a run.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use tokio::time::Instant;

use super::{PING, Run};
use crate::conversation::event::{ErrorType, Event};
use nagaya_telemetry::audit;
use nagaya_workspace::files::FilesError;
use nagaya_workspace::objects::SyncReport;
use nagaya_workspace::{Lease, OnShutdown};

/// What is worth telling of a sync that went well.
const LONG: Duration = Duration::from_secs(1);

impl Run {
    /// The conversation's stored files, where the room has not had them yet.
    pub(super) async fn bring_files(&mut self, lease: &Lease) {
        let began = Instant::now();
        match self.with_pings(lease.restore_files()).await {
            Ok(SyncReport { skipped, skip_reason: Some(why), .. }) => {
                self.tell(format!("stored files that are not in the room: {skipped}; {why}")).await;
            }
            Ok(SyncReport { moved, .. }) if moved > 0 || began.elapsed() > LONG => {
                self.say(&Event::setup(format!("Stored files are in the room: {moved}"))).await;
            }
            Ok(_) => {}
            Err(error) => {
                self.tell(format!("stored files are not all in the room: {error}; the run goes on without them")).await;
            }
        }
    }

    /// Puts the files that came with the request into the room, over what is there of the same names. Cut short by the run's end.
    ///
    /// # Errors
    /// Which of them is not there, and why; those before it are.
    pub(super) async fn bring_uploads(&mut self, lease: &Lease) -> Result<(), String> {
        let Some(uploads) = self.order.uploads.clone() else { return Ok(()) };
        let (cancel, stop) = (self.cancel.clone(), self.stop.clone());
        for (at, file) in uploads.files.iter().enumerate() {
            let told = |error: &dyn std::fmt::Display| format!("{}: {error}", file.path);
            let content = self.services.uploads.read(&uploads, at).await.map_err(|error| told(&error))?;
            let content = content.map_err(|error| FilesError::Interrupted(error.to_string())).boxed();
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Ok(()),
                () = stop.cancelled() => match self.services.on_shutdown {
                    OnShutdown::Keep => return Ok(()),
                    OnShutdown::Destroy => return Err(told(&"the server is stopping")),
                },
                put = self.with_pings(lease.put_file(&file.path, Some(file.bytes), content)) => put.map_err(|error| told(&error))?,
            }
            self.services.audit.record(&audit::Event::File {
                subject: self.order.subject(Some(lease.workspace_id())),
                way: audit::Way::In,
                path: &file.path,
                bytes: file.bytes,
                request_id: self.order.request_id.as_deref(),
            });
        }
        self.say(&Event::setup(format!("Files of the request are in the room: {}", uploads.files.len()))).await;
        Ok(())
    }

    /// The room has them, or the run has ended: they are not needed any more.
    pub(super) fn forget_uploads(&self) {
        if let Some(uploads) = &self.order.uploads {
            self.services.uploads.remove(uploads);
        }
    }

    /// Ends the lease once the room's files are stored, or will not be soon.
    pub(super) async fn part(&mut self, lease: Lease, session: Option<String>) {
        // From here on it is not the agent that is told of.
        (self.agent, self.told) = (0, 0);
        match self.with_pings(lease.save_files()).await {
            Ok(SyncReport { skipped, skip_reason: Some(why), .. }) => {
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

    async fn with_pings<T>(&mut self, work: impl Future<Output = T>) -> T {
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
