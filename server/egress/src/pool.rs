//! The pool of one listener's connections to targets.
//!
//! A pool belongs to one listener, not to the whole proxy: if a target assigns responses to the wrong requests, by a fault or
//! because a client provokes it, only responses to the same client are mixed up.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use parking_lot::Mutex;

use crate::answer::Refusal;
use crate::body::Upload;
use crate::dialer::Dialer;
use crate::quota::{Quota, Resource, Share};
use crate::upstream::{Connection, Destination, Dialled, Key, Lease, broken};

/// Maximum number of idle connections of one listener, to all targets together.
const MOST_KEPT: usize = 64;
/// How long an idle connection is kept: shorter than targets usually do, so that they rarely close one just as it is taken.
const KEPT: Duration = Duration::from_secs(30);

/// Creates a request again, for a target that closed a kept connection before it answered.
pub(crate) type Again<'a> = &'a (dyn Fn() -> Result<Request<Upload>, Refusal> + Sync);

/// An idle connection, and since when it has been idle.
type Kept = (Connection, Instant);

/// The connections of one listener.
pub(crate) struct Pool {
    dialer: Arc<Dialer>,
    quota: Arc<Quota>,
    /// Maximum number of idle connections to one target.
    each: usize,
    kept: Mutex<HashMap<Key, Vec<Kept>>>,
    /// Number of the listener's owner. Connections of earlier ones are not kept.
    owner: AtomicU64,
}

impl Pool {
    /// A pool that keeps at most `each` idle connections for one target.
    pub(crate) fn new(dialer: Arc<Dialer>, quota: Arc<Quota>, each: usize) -> Self {
        Self { dialer, quota, each, kept: Mutex::default(), owner: AtomicU64::new(0) }
    }

    /// Takes an idle connection, or opens a new one.
    pub(crate) async fn acquire(&self, to: Destination<'_>) -> Result<Lease, Refusal> {
        for address in to.addresses {
            let key = Key::new(to, *address);
            if let Some(connection) = self.take(&key) {
                return Ok(Lease { key, connection, reused: true });
            }
        }
        self.open(to).await
    }

    /// Connects to the first of `addresses` that answers.
    pub(crate) async fn dial(&self, addresses: &[SocketAddr]) -> Result<Dialled, Refusal> {
        let descriptor = self.descriptor().ok_or_else(Refusal::too_many_connections)?;
        Ok(Dialled { stream: self.dialer.dial(addresses).await?, _descriptor: descriptor })
    }

    async fn open(&self, to: Destination<'_>) -> Result<Lease, Refusal> {
        self.dialer.begin(to, self.dial(to.addresses).await?).await
    }

    /// Reserves a descriptor for a new connection; if necessary, closes idle connections.
    fn descriptor(&self) -> Option<Share> {
        let take = || self.quota.take(Resource::Descriptors, 1);
        take().or_else(|| {
            self.clear();
            take()
        })
    }

    /// Sends a request and returns the head of its response. If a kept connection turns out to be closed, the request is sent on
    /// another one: always if nothing of it had been sent, otherwise only if `again` can create it again.
    pub(crate) async fn send(
        &self,
        to: Destination<'_>,
        mut lease: Lease,
        mut request: Request<Upload>,
        again: Option<Again<'_>>,
    ) -> Result<(Response<Incoming>, Lease), Refusal> {
        loop {
            let sent = lease.connection.sender.try_send_request(request);
            let mut failed = match lease.connection.during(sent).await {
                Ok(response) => return Ok((response, lease)),
                Err(failed) => failed,
            };
            request = match (failed.take_message(), again) {
                (Some(unsent), _) if lease.reused => unsent,
                (None, Some(again)) if lease.reused && failed.error().is_incomplete_message() => again()?,
                _ => return Err(broken(failed.error())),
            };
            lease = self.open(to).await?;
        }
    }

