//! Several servers on one host that share their state in a real Redis: each conversation has one room and one run, whichever server
//! gets its requests, whichever server dies, and whatever happens to Redis.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use nagaya_fixtures::redis::RedisServer;
use nagaya_workspace::OnShutdown;
use nagaya_workspace::Session;
use nagaya_workspace::state::{PoolSize, Record};
use nagaya_workspace::{AcquireError, Lease, Origin, ReleaseError, ReleaseReason};

use crate::support::{DEADLINE, Host, NO_POOL, Server, occupant};

fn acquire(server: &Server, conversation: &str) -> Result<Lease, AcquireError> {
    server.runtime.block_on(server.cluster.acquire(occupant(conversation)))
}

/// Acquires a room and returns it idle. Returns its id, origin and session.
fn use_once(server: &Server, conversation: &str) -> (String, Origin, Option<String>) {
    let lease = acquire(server, conversation).expect("a room");
    let used = (lease.workspace_id().to_owned(), lease.origin(), lease.session().map(|session| session.id.clone()));
    server.runtime.block_on(lease.finish(Some(Session::ended(format!("session of {conversation}")))));
    used
}

struct Several {
    host: Host,
    redis: RedisServer,
}

impl Several {
    fn new() -> Self {
        Self { host: Host::new(), redis: RedisServer::start().expect("a Redis") }
    }

    fn start(&self, pool: PoolSize) -> Server {
        let server = Server::start_among(&self.host, &self.redis, pool);
        server.until("reconciliation", || server.workspaces.is_reconciled());
        server
    }

    fn records(&self, server: &Server) -> Vec<Record> {
        server.runtime.block_on(server.workspaces.state().records()).expect("reads")
    }
}

#[test]
fn a_room_follows_its_conversation_to_another_server() {
    let several = Several::new();
    let (one, two) = (several.start(NO_POOL), several.start(NO_POOL));
    let (room, origin, _) = use_once(&one, "c");
    assert_eq!(origin, Origin::Cold);
    let handed = use_once(&two, "c");
    assert_eq!(handed, (room.clone(), Origin::Reused, Some("session of c".into())));
    assert_eq!((one.entries().len(), two.entries().len()), (0, 1));
    assert_eq!((one.egress.open_listeners(), two.egress.open_listeners()), (0, 1));
    assert_eq!(several.host.containers().len(), 1);
    // The room moves back to the first server.
    assert_eq!(use_once(&one, "c").0, room);
    assert_eq!(several.records(&one).len(), 1);
}

#[test]
fn during_a_run_no_other_server_gets_the_conversation() {
    let several = Several::new();
    let (one, two) = (several.start(NO_POOL), several.start(PoolSize { min: 1, max: 1 }));
    let lease = acquire(&one, "c").expect("a room");
    assert!(matches!(two.runtime.block_on(two.cluster.admit(&occupant("c"))), Err(AcquireError::Busy)));
    assert!(matches!(acquire(&two, "c"), Err(AcquireError::Busy)));
    let released = two.runtime.block_on(two.cluster.release_conversation("c", ReleaseReason::Conversation));
    assert!(matches!(released, Err(ReleaseError::BusyElsewhere)), "{released:?}");
    // Also after the shared state has lost everything.
    several.redis.flush().expect("flushes");
    assert!(matches!(two.runtime.block_on(two.cluster.admit(&occupant("c"))), Err(AcquireError::Busy)));
    assert!(matches!(acquire(&two, "c"), Err(AcquireError::Busy)));
    drop(lease);
    two.runtime.block_on(two.cluster.admit(&occupant("c"))).expect("admitted");
    assert!(matches!(one.runtime.block_on(one.cluster.admit(&occupant("d"))), Ok(())));
    assert!(
        matches!(two.runtime.block_on(two.cluster.admit(&occupant("d"))), Err(AcquireError::Busy)),
        "the other server has admitted a run"
    );
}

/// A server stops or dies during a run. Its next start continues the run, so until then, or until the agent has ended the execution,
/// no other server may take or remove the room.
#[test]
fn a_room_with_a_run_in_progress_waits_for_its_server() {
    let several = Several::new();
    let (one, two) = (several.start(NO_POOL), several.start(NO_POOL));
    let lease = acquire(&one, "c").expect("a room");
    let room = lease.workspace_id().to_owned();
    several.host.engine.report_execution(Some("e"));
    one.kill();
    drop(lease);
    several.host.age();
    for _ in 0..2 {
        assert!(matches!(two.runtime.block_on(two.cluster.admit(&occupant("c"))), Err(AcquireError::Busy)));
        assert!(matches!(acquire(&two, "c"), Err(AcquireError::Busy)));
        let report = two.runtime.block_on(two.cluster.collect());
        assert!(report.reclaimed.is_empty() && report.errors.is_empty(), "{report:?}");
        assert!(two.entries().is_empty(), "{:?}", two.rooms());
    }
    // A start without the run's journal leaves the room alone as well; the start that has the journal adopts it.
    let three = several.start(NO_POOL);
    assert!(three.entries().is_empty(), "{:?}", three.rooms());
    let four = Server::start_among_expecting(&several.host, &several.redis, NO_POOL, &room);
    four.until("reconciliation", || four.workspaces.is_reconciled());
    assert_eq!(four.conversations(), ["c"]);
    four.kill();
    // The agent has ended the execution for lack of a reader: then any server may take the room, and its files are still in it.
    several.host.engine.report_execution(None);
    two.runtime.block_on(two.cluster.admit(&occupant("c"))).expect("admitted");
    assert_eq!(acquire(&two, "c").expect("a room").workspace_id(), room);
    assert_eq!(several.host.containers().len(), 1);
}

