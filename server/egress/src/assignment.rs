//! Whom a listener belongs to and what it may do: read together, once for each request.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::policy::{Policy, Used};
use crate::trail::Identity;

/// Whom a listener belongs to, and what it may do.
#[derive(Debug, Clone)]
pub(crate) struct Assignment {
    pub(crate) identity: Identity,
    pub(crate) policy: Arc<Policy>,
    /// Whether a run is active.
    pub(crate) running: bool,
    /// Counts the owners that the listener has had.
    pub(crate) owner: u64,
    /// Rates used so far; `None` if the policy has none.
    pub(crate) used: Option<Arc<Used>>,
}

/// The current assignment of a listener, and the signal to look at it again.
#[derive(Debug)]
pub(crate) struct Current {
    now: Mutex<Arc<Assignment>>,
    /// Tells requests and tunnels in progress to check that they are still allowed.
    recheck: watch::Sender<()>,
}

impl Current {
    pub(crate) fn new(identity: Identity, policy: Arc<Policy>, running: bool) -> Self {
        let used = Used::new(policy.rates());
        let now = Assignment { identity, policy, running, owner: 0, used };
        Self { now: Mutex::new(Arc::new(now)), recheck: watch::Sender::new(()) }
    }

    pub(crate) fn now(&self) -> Arc<Assignment> {
        self.now.lock().clone()
    }

    /// A receiver of the signal to check again; subscribe before [`Self::now`], so that no change is missed in between.
    pub(crate) fn signal(&self) -> watch::Receiver<()> {
        self.recheck.subscribe()
    }

    /// Changes the assignment. `taken_over` is called while no request can read it, with the new owner's number, if the listener
    /// gets another owner; everything that the previous one has in progress ends.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Assignment), taken_over: impl FnOnce(&Assignment)) {
        let mut now = self.now.lock();
        let mut next = (**now).clone();
        change(&mut next);
        let same = |next: &Assignment| {
            let owner = |identity: &Identity| (identity.conversation.clone(), identity.tenant.clone());
            owner(&now.identity) == owner(&next.identity)
        };
        let another = !same(&next);
        if another {
            next.owner += 1;
        }
        // A change of policy is no fresh start of its rates.
        let counted = next.used.as_ref().is_some_and(|used| used.counts(next.policy.rates()));
        if another || !counted {
            next.used = Used::new(next.policy.rates());
        }
        if another {
            taken_over(&next);
        }
        *now = Arc::new(next);
        drop(now);
        if another {
            self.recheck.send_replace(());
        }
    }

    /// Tells requests and tunnels in progress to check that they are still allowed.
    pub(crate) fn recheck(&self) {
        self.recheck.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{LayerSpec, PolicySpec, Rates};

    fn identity(tenant: &str) -> Identity {
        Identity { workspace: "w".into(), conversation: None, tenant: Some(tenant.into()) }
    }

    fn limited() -> Arc<Policy> {
        let rates = Rates { requests_per_second: Some(1), bytes_per_second: None };
        let layers = vec![LayerSpec { name: "tenant".into(), rules: Vec::new(), rates, allows_rest: false }];
        Arc::new(Policy::new(PolicySpec { layers, ..PolicySpec::default() }).expect("a policy"))
    }

    #[test]
    fn rates_are_kept_by_a_new_policy_and_not_by_another_owner() {
        let current = Current::new(identity("a"), limited(), true);
        let request = || current.now().used.as_ref().is_some_and(|used| used.request());
        assert!(request() && !request());
        current.change(|next| next.policy = limited(), |_| panic!("the owner is the same"));
        assert!(!request(), "the same rates, already used");
        let mut owner = 0;
        current.change(|next| next.identity = identity("b"), |next| owner = next.owner);
        assert!(request() && owner == 1);
    }
    #[test]
    fn another_conversation_or_tenant_is_another_owner_and_nothing_else_is() {
        let current = Current::new(identity("a"), Arc::new(Policy::closed()), false);
        let mut expected = 0;
        type Change = fn(&mut Assignment);
        let changes: [(Change, bool); 7] = [
            (|next| next.running = true, false),
            (|next| next.policy = Arc::new(Policy::operator()), false),
            (|next| next.identity.workspace = "other".into(), false),
            (|next| next.identity.conversation = Some("c".into()), true),
            (|next| next.identity.conversation = Some("c".into()), false),
            (|next| next.identity.tenant = Some("b".into()), true),
            (|next| next.identity.tenant = None, true),
        ];
        for (number, (change, is_another)) in changes.into_iter().enumerate() {
            let mut signal = current.signal();
            signal.mark_unchanged();
            let mut told = None;
            current.change(change, |next| told = Some(next.owner));
            expected += u64::from(is_another);
            assert_eq!(current.now().owner, expected, "{number}");
            assert_eq!(told, is_another.then_some(expected), "{number}: who is told");
            assert_eq!(signal.has_changed().expect("open"), is_another, "{number}: what is in progress is looked at");
        }
        let signal = current.signal();
        current.recheck();
        assert!(signal.has_changed().expect("open"));
        assert!(current.now().running && current.now().identity.workspace == "other", "the other changes stay");
    }
}
