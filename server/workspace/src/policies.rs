//! What the workspace of a conversation may do at its egress proxy. Who decides that lies above this crate.

use std::sync::Arc;

use futures::future::BoxFuture;
use nagaya_egress::Policy;

use crate::rooms::Occupant;

/// Decides what the workspace of a conversation may do at its egress proxy.
pub trait Policies: std::fmt::Debug + Send + Sync {
    /// The policy of a conversation's workspace, as it is now. It is asked for anew whenever something may have changed, and answers
    /// with [`Policy::closed`] where it cannot decide.
    fn of<'a>(&'a self, occupant: &'a Occupant) -> BoxFuture<'a, Arc<Policy>>;
}

/// Every workspace may do what the operator's settings allow.
#[derive(Debug, Clone, Copy, Default)]
pub struct OperatorsOnly;

impl Policies for OperatorsOnly {
    fn of<'a>(&'a self, _: &'a Occupant) -> BoxFuture<'a, Arc<Policy>> {
        Box::pin(std::future::ready(Arc::new(Policy::operator())))
    }
}