/// The record of a room that is being released names no conversation, and neither does that of a room in the pool. If the release is
/// interrupted, the room must not be taken for one of the pool: the files of its last conversation are still in it.
#[test]
fn a_room_whose_release_was_interrupted_serves_nobody_again() {
    let several = Several::new();
    let (one, two) = (several.start(NO_POOL), several.start(PoolSize { min: 0, max: 2 }));
    let (used, ..) = use_once(&one, "c");
    let record = several.records(&two).pop().expect("a record");
    two.runtime.block_on(two.workspaces.clear_conversation(&record)).expect("cleared");
    one.kill();
    several.host.age();
    let report = two.runtime.block_on(two.cluster.collect());
    assert!(report.errors.is_empty(), "{report:?}");
    two.until("the release of the room", || several.host.containers().is_empty());
    assert_eq!(two.pooled(), 0);
    let (other, origin, _) = use_once(&two, "d");
    assert!(other != used && origin == Origin::Cold, "{other} {origin:?}");
}

/// A room that reports an execution for ever is left alone for two minutes only.
#[test]
fn a_room_that_always_reports_an_execution_is_adopted_in_the_end() {
    let several = Several::new();
    let (one, two) = (several.start(NO_POOL), several.start(NO_POOL));
    let (room, ..) = use_once(&one, "c");
    several.host.engine.report_execution(Some("e"));
    one.kill();
    assert!(matches!(acquire(&two, "c"), Err(AcquireError::Busy)));
    for _ in 0..3 {
        several.host.age();
    }
    assert_eq!(acquire(&two, "c").expect("a room").workspace_id(), room);
}

/// A running server hands its idle room over, whatever the room's agent reports: it has seen that no run is in it.
#[test]
fn an_idle_room_is_handed_over_although_its_agent_reports_an_execution() {
    let several = Several::new();
    let (one, two) = (several.start(NO_POOL), several.start(NO_POOL));
    let (room, ..) = use_once(&one, "c");
    several.host.engine.report_execution(Some("e"));
    assert_eq!(use_once(&two, "c").0, room);
    assert_eq!((one.entries().len(), two.entries().len()), (0, 1));
}

#[test]
fn of_many_simultaneous_requests_one_gets_the_room() {
    let several = Several::new();
    let servers: Vec<_> = (0..3).map(|_| several.start(PoolSize { min: 2, max: 2 })).collect();
    for round in 0..5 {
        let conversation = format!("c{round}");
        let asks = servers.iter().flat_map(|server| std::iter::repeat_n(server, 3)).map(|server| {
            let (cluster, conversation) = (server.cluster.clone(), conversation.clone());
            server.runtime.spawn(async move { cluster.acquire(occupant(&conversation)).await })
        });
        let asked = futures::future::join_all(asks.collect::<Vec<_>>());
        let asked = servers[0].runtime.block_on(asked).into_iter().map(|task| task.expect("no panic"));
        let (got, refused): (Vec<_>, Vec<_>) = asked.partition(Result::is_ok);
        assert!(refused.iter().all(|refusal| matches!(refusal, Err(AcquireError::Busy))), "{refused:?}");
        let rooms = servers.iter().flat_map(Server::conversations).filter(|c| *c == conversation).count();
        assert!(got.len() == 1 && rooms == 1, "{} got a room, there are {rooms}", got.len());
    }
}

