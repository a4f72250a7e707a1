//! A random life of rooms, with every fault, and after each step: what engine, directories, records, proxies and table say
//! is one story.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use nagaya_server::config::AtShutdown;
use nagaya_server::engine::memory::{Call, Fault};
use nagaya_server::workspace::pool::PoolSize;
use nagaya_server::workspace::room::RoomState;
use nagaya_server::workspace::{Lease, Why};
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence};

use crate::support::{AGES, Host, NO_POOL, Server, occupant};

#[derive(Debug, Clone)]
enum Step {
    /// A run begins.
    Acquire(u8),
    /// It ends well.
    Finish(u8),
    /// It has lost its room.
    Abandon(u8),
    /// The conversation is deleted, its run ended.
    Delete(u8),
    /// An operator takes a room down, whatever is in it.
    Release(u8),
    Collect,
    /// The clock goes on.
    Age,
    Pool(u8, u8),
    /// A container ends, loses its agent, or is taken away.
    Crash(u8),
    Silence(u8),
    Vanish(u8),
    /// Something of ours that nobody knows.
    Stray {
        container: bool,
    },
    Once(Call, Fault),
    Always(Call, Fault),
    LoseImages,
    Heal,
    /// SIGTERM, and another start.
    Restart,
    /// SIGKILL, and another start.
    Kill,
    /// SIGKILL while something goes on, after so many of its steps.
    KillDuring(Box<Step>, u16),
}

