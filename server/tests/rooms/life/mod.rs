//! A random life of rooms, with every fault, and after each step: what engine, directories, records, proxies and table say
//! is one story.

mod check;
mod shared;
mod step;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use nagaya_workspace::OnShutdown;
use nagaya_workspace::rooms::RoomState;
use nagaya_workspace::state::PoolSize;
use nagaya_workspace::{Lease, ReleaseReason};
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence};

use self::step::{Step, step};
use crate::support::{AGES, Host, NO_POOL, Server, occupant};

/// The host, the server on it, and what the test itself holds.
struct Life {
    host: Host,
    server: Option<Server>,
    pool: PoolSize,
    leases: BTreeMap<u8, Lease>,
    /// Containers that were hurt from outside: the server may not know yet.
    hurt: BTreeSet<String>,
    faulty: bool,
    /// Something of ours was put there behind the server's back.
    strays: bool,
}

fn name(conversation: u8) -> String {
    format!("c{conversation}")
}

impl Life {
    fn new() -> Self {
        let host = Host::new();
        let server = Some(Server::start(&host, NO_POOL));
        let (leases, hurt) = (BTreeMap::new(), BTreeSet::new());
        let mut life = Self { host, server, pool: NO_POOL, leases, hurt, faulty: false, strays: false };
        life.settle();
        life
    }

    fn server(&self) -> &Server {
        self.server.as_ref().expect("a server runs")
    }

    fn kill(&mut self) {
        // The runtime first: nothing gets to clean up. The leases are memory of a process that is gone.
        let Server { cluster, workspaces, runtime, egress, metrics } = self.server.take().expect("a server runs");
        drop(runtime);
        self.leases.clear();
        drop((cluster, workspaces, egress, metrics));
        // A database's own thread would die with its process; here it is waited for, or it wrote into the next life.
        let path = self.host.records_path();
        let open = || links().iter().any(|link| link.to_string_lossy().starts_with(&*path.to_string_lossy()));
        wait_until_not(open, "the dead server's database to be closed");
    }

    fn start(&mut self) {
        self.server = Some(Server::start(&self.host, self.pool));
        self.strays = false;
    }

    fn any_container(&self, which: u8) -> Option<String> {
        let containers = self.host.containers();
        (!containers.is_empty()).then(|| containers[usize::from(which) % containers.len()].0.clone())
    }

    /// Does a step; `polls` is after how many polls of it the server dies.
    pub(super) fn act(&mut self, step: &Step, polls: Option<u16>) {
        let server = self.server.as_ref().expect("a server runs");
        let cluster = server.cluster.clone();
        let mut lease = None;
        let work = async {
            match step {
                Step::Acquire(conversation) if !self.leases.contains_key(conversation) => {
                    match cluster.acquire(occupant(&name(*conversation))).await {
                        Ok(got) => lease = Some((*conversation, got)),
                        Err(error) => assert!(self.faulty, "no room though nothing is wrong: {error}"),
                    }
                }
                Step::Finish(conversation) => {
                    if let Some(lease) = self.leases.remove(conversation) {
                        lease.finish(Some("session".into())).await;
                    }
                }
                Step::Abandon(conversation) => {
                    if let Some(lease) = self.leases.remove(conversation) {
                        lease.release(ReleaseReason::Dead).await;
                    }
                }
                Step::Delete(conversation) => {
                    drop(self.leases.remove(conversation));
                    let released =
                        cluster.release_conversation(&name(*conversation), ReleaseReason::Conversation).await;
                    if let Err(error) = released {
                        assert!(self.faulty, "not released though nothing is wrong: {error}");
                    }
                }
                Step::Release(which) => {
                    let entries = cluster.workspaces().rooms().all();
                    if !entries.is_empty() {
                        let id = entries[usize::from(*which) % entries.len()].room.id.clone();
                        let released = cluster.workspaces().release(&id, ReleaseReason::Operator).await;
                        if let Err(error) = released {
                            assert!(self.faulty, "not released though nothing is wrong: {error}");
                        }
                    }
                }
                Step::Collect => {
                    let report = cluster.collect().await;
                    assert!(self.faulty || report.errors.is_empty(), "{report:?}");
                }
                _ => {}
            }
        };
        let mut left = polls;
        let done = server.runtime.block_on(async {
            let mut work = pin!(work);
            std::future::poll_fn(move |cx| {
                if left == Some(0) {
                    return Poll::Ready(false);
                }
                left = left.map(|left| left - 1);
                match work.as_mut().poll(cx) {
                    Poll::Ready(()) => Poll::Ready(true),
                    Poll::Pending => {
                        // Every turn of the runtime counts, not only those in which this work goes on.
                        if left.is_some() {
                            cx.waker().wake_by_ref();
                        }
                        Poll::Pending
                    }
                }
            })
            .await
        });
        if let (true, Some((conversation, lease))) = (done, lease) {
            self.leases.insert(conversation, lease);
        }
    }