#[test]
fn servers_adopt_the_rooms_of_a_dead_server_and_none_of_a_live_one() {
    let several = Several::new();
    let (one, two) = (several.start(PoolSize { min: 1, max: 1 }), several.start(NO_POOL));
    let kept = use_once(&two, "of two");
    let left = use_once(&one, "of one");
    one.until("a full pool", || one.pooled() == 1);
    several.host.age();
    let report = two.runtime.block_on(two.cluster.collect());
    // A server collects only its own idle rooms while their owners are alive.
    assert!(report.errors.is_empty() && report.reclaimed.len() == 1, "{report:?}");
    assert_eq!(report.reclaimed[0].0.as_str(), kept.0);
    assert_eq!(one.entries().len(), 2);
    one.kill();
    assert_eq!(
        use_once(&two, "of one"),
        (left.0, Origin::Reused, Some("session of of one".into())),
        "adopted by the next request"
    );
    let report = two.runtime.block_on(two.cluster.collect());
    assert!(report.errors.is_empty() && report.reclaimed.is_empty(), "{report:?}");
    assert_eq!(two.entries().len(), 2, "the others are adopted by the collector: {:?}", two.rooms());
    two.until("a pool of the configured size", || two.entries().len() == 1);
    assert!(several.records(&two).iter().all(|record| record.owner == several.records(&two)[0].owner));
}

#[test]
fn a_room_being_adopted_by_one_server_is_left_alone_by_the_others() {
    let several = Several::new();
    let (one, two, three) = (several.start(NO_POOL), several.start(NO_POOL), several.start(NO_POOL));
    let room = use_once(&one, "c");
    one.kill();
    // A slow agent keeps `two` between the claim of the room and its adoption.
    several.host.engine.mute_agents();
    let cluster = two.cluster.clone();
    let adoption = two.runtime.spawn(async move { cluster.acquire(occupant("c")).await });
    let key = format!("nagaya:{{ours}}:room:{}", room.0);
    let claimed = || several.redis.command(&format!("GET {key}")).expect("asks").contains(two.workspaces.server_id());
    three.until("the claim", claimed);
    several.host.age();
    let report = three.runtime.block_on(three.cluster.collect());
    assert!(report.errors.is_empty() && report.reclaimed.is_empty() && three.entries().is_empty(), "{report:?}");
    several.host.engine.unmute_agents();
    let lease = two.runtime.block_on(adoption).expect("no panic").expect("a room");
    assert_eq!((lease.workspace_id(), lease.origin()), (room.0.as_str(), Origin::Reused));
}

#[test]
fn a_stopped_server_leaves_its_rooms_to_the_next_start() {
    let several = Several::new();
    let one = several.start(NO_POOL);
    let room = use_once(&one, "c");
    one.runtime.block_on(one.cluster.shutdown(OnShutdown::Keep, DEADLINE));
    assert!(!several.host.base().join(".servers").exists(), "the last server removes the directory of sockets");
    one.kill();
    let two = several.start(NO_POOL);
    assert_eq!(two.conversations(), ["c"]);
    assert_eq!(use_once(&two, "c").0, room.0);
}

#[test]
fn a_dead_servers_admission_does_not_block_the_conversation() {
    let several = Several::new();
    let (one, two) = (several.start(NO_POOL), several.start(NO_POOL));
    one.runtime.block_on(one.cluster.admit(&occupant("c"))).expect("admitted");
    assert!(matches!(acquire(&two, "c"), Err(AcquireError::Busy)));
    one.kill();
    use_once(&two, "c");
}

#[test]
fn deleting_a_conversation_on_one_server_removes_its_room_on_another() {
    let several = Several::new();
    let (one, two) = (several.start(NO_POOL), several.start(NO_POOL));
    use_once(&one, "c");
    two.runtime.block_on(two.cluster.release_conversation("c", ReleaseReason::Conversation)).expect("released");
    assert_eq!((several.host.containers(), several.host.directories()), (vec![], BTreeSet::new()));
    assert!(one.entries().is_empty() && two.entries().is_empty());
    // Also the room of a dead server.
    use_once(&one, "d");
    one.kill();
    two.runtime.block_on(two.cluster.release_conversation("d", ReleaseReason::Conversation)).expect("released");
    assert_eq!((several.host.containers(), several.records(&two)), (vec![], vec![]));
}

#[test]
fn without_redis_known_rooms_stay_usable_and_no_second_room_is_made() {
    let mut several = Several::new();
    let (one, two) = (several.start(PoolSize { min: 1, max: 1 }), several.start(NO_POOL));
    let room = use_once(&one, "c");
    one.until("a full pool", || one.pooled() == 1);
    several.redis.kill().expect("ends");
    assert_eq!(use_once(&one, "c").0, room.0);
    for server in [&one, &two] {
        let error = acquire(server, "new").expect_err("refused");
        assert!(error.is_unavailable() && matches!(error, AcquireError::State(_)), "{error:?}");
        let error = server.runtime.block_on(server.cluster.admit(&occupant("new"))).expect_err("refused");
        assert!(error.is_unavailable(), "{error:?}");
    }
    assert!(acquire(&two, "c").is_err_and(|error| error.is_unavailable()));
    assert!(one.runtime.block_on(one.workspaces.resize_pool(NO_POOL)).is_err());
    let report = two.runtime.block_on(two.cluster.collect());
    assert!(!report.errors.is_empty() && report.reclaimed.is_empty(), "{report:?}");
    let released = one.runtime.block_on(one.cluster.release_conversation("c", ReleaseReason::Conversation));
    released.expect("a known room can be released");
    assert_eq!(one.entries().len(), 1, "the pool keeps its room");
    several.redis.start_again().expect("starts");
    // The record of the pool's room, which only the server's table knows, is written again.
    let pooled = one.entries()[0].room.id.to_string();
    one.until("its record", || {
        several.redis.command(&format!("EXISTS nagaya:{{ours}}:room:{pooled}")).expect("asks") == "1"
    });
    use_once(&two, "new");
    assert_eq!(several.host.containers().len(), 2);
}

