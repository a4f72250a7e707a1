//! One listener: who is on the other side of a socket, and all that is done for them.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::connection;
use crate::held::Budget;
use crate::place::{Bound, Place};
use crate::proxy::{Egress, Gauge};
use crate::trail::Identity;

/// How often it is looked whether the socket is still the one that was made.
const MEND: Duration = Duration::from_secs(1);
/// Connections beyond the limit that are told so at the same time.
const REFUSALS: usize = 16;
/// Before the next connection is accepted after one could not be: this process is out of descriptors, most likely.
const PAUSE: Duration = Duration::from_millis(50);

/// An open listener; ends when stopped or dropped.
#[derive(Debug)]
pub struct Listener {
    shared: Arc<Shared>,
    stop: DropGuard,
}

/// What the connections of one listener share.
#[derive(Debug)]
pub(crate) struct Shared {
    identity: Mutex<Identity>,
    /// Requests and tunnels that may be served now.
    pub(crate) requests: Semaphore,
    /// Connections that may be open now.
    connections: Arc<Semaphore>,
    /// Connections beyond those that are being told so.
    refusals: Arc<Semaphore>,
    /// What the bodies that are held for this listener may take.
    pub(crate) budget: Arc<Budget>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Shared {
    pub(crate) fn identity(&self) -> Identity {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Runs something that ends, at the latest, with the listener.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled(task).await;
        });
    }
}

impl Listener {
    pub(crate) fn open(egress: Arc<Egress>, dir: OwnedFd, name: &str, identity: Identity) -> io::Result<Self> {
        let place = Place::new(dir, name);
        let bound = place.bind()?;
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            identity: Mutex::new(identity),
            requests: Semaphore::new(egress.limits.concurrent),
            connections: Arc::new(Semaphore::new(egress.limits.connections)),
            refusals: Arc::new(Semaphore::new(REFUSALS)),
            budget: Budget::part(&egress.budget, &egress.limits),
            tasks: TaskTracker::new(),
            stop: stop.clone(),
        });
        let gauge = Gauge::raise(&egress, |egress| &egress.listeners);
        let accepting = shared.clone();
        shared.tasks.spawn(async move {
            accept(&egress, &accepting, &place, bound).await;
            drop(gauge);
            if egress.open_listeners() == 0 {
                // Nobody is left who could use them; and what is over leaves nothing open.
                egress.pool.clear();
            }
        });
        Ok(Self { shared, stop: stop.drop_guard() })
    }

    /// From here on, whoever asks is somebody else.
    pub fn identify(&self, identity: Identity) {
        *self.shared.identity.lock().unwrap_or_else(PoisonError::into_inner) = identity;
    }

    /// Ends it: nothing is accepted, requests and tunnels end, the socket is removed if it is still the one that was made.
    pub async fn stop(self, deadline: Duration) {
        let Self { shared, stop } = self;
        drop(stop);
        shared.tasks.close();
        if tokio::time::timeout(deadline, shared.tasks.wait()).await.is_err() {
            tracing::error!(tasks = shared.tasks.len(), "a listener's work did not end in time");
        }
    }
}

/// A connection is served if there is room for it, told if there is not, and dropped where too many would have to be told:
/// none of them costs more than that.
fn admit(egress: &Arc<Egress>, shared: &Arc<Shared>, stream: UnixStream) {
    let (egress, this) = (egress.clone(), shared.clone());
    if let Ok(permit) = shared.connections.clone().try_acquire_owned() {
        shared.spawn(async move {
            connection::serve(egress, this, stream).await;
            drop(permit);
        });
    } else if let Ok(permit) = shared.refusals.clone().try_acquire_owned() {
        shared.spawn(async move {
            connection::turn_away(&egress, &this, &stream).await;
            drop(permit);
        });
    }
}

async fn accept(egress: &Arc<Egress>, shared: &Arc<Shared>, place: &Place, mut bound: Bound) {
    let mut mend = tokio::time::interval(MEND);
    let mut broken = false;
    loop {
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => break,
            _ = mend.tick() => {
                egress.sweep();
                if !place.holds(&bound) {
                    match place.bind() {
                        Ok(anew) => {
                            let workspace = shared.identity().workspace;
                            tracing::warn!(workspace, "the socket was removed or replaced, and made again");
                            (bound, broken) = (anew, false);
                        }
                        // Told once: it is tried again every second, and the clients may keep it so for ever.
                        Err(error) if !broken => {
                            let workspace = shared.identity().workspace;
                            tracing::warn!(workspace, %error, "the socket was removed, and cannot be made again");
                            broken = true;
                        }
                        Err(_) => {}
                    }
                }
            }
            accepted = bound.listener.accept() => match accepted {
                Ok((stream, _)) => admit(egress, shared, stream),
                Err(error) => {
                    tracing::error!(%error, "connection not accepted");
                    tokio::time::sleep(PAUSE).await;
                }
            },
        }
    }
    place.unbind(&bound);
}