    /// The connection used last, which is the least likely to be closed by its target. Looking at its socket is a system call, so the
    /// lock is not held meanwhile.
    fn take(&self, key: &Key) -> Option<Connection> {
        loop {
            let (mut connection, since) = self.kept.lock().get_mut(key)?.pop()?;
            if since.elapsed() >= KEPT {
                // All below it are older.
                self.kept.lock().get_mut(key).map_or_else(Vec::new, std::mem::take);
                return None;
            }
            if connection.is_unused() {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection after an exchange that ended unambiguously.
    pub(crate) fn put_back(&self, lease: Lease) {
        let mut kept = self.kept.lock();
        if lease.key.owner != self.owner.load(Ordering::Relaxed) {
            return;
        }
        // Limits the total, however many targets a client uses.
        if kept.values().map(Vec::len).sum::<usize>() >= MOST_KEPT {
            return;
        }
        let connections = kept.entry(lease.key).or_default();
        if connections.len() < self.each {
            connections.push((lease.connection, Instant::now()));
        }
    }

    /// Closes connections that were idle for too long, or that their target has closed or written to.
    pub(crate) fn sweep(&self) {
        self.kept.lock().retain(|_, connections| {
            connections.retain_mut(|(connection, since)| since.elapsed() < KEPT && connection.is_open());
            !connections.is_empty()
        });
    }

    /// Closes all idle connections, and keeps only those of this owner from now on.
    pub(crate) fn belongs_to(&self, owner: u64) {
        let mut kept = self.kept.lock();
        self.owner.store(owner, Ordering::Relaxed);
        kept.clear();
    }

    /// Closes all idle connections.
    pub(crate) fn clear(&self) {
        self.kept.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::credentials::RuleId;
    use crate::host::Host;
    use crate::quota::Shared;
    use crate::settings::Limits;

    fn pool(limits: Limits) -> Pool {
        let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let dialer = Arc::new(Dialer::new(tls, limits.connect));
        Pool::new(dialer, Shared::new(&limits).listener(None), limits.idle_connections)
    }

    #[tokio::test]
    async fn connections_are_kept_apart_by_credential() {
        let target = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let addresses = [target.local_addr().expect("an address")];
        let (pool, host) = (pool(Limits::default()), Host::parse("a.example").expect("a host"));
        let to = |credential| Destination { tls: false, host: &host, addresses: &addresses, credential, owner: 0 };
        for credential in [None, Some(RuleId(0)), Some(RuleId(1))] {
            let lease = pool.acquire(to(credential)).await.expect("connects");
            assert!(!lease.reused, "{credential:?}: none was made for this one");
            pool.put_back(lease);
        }
        for credential in [None, Some(RuleId(0)), Some(RuleId(1))] {
            assert!(pool.acquire(to(credential)).await.expect("connects").reused, "{credential:?}");
        }
    }

    #[tokio::test]
    async fn connections_of_an_earlier_owner_are_not_used() {
        let target = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let addresses = [target.local_addr().expect("an address")];
        let (pool, host) = (pool(Limits::default()), Host::parse("a.example").expect("a host"));
        let to = |owner| Destination { tls: false, host: &host, addresses: &addresses, credential: None, owner };
        pool.put_back(pool.acquire(to(0)).await.expect("connects"));
        let in_use = pool.acquire(to(0)).await.expect("connects");
        assert!(in_use.reused, "the control");
        pool.put_back(pool.acquire(to(0)).await.expect("connects"));
        pool.belongs_to(1);
        pool.put_back(in_use);
        for owner in [0, 1] {
            assert!(!pool.acquire(to(owner)).await.expect("connects").reused, "{owner}");
        }
    }

    /// If all descriptors of a listener are in idle connections, it can still connect to another target.
    #[tokio::test]
    async fn kept_connections_give_way_to_new_ones() {
        let target = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let addresses = [target.local_addr().expect("an address")];
        let pool = pool(Limits { descriptors: 0, reserved_descriptors: 2, ..Limits::default() });
        let hosts = ["a.example", "b.example", "c.example"].map(|host| Host::parse(host).expect("a host"));
        for host in &hosts {
            let to = Destination { tls: false, host, addresses: &addresses, credential: None, owner: 0 };
            pool.put_back(pool.acquire(to).await.expect("connects"));
        }
        let to = |host| Destination { tls: false, host, addresses: &addresses, credential: None, owner: 0 };
        let held = [
            pool.acquire(to(&hosts[0])).await.expect("connects"),
            pool.acquire(to(&hosts[1])).await.expect("connects"),
        ];
        let refused = pool.acquire(to(&hosts[2])).await.err().expect("none is left");
        assert_eq!(refused, Refusal::too_many_connections());
        drop(held);
        assert!(pool.acquire(to(&hosts[2])).await.is_ok());
    }
}
