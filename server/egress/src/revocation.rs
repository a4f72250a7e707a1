//! Ends what is in progress and no longer allowed.

use std::sync::Arc;

use http::uri::PathAndQuery;
use http::{HeaderMap, Method};
use tokio::sync::watch;

use crate::answer::Refusal;
use crate::listener::Shared;
use crate::policy::{Asked, decide};
use crate::proxy::Egress;
use crate::target::Target;

/// Watches over a request or tunnel in progress.
pub(crate) struct Revocation<'a> {
    pub(crate) egress: &'a Arc<Egress>,
    pub(crate) shared: &'a Shared,
    pub(crate) target: &'a Target,
    /// Number of the owner that it began for.
    pub(crate) owner: u64,
    pub(crate) signal: watch::Receiver<()>,
}

impl Revocation<'_> {
    /// Runs `work` as long as the request is allowed; `None` if it ends before, because its listener has got another owner, or a
    /// policy that does not allow it and is to be applied to what is in progress.
    pub(crate) async fn within<T>(
        &mut self,
        (method, path, headers): (&Method, &PathAndQuery, &HeaderMap),
        work: impl Future<Output = T>,
    ) -> Result<T, Refusal> {
        let revoked = async {
            loop {
                if self.signal.changed().await.is_err() {
                    return std::future::pending().await;
                }
                let now = self.shared.now();
                let asked = Asked::new(self.target, method.as_str(), path, Some(headers));
                let decided = decide(self.egress.ground(), &now.policy, now.running, &asked);
                if now.owner != self.owner || decided.ruling.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = revoked => Err(Refusal::denied("policy_changed")),
        }
    }
}
