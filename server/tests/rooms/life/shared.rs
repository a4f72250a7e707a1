//! Random sequences of operations on several servers that share a Redis, which is killed, paused and flushed. After each step, no
//! conversation has two rooms or two runs, no room has two servers, and every bound room is complete.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nagaya_fixtures::redis::RedisServer;
use nagaya_workspace::OnShutdown;
use nagaya_workspace::Session;
use nagaya_workspace::rooms::RoomState;
use nagaya_workspace::state::PoolSize;
use nagaya_workspace::{AcquireError, Lease, ReleaseError, ReleaseReason};
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence};

use super::name;
use crate::support::{DEADLINE, Host, NO_POOL, Server, occupant};

const SERVERS: u8 = 2;
const CONVERSATIONS: u8 = 3;

#[derive(Debug, Clone)]
enum Step {
    /// A run begins on a server.
    Acquire(u8, u8),
    /// Runs begin on every server at the same time in the same conversation.
    AcquireEverywhere(u8),
    /// The conversation's run ends.
    Finish(u8),
    /// The conversation is deleted, on some server.
    Delete(u8, u8),
    Collect(u8),
    Age,
    Pool(u8, u8),
    /// SIGTERM, then a new start.
    Restart(u8),
    /// SIGKILL, then a new start.
    Kill(u8),
    /// SIGKILL this many microseconds after the start of a run.
    KillDuring(u8, u8, u16),
    Redis(Fault),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Down,
    Up,
    Flushed,
    /// Redis does not answer for 50 ms.
    Slow,
}

fn step() -> impl Strategy<Value = Step> {
    let server = 0..SERVERS;
    let conversation = 0..CONVERSATIONS;
    prop_oneof![
        8 => (server.clone(), conversation.clone()).prop_map(|(s, c)| Step::Acquire(s, c)),
        4 => conversation.clone().prop_map(Step::AcquireEverywhere),
        6 => conversation.clone().prop_map(Step::Finish),
        3 => (server.clone(), conversation.clone()).prop_map(|(s, c)| Step::Delete(s, c)),
        3 => server.clone().prop_map(Step::Collect),
        2 => Just(Step::Age),
        1 => (server.clone(), 0..2u8).prop_map(|(s, min)| Step::Pool(s, min)),
        1 => server.clone().prop_map(Step::Restart),
        2 => server.clone().prop_map(Step::Kill),
        2 => (server, conversation, 0..3000u16).prop_map(|(s, c, us)| Step::KillDuring(s, c, us)),
        1 => Just(Step::Redis(Fault::Down)),
        2 => Just(Step::Redis(Fault::Up)),
        2 => Just(Step::Redis(Fault::Flushed)),
        1 => Just(Step::Redis(Fault::Slow)),
    ]
}

struct Life<'a> {
    redis: &'a mut RedisServer,
    host: Host,
    servers: BTreeMap<u8, Server>,
    /// Leases by conversation, with the server of each.
    leases: BTreeMap<u8, (u8, Lease)>,
    down: bool,
}

impl<'a> Life<'a> {
    fn new(redis: &'a mut RedisServer) -> Self {
        redis.flush().expect("flushes");
        let mut life =
            Self { redis, host: Host::new(), servers: BTreeMap::new(), leases: BTreeMap::new(), down: false };
        (0..SERVERS).for_each(|server| life.start(server));
        life
    }

    fn start(&mut self, which: u8) {
        let server = Server::start_among(&self.host, self.redis, NO_POOL);
        if !self.down {
            server.until("reconciliation", || server.workspaces.is_reconciled());
        }
        self.servers.insert(which, server);
    }

    fn kill(&mut self, which: u8) {
        let server = self.servers.remove(&which).expect("it runs");
        // The leases are memory of the killed process; their tasks end with its runtime.
        let dead: Vec<u8> = self.leases.iter().filter(|(_, (on, _))| *on == which).map(|(c, _)| *c).collect();
        server.kill();
        dead.iter().for_each(|conversation| drop(self.leases.remove(conversation)));
    }

    fn got(&mut self, conversation: u8, results: Vec<(u8, Result<Lease, AcquireError>)>, taken: bool) {
        let asked = results.len();
        for (server, result) in results {
            match result {
                Ok(lease) => {
                    assert!(!taken, "a second run of c{conversation}");
                    assert!(self.leases.insert(conversation, (server, lease)).is_none(), "two runs of c{conversation}");
                }
                Err(AcquireError::Busy) => {
                    assert!(taken || asked > 1 || self.down, "c{conversation} is busy without a run");
                }
                Err(error) => assert!(self.down, "no room although there is no fault: {error}"),
            }
        }
        let got = self.leases.contains_key(&conversation);
        assert!(got || self.down || taken, "no server got a room for c{conversation}");
    }