fn step() -> impl Strategy<Value = Step> {
    let conversation = 0..4u8;
    let call =
        prop_oneof![Just(Call::Run), Just(Call::Remove), Just(Call::List), Just(Call::IsRunning), Just(Call::Ping)];
    let fault = prop_oneof![
        Just(Fault::Refuse),
        Just(Fault::Hang(Duration::from_millis(3))),
        Just(Fault::HalfWay),
        Just(Fault::NoAnswer)
    ];
    let cut = prop_oneof![
        4 => conversation.clone().prop_map(Step::Acquire),
        2 => conversation.clone().prop_map(Step::Delete),
        2 => conversation.clone().prop_map(Step::Finish),
        1 => any::<u8>().prop_map(Step::Release),
        2 => Just(Step::Collect),
    ];
    prop_oneof![
        8 => conversation.clone().prop_map(Step::Acquire),
        5 => conversation.clone().prop_map(Step::Finish),
        2 => conversation.clone().prop_map(Step::Abandon),
        3 => conversation.prop_map(Step::Delete),
        1 => any::<u8>().prop_map(Step::Release),
        3 => Just(Step::Collect),
        2 => Just(Step::Age),
        2 => (0..3u8, 0..2u8).prop_map(|(min, more)| Step::Pool(min, min + more)),
        2 => any::<u8>().prop_map(Step::Crash),
        1 => any::<u8>().prop_map(Step::Silence),
        1 => any::<u8>().prop_map(Step::Vanish),
        1 => any::<bool>().prop_map(|container| Step::Stray { container }),
        2 => (call.clone(), fault.clone()).prop_map(|(call, fault)| Step::Once(call, fault)),
        1 => (call, fault).prop_map(|(call, fault)| Step::Always(call, fault)),
        1 => Just(Step::LoseImages),
        3 => Just(Step::Heal),
        2 => Just(Step::Restart),
        2 => Just(Step::Kill),
        3 => (cut, 0..60u16).prop_map(|(step, polls)| Step::KillDuring(Box::new(step), polls)),
    ]
}

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
        let Server { workspaces, runtime, egress, metrics } = self.server.take().expect("a server runs");
        drop(runtime);
        self.leases.clear();
        drop((workspaces, egress, metrics));
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
    fn act(&mut self, step: &Step, polls: Option<u16>) {
        let server = self.server.as_ref().expect("a server runs");
        let workspaces = server.workspaces.clone();
        let mut lease = None;
        let work = async {
            match step {
                Step::Acquire(conversation) if !self.leases.contains_key(conversation) => {
                    match workspaces.acquire(occupant(&name(*conversation))).await {
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
                        lease.abandon(Why::Dead).await;
                    }
                }
                Step::Delete(conversation) => {
                    drop(self.leases.remove(conversation));
                    let released = workspaces.release_conversation(&name(*conversation), Why::Conversation).await;
                    if let Err(error) = released {
                        assert!(self.faulty, "not released though nothing is wrong: {error}");
                    }
                }
                Step::Release(which) => {
                    let entries = workspaces.list();
                    if !entries.is_empty() {
                        let id = entries[usize::from(*which) % entries.len()].room.id.clone();
                        let released = workspaces.release(&id, Why::Operator).await;
                        if let Err(error) = released {
                            assert!(self.faulty, "not released though nothing is wrong: {error}");
                        }
                    }
                }
                Step::Collect => {
                    let report = workspaces.collect().await;
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
                self.host.engine.once(*call, *fault);
                self.faulty = true;
            }
            Step::Always(call, fault) => {
                self.host.engine.always(*call, *fault);
                self.faulty = true;
            }
            Step::LoseImages => {
                self.host.engine.lose_images();
                self.faulty = true;
            }
            Step::Heal => {
                self.host.engine.heal();
                self.faulty = false;
            }
            Step::Restart => {
                self.leases.clear();
                let server = self.server.take().expect("a server runs");
                server.runtime.block_on(server.workspaces.shutdown(AtShutdown::Keep, Duration::from_secs(10)));
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

    /// One story.
    fn check(&self) {
        let server = self.server();
        self.host.check_others();
        if !server.workspaces.is_reconciled() {
            return;
        }
        let entries = server.entries();
        let containers: BTreeMap<String, bool> = self.host.containers().into_iter().collect();
        let directories = self.host.directories();
        let records = server.runtime.block_on(self.host.records());
        let known: BTreeSet<String> = entries.iter().map(|entry| entry.room.id.to_string()).collect();
        let names: BTreeSet<String> = entries.iter().map(|entry| entry.room.id.container()).collect();
        if !self.strays {
            let unknown: Vec<_> = containers.keys().filter(|name| !names.contains(*name)).collect();
            assert!(unknown.is_empty(), "containers nobody knows: {unknown:?}");
            let unknown: Vec<_> = directories.difference(&known).collect();
            assert!(unknown.is_empty(), "directories nobody knows: {unknown:?}");
        }
        let unknown: Vec<_> = records.iter().filter(|record| !known.contains(&record.workspace)).collect();
        assert!(unknown.is_empty(), "records of no room: {unknown:?}");

        let mut conversations = BTreeSet::new();
        let mut open = 0;
        for entry in &entries {
            let id = entry.room.id.to_string();
            let record = records.iter().find(|record| record.workspace == id);
            let whose = match &entry.state {
                RoomState::Starting => panic!("{id} is still starting"),
                RoomState::Releasing => continue,
                RoomState::Pooled => None,
                RoomState::Bound { occupant, leased, .. } => {
                    assert!(conversations.insert(occupant.conversation.clone()), "two rooms of {occupant:?}");
                    let held = self.leases.keys().any(|conversation| name(*conversation) == occupant.conversation);
                    assert_eq!(*leased, held, "lease of {occupant:?}");
                    Some(occupant.conversation.clone())
                }
            };
            open += 1;
            let recorded = record.map(|record| record.occupant.as_ref().map(|(conversation, _)| conversation.clone()));
            assert_eq!(recorded, Some(whose), "record of {id}");
            assert!(directories.contains(&id), "{id} has no directory");
            let container = entry.room.id.container();
            assert!(containers.get(&container) == Some(&true) || self.hurt.contains(&container), "{id} does not run");
        }
        assert_eq!(server.egress.open_listeners(), open, "proxies of {:?}", server.rooms());
        if !self.faulty {
            let reality = server.runtime.block_on(server.workspaces.reality());
            let running = containers.values().filter(|running| **running).count();
            assert_eq!(reality.active_containers, running, "gauge of containers");
        }
    }

    /// Everybody leaves, nothing is wrong any more: then nothing is left.
    fn end(mut self) {
        self.perform(&Step::Heal);
        self.settle();
        self.perform(&Step::Pool(0, 0));
        for conversation in 0..4 {
            self.perform(&Step::Delete(conversation));
        }
        self.settle();
        self.perform(&Step::Age);
        self.perform(&Step::Collect);
        self.perform(&Step::Collect);
        self.check();
        assert!(self.server().rooms().is_empty(), "rooms at the end: {:?}", self.server().rooms());
        assert_eq!(self.host.containers(), [], "containers at the end");
        assert_eq!(self.host.directories(), BTreeSet::new(), "directories at the end");
        // And a room can still be had by everybody.
        for conversation in 0..4 {
            self.perform(&Step::Acquire(conversation));
            self.perform(&Step::Finish(conversation));
        }
        let server = self.server.take().expect("a server runs");
        server.runtime.block_on(server.workspaces.shutdown(AtShutdown::Destroy, Duration::from_secs(10)));
        assert_eq!(self.host.containers(), [], "containers after the shutdown");
        assert_eq!(self.host.directories(), BTreeSet::new(), "directories after the shutdown");
        assert_eq!(server.egress.open_listeners(), 0, "proxies after the shutdown");
        self.host.check_others();
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