#[test]
fn records_lost_by_redis_are_written_again_and_no_room_is_lost() {
    let several = Several::new();
    let (one, two) = (several.start(NO_POOL), several.start(NO_POOL));
    let room = use_once(&one, "c");
    several.redis.flush().expect("flushes");
    several.host.age();
    // The records do not name an owner, but the owner itself answers.
    let report = two.runtime.block_on(two.cluster.collect());
    assert!(report.errors.is_empty() && report.reclaimed.is_empty(), "{report:?}");
    let key = format!("nagaya:{{ours}}:room:{}", room.0);
    one.until("its record", || several.redis.command(&format!("EXISTS {key}")).expect("asks") == "1");
    several.redis.flush().expect("flushes");
    assert_eq!(use_once(&two, "c").0, room.0, "handed over without a record");
}

#[test]
fn a_corrupt_record_is_reported_and_affects_no_other_conversation() {
    let several = Several::new();
    let (one, two) = (several.start(NO_POOL), several.start(NO_POOL));
    let (corrupt, intact) = (use_once(&one, "corrupt"), use_once(&one, "intact"));
    let key = format!("nagaya:{{ours}}:room:{}", corrupt.0);
    several.redis.command(&format!("SET {key} junk")).expect("sets");
    assert_eq!(use_once(&two, "intact").0, intact.0);
    assert_eq!(use_once(&two, "corrupt").0, corrupt.0, "the owner knows the room without its record");
    let report = two.workspaces.state().quarantined().expect("a report");
    assert!(report.contains(&corrupt.0), "{report}");
    // If the owner is dead, no server knows the room: the conversation gets a new one, and the old one is collected.
    several.redis.command(&format!("SET {key} junk")).expect("sets");
    two.kill();
    assert_ne!(use_once(&one, "corrupt").0, corrupt.0);
    assert_eq!(use_once(&one, "intact").0, intact.0);
    several.host.age();
    let report = one.runtime.block_on(one.cluster.collect());
    assert!(report.errors.is_empty(), "{report:?}");
    assert!(!several.host.containers().iter().any(|(name, _)| name.ends_with(&corrupt.0)), "{report:?}");
}

#[test]
fn a_pool_size_applies_to_every_server_also_to_later_ones() {
    let several = Several::new();
    let (one, two) = (several.start(NO_POOL), several.start(NO_POOL));
    let size = PoolSize { min: 1, max: 3 };
    one.runtime.block_on(one.workspaces.resize_pool(size)).expect("resized");
    two.until("a pooled room", || two.workspaces.pool_size() == size && two.entries().len() == 1);
    let three = several.start(NO_POOL);
    three.until("the same size", || three.workspaces.pool_size() == size);
}

#[test]
fn a_server_started_without_redis_reconciles_once_redis_answers() {
    let mut several = Several::new();
    several.redis.kill().expect("ends");
    let one = Server::start_among(&several.host, &several.redis, NO_POOL);
    assert!(acquire(&one, "c").is_err_and(|error| error.is_unavailable()));
    assert!(!one.workspaces.is_reconciled());
    several.redis.start_again().expect("starts");
    one.until("reconciliation", || one.workspaces.is_reconciled());
    use_once(&one, "c");
}

#[test]
fn rooms_of_a_live_server_that_does_not_answer_are_not_taken_over() {
    let several = Several::new();
    let two = several.start(NO_POOL);
    let one = several.start(NO_POOL);
    use_once(&one, "c");
    // The server is alive, but its only thread is blocked.
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = Arc::new(std::sync::Mutex::new(held));
    one.runtime.spawn(async move { held.lock().map(|held| held.recv_timeout(Duration::from_secs(60)).ok()).ok() });
    let error = acquire(&two, "c").expect_err("refused");
    assert!(matches!(error, AcquireError::Peer(_)) && error.is_unavailable(), "{error:?}");
    several.host.age();
    let report = two.runtime.block_on(two.cluster.collect());
    assert!(!report.errors.is_empty() && report.reclaimed.is_empty(), "{report:?}");
    drop(release);
    assert_eq!(several.host.containers().len(), 1);
    use_once(&two, "c");
}