    fn perform(&mut self, step: &Step) {
        match *step {
            Step::Acquire(server, conversation) => {
                let on = &self.servers[&server];
                let result = on.runtime.block_on(on.cluster.acquire(occupant(&name(conversation))));
                let taken = self.leases.contains_key(&conversation);
                self.got(conversation, vec![(server, result)], taken);
            }
            Step::AcquireEverywhere(conversation) => {
                let taken = self.leases.contains_key(&conversation);
                let asks: Vec<_> = self
                    .servers
                    .iter()
                    .map(|(which, server)| {
                        let cluster = server.cluster.clone();
                        let ask = async move { cluster.acquire(occupant(&name(conversation))).await };
                        (*which, server.runtime.spawn(ask))
                    })
                    .collect();
                let runtime = &self.servers[&0].runtime;
                let results =
                    asks.into_iter().map(|(which, ask)| (which, runtime.block_on(ask).expect("no panic"))).collect();
                self.got(conversation, results, taken);
            }
            Step::Finish(conversation) => {
                if let Some((on, lease)) = self.leases.remove(&conversation) {
                    self.servers[&on].runtime.block_on(lease.finish(Some(Session::ended("session"))));
                }
            }
            Step::Delete(server, conversation) => {
                // As in the API: the run ends first, if it is on this server.
                if self.leases.get(&conversation).is_some_and(|(on, _)| *on == server) {
                    drop(self.leases.remove(&conversation));
                }
                let on = &self.servers[&server];
                let released = on
                    .runtime
                    .block_on(on.cluster.release_conversation(&name(conversation), ReleaseReason::Conversation));
                match released {
                    Ok(()) => {}
                    Err(ReleaseError::BusyElsewhere) => assert!(self.down || self.leases.contains_key(&conversation)),
                    Err(error) => assert!(self.down, "not released although there is no fault: {error}"),
                }
            }
            Step::Collect(server) => {
                let on = &self.servers[&server];
                let report = on.runtime.block_on(on.cluster.collect());
                assert!(self.down || report.errors.is_empty(), "{report:?}");
            }
            Step::Age => self.host.age(),
            Step::Pool(server, min) => {
                let on = &self.servers[&server];
                let size = PoolSize { min: min.into(), max: min.into() };
                let resized = on.runtime.block_on(on.workspaces.resize_pool(size));
                assert!(self.down || resized.is_ok(), "{resized:?}");
            }
            Step::Restart(which) => {
                let ended: Vec<u8> = self.leases.iter().filter(|(_, (on, _))| *on == which).map(|(c, _)| *c).collect();
                ended.iter().for_each(|conversation| drop(self.leases.remove(conversation)));
                let server = &self.servers[&which];
                server.runtime.block_on(server.cluster.shutdown(OnShutdown::Keep, DEADLINE));
                self.kill(which);
                self.start(which);
            }
            Step::Kill(which) => {
                self.kill(which);
                self.start(which);
            }
            Step::KillDuring(which, conversation, micros) => {
                let cluster = self.servers[&which].cluster.clone();
                let ask = async move { cluster.acquire(occupant(&name(conversation))).await.map(drop) };
                let ask = self.servers[&which].runtime.spawn(ask);
                let until = std::time::Instant::now() + Duration::from_micros(micros.into());
                while std::time::Instant::now() < until {
                    std::thread::yield_now();
                }
                self.kill(which);
                drop(ask);
                self.start(which);
            }
            Step::Redis(Fault::Down) => {
                self.redis.kill().expect("ends");
                self.down = true;
            }
            Step::Redis(Fault::Up) if self.down => self.heal(),
            Step::Redis(Fault::Flushed) if !self.down => self.redis.flush().expect("flushes"),
            Step::Redis(Fault::Slow) if !self.down => {
                self.redis.command("CLIENT PAUSE 50 ALL").expect("pauses");
            }
            Step::Redis(_) => {}
        }
    }

