//! The services that every run uses.

use std::sync::Arc;
use std::time::Duration;

use nagaya_driver::Driver;
use nagaya_telemetry::audit::Audit;
use nagaya_telemetry::metrics::Metrics;
use nagaya_workspace::OnShutdown;
use tokio::sync::Semaphore;

use super::journal::Journals;
use super::store::Store;
use super::uploads::Uploads;
use super::waiting::Waiting;
use crate::cluster::Cluster;
use crate::providers::Providers;

/// The services and settings that every run uses.
#[derive(Debug, Clone)]
pub struct RunServices {
    /// Provides workspaces, on this server or another.
    pub cluster: Arc<Cluster>,
    /// The database of tenants, models, conversations and messages.
    pub store: Store,
    /// Files uploaded with requests.
    pub uploads: Uploads,
    /// Messages that wait for a run to end.
    pub waiting: Arc<Waiting>,
    /// The runs' journals: the log of conversations.
    pub journals: Journals,
    /// Where models are called.
    pub providers: Arc<Providers>,
    /// Metrics of the process.
    pub metrics: Arc<Metrics>,
    /// Audit trail of the process.
    pub audit: Arc<Audit>,
    /// Longest duration of one execution (`CONTAINER_EXECUTION_TIMEOUT`).
    pub execution_timeout: Duration,
    /// What conducts the conversations.
    pub driver: Arc<dyn Driver>,
    /// How long a driver waits for its conversation's next turn (`DRIVER_KEEP_ALIVE`); zero ends it after each.
    pub driver_keep_alive: Duration,
    /// How long a decision is waited for (`APPROVAL_TIMEOUT`).
    pub approval_timeout: Duration,
    /// Held while a workspace is given the memory of the conversation's former driver.
    pub restoring: Arc<Semaphore>,
    /// What a shutdown does with runs in progress (`SHUTDOWN_WORKSPACES`).
    pub on_shutdown: OnShutdown,
}
