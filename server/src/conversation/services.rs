//! What every run has at its disposal.

use std::sync::Arc;
use std::time::Duration;

use nagaya_telemetry::audit::Audit;
use nagaya_telemetry::metrics::Metrics;
use nagaya_workspace::OnShutdown;

use super::journal::JournalDir;
use super::store::Store;
use super::uploads::Uploads;
use crate::cluster::Cluster;

/// What every run has at its disposal.
#[derive(Debug, Clone)]
pub struct RunServices {
    /// Provides workspaces.
    pub cluster: Arc<Cluster>,
    /// The database.
    pub store: Store,
    /// Files that came with requests.
    pub uploads: Uploads,
    /// Journals of runs.
    pub journals: JournalDir,
    /// Metrics of the process.
    pub metrics: Arc<Metrics>,
    /// Audit trail of the process.
    pub audit: Arc<Audit>,
    /// How long one execution may take (`CONTAINER_EXECUTION_TIMEOUT`).
    pub execution_timeout: Duration,
    /// What happens, at a shutdown, to runs that are going on (`SHUTDOWN_WORKSPACES`).
    pub on_shutdown: OnShutdown,
}
