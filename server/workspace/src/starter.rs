//! What workspaces of the warm pool hold started before they have a conversation. Who answers lies above this crate.

use futures::future::BoxFuture;
use nagaya_protocol::ExecuteRequest;

/// A driver to start in a workspace of the pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToStart {
    /// What starts it, without a turn.
    pub request: ExecuteRequest,
    /// What it is started with, as a digest, by which a conversation tells whether it can use the driver.
    pub options: String,
}

/// Says which driver workspaces of the pool hold.
pub trait Starter: std::fmt::Debug + Send + Sync {
    /// The driver of the next workspace; `None` for none. It is asked for each.
    fn driver(&self) -> BoxFuture<'_, Option<ToStart>>;
}
