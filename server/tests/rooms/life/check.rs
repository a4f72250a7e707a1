//! Invariants after each step of a life, and at its end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nagaya_workspace::OnShutdown;
use nagaya_workspace::rooms::RoomState;

use super::step::Step;
use super::{Life, name};

impl Life {
    /// Asserts that engine, directories, records, proxies and the server's table agree.
    pub(super) fn check(&self) {
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
            assert!(unknown.is_empty(), "containers that the server does not know: {unknown:?}");
            let unknown: Vec<_> = directories.difference(&known).collect();
            assert!(unknown.is_empty(), "directories that the server does not know: {unknown:?}");
        }
        let unknown: Vec<_> = records.iter().filter(|record| !known.contains(&record.workspace)).collect();
        assert!(unknown.is_empty(), "records without a room: {unknown:?}");

        let mut conversations = BTreeSet::new();
        let mut open = 0;
        for entry in &entries {
            let id = entry.room.id.to_string();
            let record = records.iter().find(|record| record.workspace == id);
            let conversation = match &entry.state {
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
            assert_eq!(recorded, Some(conversation), "record of {id}");
            assert!(directories.contains(&id), "{id} has no directory");
            let container = entry.room.id.container();
            assert!(
                containers.get(&container) == Some(&true) || self.hurt.contains(&container),
                "the container of {id} is not running"
            );
        }
        assert_eq!(server.egress.open_listeners(), open, "proxies of {:?}", server.rooms());
        if !self.faulty {
            let reality = server.runtime.block_on(server.workspaces.counts());
            let running = containers.values().filter(|running| **running).count();
            assert_eq!(reality.active_containers, running, "gauge of containers");
        }
    }

    /// Removes all faults and conversations, and asserts that nothing is left.
    pub(super) fn end(mut self) {
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
        // Every conversation can still get a room.
        for conversation in 0..4 {
            self.perform(&Step::Acquire(conversation));
            self.perform(&Step::Finish(conversation));
        }
        let server = self.server.take().expect("a server runs");
        server.runtime.block_on(server.cluster.shutdown(OnShutdown::Destroy, Duration::from_secs(10)));
        assert_eq!(self.host.containers(), [], "containers after the shutdown");
        assert_eq!(self.host.directories(), BTreeSet::new(), "directories after the shutdown");
        assert_eq!(server.egress.open_listeners(), 0, "proxies after the shutdown");
        self.host.check_others();
    }
}
