//! Reconciliation: at the start, the rooms that an earlier process left are adopted or released.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::engine::EngineError;
use crate::id::RoomId;
use crate::peers::{PeerRooms, PeerUnavailable};
use crate::reason::ReleaseReason;
use crate::records::keyed;
use crate::state::{Record, StateError};
use crate::workspaces::Workspaces;

/// Why reconciliation failed. It can be repeated.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The engine did not list its containers.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The shared state does not answer.
    #[error(transparent)]
    State(#[from] StateError),
    /// The socket directories cannot be listed.
    #[error("the socket directories: {0}")]
    Directories(#[from] std::io::Error),
    /// Another server did not answer which rooms it has.
    #[error(transparent)]
    Peer(#[from] PeerUnavailable),
}

impl Workspaces {
    /// Adopts every running room that has a record and is in no server's table, and releases the other rooms of earlier processes.
    /// `peers` is awaited after everything else is listed, so that it includes the rooms that other servers have begun to build
    /// meanwhile.
    ///
    /// # Errors
    /// Containers, records, directories or the peers' rooms could not be listed.
    pub async fn reconcile(
        self: &Arc<Self>,
        peers: impl Future<Output = Result<PeerRooms, PeerUnavailable>>,
    ) -> Result<(), ReconcileError> {
        if let Some(size) = self.parts.state.pool().await? {
            tracing::info!(min = size.min, max = size.max, "the warm pool has the size that an operator has set");
            self.set_pool_size(size);
        }
        let containers = self.containers().await?;
        let mut left: HashSet<RoomId> = containers.keys().cloned().collect();
        let records: HashMap<RoomId, Record> =
            self.parts.state.records().await?.into_iter().filter_map(keyed).collect();
        left.extend(records.keys().cloned());
        let ours = |id: &RoomId| id.is_of(&self.parts.template.deployment);
        left.extend(self.parts.sockets.list()?.into_iter().map(|(id, _)| id).filter(ours));
        let peers = peers.await?;
        let (mut adopted, mut released) = (0, 0);
        for id in left.iter().filter(|id| !peers.have(id)) {
            // This server already accepts runs, so it may have built the room since the lists were read, or be building it.
            if self.rooms.is_own(id) {
                continue;
            }
            let running = containers.get(id).is_some_and(|container| container.running);
            let old = records.get(id);
            if let Some(record) = old.filter(|_| running) {
                adopted += usize::from(self.adopt_recorded(id, record, &peers).await?);
                continue;
            }
            if matches!(peers, PeerRooms::Rooms(_)) && old.is_none() {
                // Another server may be building it. Garbage collection releases it once it is old enough.
                continue;
            }
            if self.claim(id, old).await? {
                let why =
                    if containers.contains_key(id) { ReleaseReason::Orphan } else { ReleaseReason::StaleDirectory };
                self.release_unowned_in_background(id.clone(), why);
                released += 1;
            }
        }
        if adopted + released > 0 {
            tracing::info!(adopted, released, "adopted or released the workspaces of an earlier process");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::engine::memory::Memory;
    use crate::testing;

    /// Runs are accepted while reconciliation is in progress, so it can meet the directory of a room whose container is not created yet.
    #[tokio::test]
    async fn a_room_that_is_being_built_is_not_mistaken_for_an_abandoned_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let parts = testing::parts(Arc::new(Memory::new(None)), "d", dir.path()).await.expect("parts");
        let workspaces = Workspaces::new(parts);
        let (built, left) = (RoomId::generate("d"), RoomId::generate("d"));
        for id in [&built, &left] {
            drop(workspaces.parts.sockets.create(id, 50_000).expect("created"));
        }
        let exists = |id: &RoomId| dir.path().join("s").join(id.as_str()).exists();
        let alone = async || Ok(PeerRooms::NoPeers);
        let incoming = workspaces.rooms.reserve(&built);
        workspaces.reconcile(alone()).await.expect("reconciled");
        workspaces.tasks.close();
        tokio::time::timeout(Duration::from_secs(20), workspaces.tasks.wait()).await.expect("released");
        workspaces.tasks.reopen();
        assert!(exists(&built), "the directory of a room that is being built was removed");
        assert!(!exists(&left), "an abandoned directory was kept");
        // The same holds for garbage collection; the grace period is zero here, so no room is too young for it.
        workspaces.reconciled.send_replace(true);
        let report = workspaces.collect(alone()).await;
        assert!(exists(&built) && report.reclaimed.is_empty() && report.errors.is_empty(), "{report:?}");
        drop(incoming);
        let report = workspaces.collect(alone()).await;
        assert_eq!(report.reclaimed, [(built.clone(), ReleaseReason::StaleDirectory)], "{report:?}");
        assert!(!exists(&built));
        workspaces.close().await;
    }
}
