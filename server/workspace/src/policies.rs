//! What conversations decide about their workspaces: what these may do at their egress proxies, and what their containers are. Who
//! answers lies above this crate.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use nagaya_egress::Policy;

use crate::rooms::Occupant;
use crate::spec::Variant;

/// What a conversation's container is to be cannot be found out now; with the reason.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the conversation's configuration cannot be read: {0}")]
pub struct VariantUnknown(pub String);

/// Decides what the workspaces of conversations may do and what they are.
pub trait Policies: std::fmt::Debug + Send + Sync {
    /// The policies of the workspaces of these conversations, in their order, as they are now. They are asked for anew whenever
    /// something may have changed, and are [`Policy::closed`] where that cannot be decided.
    fn of<'a>(&'a self, occupants: &'a [Occupant]) -> BoxFuture<'a, Vec<Arc<Policy>>>;

    /// What the container of a conversation is to be. It is asked for whenever the conversation acquires its workspace.
    fn variant<'a>(&'a self, occupant: &'a Occupant) -> BoxFuture<'a, Result<Variant, VariantUnknown>>;
}

/// Every workspace may do what the operator's settings allow, and is like those of the pool.
#[derive(Debug, Clone, Copy, Default)]
pub struct OperatorsOnly;

impl Policies for OperatorsOnly {
    fn of<'a>(&'a self, occupants: &'a [Occupant]) -> BoxFuture<'a, Vec<Arc<Policy>>> {
        let policy = Arc::new(Policy::operator());
        ready(vec![policy; occupants.len()]).boxed()
    }

    fn variant<'a>(&'a self, _: &'a Occupant) -> BoxFuture<'a, Result<Variant, VariantUnknown>> {
        ready(Ok(Variant::default())).boxed()
    }
}
