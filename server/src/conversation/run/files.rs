//! A run's files: restored into the workspace before the run, stored from it afterwards. A fault of the bucket is reported and
//! does not fail the run.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use tokio::time::Instant;

use super::{PING, Run};
use crate::conversation::event::{ErrorType, Event};
use nagaya_telemetry::audit;
use nagaya_workspace::files::FilesError;
use nagaya_workspace::objects::SyncReport;
use nagaya_workspace::{Lease, OnShutdown, Session};

/// From this duration on, a sync that moved nothing is reported too.
const LONG: Duration = Duration::from_secs(1);

impl Run {
    /// Restores the conversation's stored files into a workspace that has not had them yet, and returns whether there were any.
    pub(super) async fn restore_files(&mut self, lease: &Lease) -> bool {
        let began = Instant::now();
        match self.with_pings(lease.restore_files()).await {
            Ok(SyncReport { skipped, skip_reason: Some(why), .. }) => {
                self.storage_error(format!("stored files missing in the workspace: {skipped}; {why}")).await;
                true
            }
            Ok(SyncReport { moved, .. }) if moved > 0 || began.elapsed() > LONG => {
                self.emit(&Event::setup(format!("Stored files restored into the workspace: {moved}"))).await;
                moved > 0
            }
            Ok(_) => false,
            Err(error) => {
                self.storage_error(format!(
                    "not all stored files are in the workspace: {error}; the run continues without them"
                ))
                .await;
                true
            }
        }
    }

    /// Copies the request's files into the workspace, replacing files of the same path. Stops early if the run is cancelled.
    ///
    /// # Errors
    /// The path that could not be written, and why; the files before it are in the workspace.
    pub(super) async fn copy_uploads(&mut self, lease: &Lease) -> Result<(), String> {
        let Some(uploads) = self.order.uploads.clone() else { return Ok(()) };
        let (cancel, stop) = (self.cancel.clone(), self.stop.clone());
        for (index, file) in uploads.files.iter().enumerate() {
            let with_path = |error: &dyn std::fmt::Display| format!("{}: {error}", file.path);
            let content = self.services.uploads.read(&uploads, index).await.map_err(|error| with_path(&error))?;
            let content = content.map_err(|error| FilesError::Interrupted(error.to_string())).boxed();
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Ok(()),
                () = stop.cancelled() => match self.services.on_shutdown {
                    OnShutdown::Keep => return Ok(()),
                    OnShutdown::Destroy => return Err(with_path(&"the server is stopping")),
                },
                put = self.with_pings(lease.put_file(&file.path, Some(file.bytes), content)) => put.map_err(|error| with_path(&error))?,
            }
            self.services.audit.record(&audit::Event::File {
                subject: self.order.subject(Some(lease.workspace_id())),
                way: audit::Way::In,
                path: &file.path,
                bytes: file.bytes,
                request_id: self.order.request_id.as_deref(),
            });
        }
        self.emit(&Event::setup(format!("Files of the request copied into the workspace: {}", uploads.files.len())))
            .await;
        Ok(())
    }

    /// Removes the request's files from the state directory: the workspace has them, or the run has ended.
    pub(super) fn remove_uploads(&self) {
        if let Some(uploads) = &self.order.uploads {
            self.services.uploads.remove(uploads);
        }
    }

    /// Stores the workspace's files and ends the lease; `session` is what is left of the driver for the next run.
    pub(super) async fn store_files_and_finish(&mut self, lease: Lease, session: Option<Session>) {
        self.clear_agent_event();
        match self.with_pings(lease.save_files()).await {
            Ok(SyncReport { skipped, skip_reason: Some(why), .. }) => {
                self.storage_error(format!("files not stored: {skipped}; {why}")).await;
            }
            Ok(_) => {}
            Err(error) => {
                self.storage_error(format!("not all files are stored: {error}; the next run stores them")).await;
            }
        }
        lease.finish(session).await;
    }

    async fn storage_error(&mut self, message: String) {
        self.fail(ErrorType::StorageError, message).await;
    }

    /// Does `work`, and sends pings meanwhile.
    async fn with_pings<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut ping = tokio::time::interval(PING);
        ping.reset();
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = ping.tick() => self.emit(&Event::Ping { elapsed_ms: self.elapsed_ms() }).await,
            }
        }
    }
}