    fn heal(&mut self) {
        if std::mem::take(&mut self.down) {
            self.redis.start_again().expect("starts");
        }
        for server in self.servers.values() {
            server.until("reconciliation", || server.workspaces.is_reconciled());
            let answers = async {
                while server.workspaces.state().ping().await.is_err() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            let answers = server.runtime.block_on(async { tokio::time::timeout(DEADLINE, answers).await });
            answers.expect("Redis is found again");
        }
    }

    /// Waits until the background work is done.
    fn settle(&self) {
        for server in self.servers.values() {
            let (mut last, mut same) = (Vec::new(), 0);
            server.until("quiet", || {
                let mut rooms: Vec<String> = server.rooms().into_iter().map(|room| format!("{room:?}")).collect();
                rooms.sort();
                let busy =
                    server.entries().iter().any(|e| matches!(e.state, RoomState::Starting | RoomState::Releasing));
                same = if rooms == last && !busy { same + 1 } else { 0 };
                last = rooms;
                same >= 4
            });
        }
    }

    fn check(&self) {
        self.host.check_others();
        let containers: BTreeMap<String, bool> = self.host.containers().into_iter().collect();
        let directories = self.host.directories();
        let (mut rooms, mut conversations) = (BTreeSet::new(), BTreeSet::new());
        for (which, server) in &self.servers {
            let mut open = 0;
            for entry in server.entries() {
                let id = entry.room.id.to_string();
                assert!(rooms.insert(id.clone()), "{id} has two servers");
                if let RoomState::Bound { occupant, leased, .. } = &entry.state {
                    assert!(conversations.insert(occupant.conversation.clone()), "two rooms of {occupant:?}");
                    let run = self.leases.iter().any(|(c, (on, _))| name(*c) == occupant.conversation && on == which);
                    assert_eq!(*leased, run, "lease of {occupant:?}");
                }
                // A pooled room may still be in the making, so only bound rooms are checked.
                if matches!(entry.state, RoomState::Bound { .. }) {
                    assert!(directories.contains(&id), "{id} has no directory");
                    assert_eq!(
                        containers.get(&entry.room.id.container()),
                        Some(&true),
                        "the container of {id} is not running"
                    );
                }
                open += usize::from(matches!(entry.state, RoomState::Bound { .. } | RoomState::Pooled));
            }
            assert!(server.egress.open_listeners() >= open, "rooms without a proxy: {:?}", server.rooms());
        }
    }

    /// Removes all faults and conversations, and asserts that nothing is left.
    fn end(mut self) {
        self.heal();
        self.perform(&Step::Pool(0, 0));
        for server in self.servers.values() {
            server.until("an empty pool", || server.workspaces.pool_size() == NO_POOL && server.pooled() == 0);
        }
        self.leases.clear();
        for conversation in 0..CONVERSATIONS {
            self.perform(&Step::Delete(0, conversation));
        }
        self.settle();
        for _ in 0..2 {
            self.perform(&Step::Age);
            (0..SERVERS).for_each(|server| self.perform(&Step::Collect(server)));
            self.settle();
        }
        self.check();
        for server in self.servers.values() {
            assert!(server.rooms().is_empty(), "rooms at the end: {:?}", server.rooms());
            assert_eq!(server.egress.open_listeners(), 0, "proxies at the end");
        }
        assert_eq!(self.host.containers(), [], "containers at the end");
        assert_eq!(self.host.directories(), BTreeSet::new(), "directories at the end");
        let first = &self.servers[&0];
        let records = first.runtime.block_on(first.workspaces.state().records()).expect("reads");
        assert_eq!(records, [], "records at the end");
        // Every conversation can still get a room on every server.
        for conversation in 0..CONVERSATIONS {
            for server in 0..SERVERS {
                self.perform(&Step::Acquire(server, conversation));
                self.perform(&Step::Finish(conversation));
            }
        }
        self.check();
        let servers: Vec<_> = self.servers.keys().copied().collect();
        servers.into_iter().for_each(|server| self.kill(server));
    }
}

fn live(redis: &mut RedisServer, steps: &[Step]) {
    let mut life = Life::new(redis);
    for step in steps {
        life.perform(step);
        life.settle();
        life.check();
    }
    life.end();
}

#[test]
fn a_random_sequence_on_several_servers_keeps_one_room_and_one_run_per_conversation() {
    let redis = std::cell::RefCell::new(RedisServer::start().expect("a Redis"));
    let config = Config {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(24),
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("tests/rooms/life.regressions"))),
        max_shrink_iters: 200,
        ..Config::default()
    };
    proptest!(config, |(steps in proptest::collection::vec(step(), 1..25))| {
        let mut redis = redis.borrow_mut();
        // The previous case may have ended while Redis was down.
        redis.start_again().expect("starts");
        live(&mut redis, &steps);
    });
}
