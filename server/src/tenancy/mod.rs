//! What a tenant decides: its configuration and that of its conversations, its vaults, and what applies where they meet.
//!
//! The operator's settings are the ceiling. A tenant's document narrows them, a conversation's document narrows the tenant's, and a
//! run narrows that: [`fn@resolve`] is the only place where they meet.

mod address;
pub mod agent;
pub mod document;
pub mod documents;
mod excess;
pub mod integrations;
pub mod permissions;
mod policies;
pub mod problem;
pub mod resolve;
mod rules;
pub mod vaults;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock, Weak};

use nagaya_egress::{Egress, PolicyError};

pub use document::Document;
pub use problem::Problem;
pub use resolve::{Effective, Operator, resolve};

use self::vaults::seal::{SealError, Sealer};
use crate::cluster::Cluster;
use crate::conversation::store::{Store, StoreError};
use crate::providers::Providers;

/// What the operator's settings say about tenants.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// What every tenant may have at most.
    pub operator: Operator,
    /// Seals secrets; `None` where no key is configured.
    pub sealer: Option<Sealer>,
    /// Roles that vaults may name (`VAULT_ROLES`).
    pub roles: Vec<String>,
    /// Where models are called.
    pub providers: Option<Providers>,
}

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum TenancyError {
    /// What was given has these problems, and nothing was changed.
    #[error("{} problems", .0.len())]
    Problems(Vec<Problem>),
    /// There is no key to seal secrets with.
    #[error("vaults need a key: set VAULT_KEY_FILE or VAULT_KEY_COMMAND")]
    NoKey,
    /// A secret cannot be sealed or opened.
    #[error("a secret: {0}")]
    Seal(#[from] SealError),
    /// What is stored cannot be read.
    #[error("what is stored cannot be read: {0}")]
    Unreadable(Arc<serde_json::Error>),
    /// The proxy does not accept a policy, an address or a credential.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<serde_json::Error> for TenancyError {
    fn from(error: serde_json::Error) -> Self {
        Self::Unreadable(Arc::new(error))
    }
}

/// Configurations, vaults and policies of all tenants.
#[derive(Debug)]
pub struct Tenancy {
    store: Store,
    settings: Settings,
    egress: Arc<Egress>,
    /// For what outlives a call: a credential asks later what its tenant may reach then.
    me: Weak<Self>,
    /// The workspaces hold this in turn, to ask it for policies.
    cluster: OnceLock<Weak<Cluster>>,
    live: vaults::live::Live,
    /// A policy could not be made, and is to be made again.
    stale: AtomicBool,
    /// The last policy that was to be made could not be, and the log says so.
    failing: AtomicBool,
}

impl Tenancy {
    /// Reads and writes configurations and vaults. Until [`Tenancy::serve`] is called, changes reach no open workspace.
    #[must_use]
    pub fn new(store: Store, settings: Settings, egress: Arc<Egress>) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            store,
            settings,
            egress,
            me: me.clone(),
            cluster: OnceLock::new(),
            live: vaults::live::Live::default(),
            stale: AtomicBool::new(false),
            failing: AtomicBool::new(false),
        })
    }

    /// The workspaces to which changes are told.
    pub fn serve(&self, cluster: &Arc<Cluster>) {
        if self.cluster.set(Arc::downgrade(cluster)).is_err() {
            tracing::error!("the workspaces of the tenants' configurations are known already");
        }
    }

    fn cluster(&self) -> Option<Arc<Cluster>> {
        self.cluster.get()?.upgrade()
    }
}
