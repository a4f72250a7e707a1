//! Garbage collection: what is removed and why, what stays, and the cost of a cycle with many rooms.

use std::collections::BTreeSet;
use std::time::Duration;

use nagaya_workspace::engine::Engine;
use nagaya_workspace::engine::memory::{Call, Memory};
use nagaya_workspace::id::RoomId;
use nagaya_workspace::state::Record;
use nagaya_workspace::{FilesFate, Loss, ReleaseReason, Variant};

use crate::support::{DEPLOYMENT, Host, NO_POOL, Server, UID, collect, occupant, template};

#[test]
fn collection_removes_idle_orphaned_and_stale_objects_once_they_are_old_and_nothing_else() {
    let host = Host::new();
    let server = Server::start(&host, NO_POOL);
    server.until("reconciliation", || server.workspaces.is_reconciled());
    let used = server.runtime.block_on(server.cluster.acquire(occupant("used"))).expect("a room");
    drop(server.runtime.block_on(server.cluster.acquire(occupant("idle"))).expect("a room"));
    host.stray_container(&server.runtime);
    host.stray_directory();
    assert_eq!(collect(&server), BTreeSet::new(), "a young object may belong to work in progress");
    host.age();
    assert_eq!(collect(&server), BTreeSet::from(["idle", "orphan", "stale_directory"]));
    assert_eq!(host.containers(), [(format!("nagaya-ws-{}", used.workspace_id()), true)]);
    assert_eq!(host.directories(), BTreeSet::from([used.workspace_id().to_owned()]));
    host.check_others();
    host.engine.vanish(&format!("nagaya-ws-{}", used.workspace_id()));
    assert_eq!(collect(&server), BTreeSet::new(), "the run in the room handles the loss itself");
    drop(used);
    assert_eq!(collect(&server), BTreeSet::from(["dead"]));
}

#[test]
fn a_paused_room_is_released_as_paused_and_its_conversation_is_told_what_is_lost() {
    let host = Host::new();
    let server = Server::start(&host, NO_POOL);
    server.until("reconciliation", || server.workspaces.is_reconciled());
    let lost = Some(Loss { why: ReleaseReason::Paused, files: FilesFate::Lost });
    let acquire = || server.runtime.block_on(server.cluster.acquire(occupant("c"))).expect("a room");
    let first = acquire();
    assert_eq!(first.loss(), None, "there was no workspace before");
    let pause = |id: &str| host.engine.pause(&format!("nagaya-ws-{id}"));
    // Garbage collection finds it.
    pause(first.workspace_id());
    drop(first);
    assert_eq!(collect(&server), BTreeSet::from(["paused"]));
    let second = acquire();
    assert_eq!(second.loss(), lost);
    // The next run finds it.
    pause(second.workspace_id());
    drop(second);
    let third = acquire();
    assert_eq!(third.loss(), lost);
    // It is told once.
    let id = third.workspace_id().to_owned();
    drop(third);
    assert_eq!(acquire().loss(), None);
    assert_eq!(host.containers(), [(format!("nagaya-ws-{id}"), true)]);
}

#[test]
fn collection_removes_a_record_without_a_room() {
    let host = Host::new();
    let server = Server::start(&host, NO_POOL);
    server.until("reconciliation", || server.workspaces.is_reconciled());
    let workspace = RoomId::generate(DEPLOYMENT).to_string();
    let record = Record { workspace, occupant: None, session: None, retired: false, owner: "dead".into() };
    server.runtime.block_on(server.workspaces.state().put_owned(&record)).expect("writes");
    assert_eq!(collect(&server), BTreeSet::from(["stale_record"]));
    assert_eq!(server.runtime.block_on(host.records()), []);
}

#[test]
fn collection_leaves_a_container_with_our_label_and_another_deployments_name() {
    let host = Host::new();
    let server = Server::start(&host, NO_POOL);
    server.until("reconciliation", || server.workspaces.is_reconciled());
    let theirs = RoomId::generate("theirs");
    let dir = host.base().join(theirs.as_str());
    std::fs::create_dir(&dir).expect("makes");
    server.runtime.block_on(host.engine.run(template().room(&theirs, UID, dir, &Variant::default()))).expect("runs");
    host.age();
    assert_eq!(collect(&server), BTreeSet::new());
    host.engine.vanish(&theirs.container());
    std::fs::remove_dir_all(host.base().join(theirs.as_str())).expect("the directory exists");
}

/// Runs a cycle on a host with the given number of rooms, one of them crashed; returns the calls to the engine and the CPU time.
fn cycle(rooms: usize) -> (Vec<Call>, Duration) {
    let host = Host::new();
    // Rooms without agents and proxies: a cycle reads only the table, the engine, the directories and the records.
    let engine = std::sync::Arc::new(Memory::new(None));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut parts = runtime.block_on(host.parts(NO_POOL));
    parts.engine = engine.clone();
    let server = Server::with(runtime, parts);
    server.until("reconciliation", || server.workspaces.is_reconciled());
    for _ in 0..rooms {
        let id = RoomId::generate(DEPLOYMENT);
        server.runtime.block_on(engine.run(template().room(&id, UID, host.base(), &Variant::default()))).expect("runs");
        server.workspaces.insert_bound(&id, occupant(id.as_str()));
    }
    let crashed = server.entries()[0].room.id.clone();
    engine.crash(&crashed.container());
    drop(engine.take_calls());
    let before = cpu();
    let report = server.runtime.block_on(server.cluster.collect());
    let took = cpu().saturating_sub(before);
    assert_eq!(report.reclaimed, [(crashed, ReleaseReason::Dead)]);
    assert_eq!(server.entries().len(), rooms - 1);
    (engine.take_calls(), took)
}

/// CPU time of this thread, on which a cycle runs except for SQLite's work.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("proc");
    Duration::from_nanos(stat.split(' ').next().and_then(|nanos| nanos.parse().ok()).expect("a number"))
}

#[test]
fn the_number_of_engine_calls_per_cycle_does_not_grow_with_the_rooms() {
    for rooms in [1_000, 10_000] {
        let (calls, took) = cycle(rooms);
        println!("{rooms} rooms: {took:?} of CPU on the collecting thread");
        assert_eq!(calls, [Call::List, Call::Remove], "{rooms} rooms");
    }
}