    fn perform(&mut self, step: &Step) {
        match step {
            Step::Age => self.host.age(),
            Step::Pool(min, max) => {
                self.pool = PoolSize { min: (*min).into(), max: (*max).into() };
                self.server().workspaces.set_pool_size(self.pool);
            }
            Step::Crash(which) | Step::Silence(which) | Step::Vanish(which) => {
                if let Some(container) = self.any_container(*which) {
                    match step {
                        Step::Crash(_) => self.host.engine.crash(&container),
                        Step::Silence(_) => self.host.engine.silence(&container),
                        _ => self.host.engine.vanish(&container),
                    }
                    self.hurt.insert(container);
                }
            }
            Step::Stray { container: true } => {
                self.host.stray_container(&self.server().runtime);
                self.strays = true;
            }
            Step::Stray { container: false } => {
                self.host.stray_directory();
                self.strays = true;
            }
            Step::Once(call, fault) => {
                self.host.engine.fail_once(*call, *fault);
                self.faulty = true;
            }
            Step::Always(call, fault) => {
                self.host.engine.fail_always(*call, *fault);
                self.faulty = true;
            }
            Step::LoseImages => {
                self.host.engine.lose_images();
                self.faulty = true;
            }
            Step::Heal => {
                self.host.engine.clear_faults();
                self.faulty = false;
            }
            Step::Restart => {
                self.leases.clear();
                let server = self.server.take().expect("a server runs");
                server.runtime.block_on(server.cluster.shutdown(OnShutdown::Keep, Duration::from_secs(10)));
                assert_eq!(server.egress.open_listeners(), 0, "proxies after a shutdown");
                drop(server);
                self.start();
            }
            Step::Kill => {
                self.kill();
                self.start();
            }
            Step::KillDuring(step, polls) => {
                self.act(step, Some(*polls));
                self.kill();
                self.start();
            }
            other => self.act(other, None),
        }
    }

    /// Waits until nothing goes on by itself, as far as faults let it.
    fn settle(&mut self) {
        let server = self.server();
        if !self.faulty {
            server.until("reconciliation", || server.workspaces.is_reconciled());
        }
        let pool = self.pool.min;
        let mut last = Vec::new();
        let mut same = 0;
        server.until("quiet", || {
            let mut rooms: Vec<String> = server.rooms().into_iter().map(|room| format!("{room:?}")).collect();
            rooms.sort();
            let busy = server.entries().iter().any(|entry| entry.state == RoomState::Starting);
            let full = self.faulty || server.entries().iter().filter(|e| e.state == RoomState::Pooled).count() >= pool;
            same = if rooms == last && !busy && full { same + 1 } else { 0 };
            last = rooms;
            same >= 4
        });
    }
}

/// Lives through `steps` and gives what descriptors there were before, and are.
fn live(steps: &[Step]) -> (usize, usize) {
    let before = descriptors();
    let mut life = Life::new();
    for step in steps {
        life.perform(step);
        life.settle();
        life.check();
    }
    life.end();
    (before, descriptors())
}

fn check(steps: &[Step]) {
    let (before, _) = live(steps);
    wait_until_not(|| descriptors() > before, "descriptors to be as few as before");
}

/// A thread that is not ours needs a moment; nothing tells when it is over.
fn wait_until_not(mut holds: impl FnMut() -> bool, what: &str) {
    let deadline = std::time::Instant::now() + crate::support::DEADLINE;
    while holds() {
        assert!(std::time::Instant::now() < deadline, "waited in vain for {what}: {:?}", links());
        std::thread::yield_now();
    }
}

/// What the descriptors of this process lead to.
fn links() -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir("/proc/self/fd").expect("proc").flatten();
    entries.filter_map(|entry| std::fs::read_link(entry.path()).ok()).collect()
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("proc").count()
}

#[test]
fn a_random_life_leaves_nothing_and_loses_nothing() {
    assert!(AGES > crate::support::TTL && AGES > crate::support::GRACE);
    // What the first runtime of a process opens for all that follow stays open.
    live(&[]);
    let config = Config {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(48),
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("tests/rooms/life.regressions"))),
        max_shrink_iters: 300,
        ..Config::default()
    };
    proptest!(config, |(steps in proptest::collection::vec(step(), 1..40))| check(&steps));
}

/// What random lives have found; each once left something behind.
#[test]
fn lives_that_went_wrong_once() {
    live(&[]);
    // The run's end wrote a record of a room that an operator had taken down meanwhile.
    check(&[Step::Acquire(2), Step::Release(0), Step::Finish(2)]);
}
