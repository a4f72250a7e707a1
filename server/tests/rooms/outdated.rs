//! Rooms of version 0.1, whose agents listened themselves and could write to their directory: the run that is in one ends there, and
//! then it is released.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

use nagaya_protocol::{AGENT_SOCKET, Health};
use nagaya_workspace::Variant;
use nagaya_workspace::engine::Engine;
use nagaya_workspace::id::RoomId;
use nagaya_workspace::rooms::RoomState;
use nagaya_workspace::state::{Embedded, Record, State};

use crate::support::{DEPLOYMENT, Host, NO_POOL, Server, UID, collect, occupant, template};

/// A running room as version 0.1 left it: an agent that listens, a container, a record, and nothing else in its directory.
fn room_of_0_1(host: &Host, conversation: Option<&str>) -> RoomId {
    let id = RoomId::generate(DEPLOYMENT);
    let dir = host.base().join(id.as_str());
    std::fs::create_dir_all(&dir).expect("makes");
    let listener = UnixListener::bind(dir.join(AGENT_SOCKET)).expect("binds");
    thread::spawn(move || listener.incoming().flatten().for_each(|client| drop(thread::spawn(|| answer(client)))));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        host.engine.run(template().room(&id, UID, dir, &Variant::default())).await.expect("runs");
        let occupant = conversation.map(|conversation| {
            let occupant = occupant(conversation);
            (occupant.conversation, occupant.tenant)
        });
        let record = Record { workspace: id.to_string(), occupant, session: None, retired: false, owner: "0.1".into() };
        let state = Embedded::open(&host.records_path()).await.expect("opens");
        state.put_owned(&record).await.expect("writes");
        state.close().await;
    });
    id
}

fn answer(mut client: UnixStream) {
    let health = Health {
        status: "ok".into(),
        version: "0.1.0".into(),
        driver: "none".into(),
        cli_version: None,
        protocol: 0,
        execution: None,
        parked: None,
    };
    let body = serde_json::to_string(&health).expect("JSON");
    let length = body.len();
    if client.read(&mut [0; 1024]).is_ok_and(|read| read > 0) {
        // The server may have gone meanwhile.
        let _ = write!(client, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
    }
}

#[test]
fn an_idle_one_is_adopted_and_then_released() {
    let host = Host::new();
    let idle = room_of_0_1(&host, Some("idle"));
    let server = Server::start(&host, NO_POOL);
    server.until("reconciliation", || server.workspaces.is_reconciled());
    assert_eq!(server.conversations(), ["idle"]);
    assert_eq!(collect(&server), BTreeSet::new(), "a run that is in it may be taken up for a while");
    host.age();
    assert_eq!(collect(&server), BTreeSet::from(["outdated"]));
    assert!(host.containers().is_empty() && !host.directories().contains(idle.as_str()));
}

#[test]
fn one_of_the_pool_serves_nobody() {
    let host = Host::new();
    let pooled = room_of_0_1(&host, None);
    let server = Server::start(&host, NO_POOL);
    server.until("reconciliation", || server.workspaces.is_reconciled());
    let lease = server.runtime.block_on(server.cluster.acquire(occupant("new"))).expect("a room");
    assert_ne!(lease.workspace_id(), pooled.as_str());
    server.until("its end", || !host.directories().contains(pooled.as_str()));
}

#[test]
fn the_next_run_of_its_conversation_gets_a_new_one() {
    let host = Host::new();
    let old = room_of_0_1(&host, Some("c"));
    let server = Server::start(&host, NO_POOL);
    server.until("reconciliation", || server.workspaces.is_reconciled());
    let lease = server.runtime.block_on(server.cluster.acquire(occupant("c"))).expect("a room");
    assert_ne!(lease.workspace_id(), old.as_str());
    assert!(!host.directories().contains(old.as_str()), "it was released first, with its files saved");
    drop(lease);
}

#[test]
fn a_run_that_is_in_it_goes_on() {
    let host = Host::new();
    let busy = room_of_0_1(&host, Some("c"));
    let server = Server::start(&host, NO_POOL);
    server.until("reconciliation", || server.workspaces.is_reconciled());
    let lease = server.runtime.block_on(server.workspaces.reattach(occupant("c"), busy.as_str())).expect("its lease");
    host.age();
    assert_eq!(collect(&server), BTreeSet::new(), "it is leased");
    assert!(server.entries().iter().any(|entry| matches!(entry.state, RoomState::Bound { leased: true, .. })));
    server.runtime.block_on(lease.finish(None));
    host.age();
    assert_eq!(collect(&server), BTreeSet::from(["outdated"]));
}
