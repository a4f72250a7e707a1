//! One listener: a client's socket, and everything that the proxy does for this client.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::answer::Refusal;
use crate::assignment::{Assignment, Current};
use crate::connection;
use crate::denials::Denials;
use crate::policy::{Explanation, Policy, PolicyError, Question, explain};
use crate::pool::Pool;
use crate::proxy::{Egress, Gauge};
use crate::quota::{Quota, Resource};
use crate::settings::REFUSED_AT_ONCE;
use crate::trail::Identity;

/// Interval at which the listener closes unused connections to targets and records the refusals it has counted.
const UPKEEP: Duration = Duration::from_secs(1);
/// Pause after a connection could not be accepted, most likely for lack of descriptors.
const PAUSE: Duration = Duration::from_millis(50);
/// Pause after a connection was closed without an answer, so that a client that connects in a loop takes little from the others.
const BRAKE: Duration = Duration::from_millis(2);

/// An open listener. It ends when it is stopped or dropped.
#[derive(Debug)]
pub struct Listener {
    egress: Arc<Egress>,
    shared: Arc<Shared>,
    stop: DropGuard,
}

/// State that the connections of one listener share.
pub(crate) struct Shared {
    /// Whom the listener belongs to, and what it may do.
    pub(crate) current: Current,
    /// Permits for concurrent requests and tunnels.
    pub(crate) requests: Semaphore,
    /// Permits for open connections.
    connections: Arc<Semaphore>,
    /// Permits for connections beyond the limit that are being refused.
    refusals: Arc<Semaphore>,
    /// Rate and records of refusals.
    pub(crate) denials: Arc<Denials>,
    /// The listener's connections to targets.
    pub(crate) pool: Pool,
    /// The listener's quota of the shared resources.
    pub(crate) quota: Arc<Quota>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("current", &self.current).finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn now(&self) -> Arc<Assignment> {
        self.current.now()
    }

    /// Runs a task that is cancelled when the listener stops.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled(task).await;
        });
    }
}

impl Listener {
    pub(crate) fn open(
        egress: Arc<Egress>,
        socket: UnixListener,
        identity: Identity,
        policy: Arc<Policy>,
        running: bool,
    ) -> Self {
        let stop = CancellationToken::new();
        let quota = egress.quotas.listener(identity.tenant.as_deref());
        let shared = Arc::new(Shared {
            current: Current::new(identity, policy, running),
            requests: Semaphore::new(egress.limits.concurrent),
            connections: Arc::new(Semaphore::new(egress.limits.connections)),
            refusals: Arc::new(Semaphore::new(REFUSED_AT_ONCE)),
            denials: Arc::new(Denials::new(egress.trail.clone(), &egress.limits)),
            pool: Pool::new(egress.dialer.clone(), quota.clone(), egress.limits.idle_connections),
            quota,
            tasks: TaskTracker::new(),
            stop: stop.clone(),
        });
        let gauge = Gauge::raise(&egress, |egress| &egress.listeners);
        let (accepting, opened) = (shared.clone(), egress.clone());
        shared.tasks.spawn(async move {
            accept(&egress, &accepting, socket).await;
            accepting.pool.clear();
            accepting.denials.flush();
            drop(gauge);
        });
        Self { shared, egress: opened, stop: stop.drop_guard() }
    }

    /// Assigns the listener to `identity`: new records name it, and the listener's use counts towards its tenant. The policy stays.
    pub fn identify(&self, identity: Identity) {
        self.change(|next| next.identity = identity);
    }

    /// Replaces the policy: it holds for the next request on every connection, also on those that are open. What is in progress goes
    /// on, with the credential that it began with; see [`Self::close_tunnels`].
    pub fn apply(&self, policy: Arc<Policy>) {
        self.change(|next| next.policy = policy);
    }

    /// Assigns the listener to `identity`, with this policy, at once: no request is made by one and judged by the other. If the owner
    /// changes, that is the tenant or the conversation, everything that the previous one has in progress ends, and no
    /// connection to a target is used for both.
    pub fn assign(&self, identity: Identity, policy: Arc<Policy>) {
        self.change(|next| (next.identity, next.policy) = (identity, policy));
    }

    /// Tells whether a run is active. Outside runs, requests to models are refused, and credentials that are for runs.
    pub fn running(&self, running: bool) {
        self.change(|next| next.running = running);
    }

    /// Ends the tunnels, and the requests in progress, that the present policy does not allow.
    pub fn close_tunnels(&self) {
        self.shared.current.recheck();
    }

    /// The present policy.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        self.shared.now().policy.clone()
    }

    /// What would happen to a request now, and why.
    ///
    /// # Errors
    /// The URL or the method cannot be read.
    pub fn explain(&self, question: &Question) -> Result<Explanation, PolicyError> {
        explain(self.egress.ground(), &self.shared.now().policy, question)
    }

    fn change(&self, change: impl FnOnce(&mut Assignment)) {
        // Refusals so far belong to the previous identity.
        self.shared.denials.flush();
        self.shared.current.change(change, |next| {
            self.shared.quota.belongs_to(next.identity.tenant.as_deref());
            self.shared.pool.belongs_to(next.owner);
        });
    }

    /// Stops the listener: it accepts no connection any more, cancels requests and tunnels, and waits
    /// until all of this is done, at most for `deadline`.
    pub async fn stop(self, deadline: Duration) {
        let Self { shared, stop, egress: _ } = self;
        drop(stop);
        shared.tasks.close();
        if tokio::time::timeout(deadline, shared.tasks.wait()).await.is_err() {
            tracing::error!(tasks = shared.tasks.len(), "a listener's work did not end in time");
        }
    }
}

/// What became of a connection that was accepted.
#[derive(PartialEq, Eq)]
enum Admission {
    Served,
    /// It was closed without an answer.
    Dropped,
}

/// Serves a connection within the limit, refuses one beyond it, and drops it if too many are being refused.
fn admit(egress: &Arc<Egress>, shared: &Arc<Shared>, stream: UnixStream) -> Admission {
    let (egress, this) = (egress.clone(), shared.clone());
    let refusal = match shared.connections.clone().try_acquire_owned() {
        Ok(permit) => match shared.quota.take(Resource::Descriptors, 1) {
            Some(descriptor) => {
                shared.spawn(async move {
                    connection::serve(egress, this, stream).await;
                    drop((permit, descriptor));
                });
                return Admission::Served;
            }
            None => Refusal::too_many_connections(),
        },
        Err(_) => Refusal::too_many(),
    };
    let Ok(permit) = shared.refusals.clone().try_acquire_owned() else { return Admission::Dropped };
    shared.spawn(async move {
        connection::turn_away(&egress, &this, &stream, &refusal).await;
        drop(permit);
    });
    Admission::Served
}

async fn accept(egress: &Arc<Egress>, shared: &Arc<Shared>, socket: UnixListener) {
    let mut upkeep = tokio::time::interval(UPKEEP);
    loop {
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => break,
            _ = upkeep.tick() => {
                shared.pool.sweep();
                shared.denials.flush();
            }
            accepted = socket.accept() => match accepted {
                Ok((stream, _)) => {
                    if admit(egress, shared, stream) == Admission::Dropped {
                        tokio::time::sleep(BRAKE).await;
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "a connection could not be accepted");
                    tokio::time::sleep(PAUSE).await;
                }
            },
        }
    }
}
