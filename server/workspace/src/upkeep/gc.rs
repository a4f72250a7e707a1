//! Garbage collection: releases what is idle, dead, orphaned or half released, and nothing else.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::StreamExt;

use crate::engine::{EngineError, ListedContainer};
use crate::id::RoomId;
use crate::lifecycle::acquire;
use crate::peers::{PeerRooms, PeerUnavailable};
use crate::reason::ReleaseReason;
use crate::records::keyed;
use crate::rooms::{Entry, Room, RoomState};
use crate::spec::{LABEL_DEPLOYMENT, LABEL_WORKSPACE};
use crate::workspaces::Workspaces;

/// Rooms that are released, or whose agents are asked, at the same time.
const AT_ONCE: usize = 16;

/// What one cycle did.
#[derive(Debug, Default)]
pub struct Report {
    /// Released rooms, each with the reason.
    pub reclaimed: Vec<(RoomId, ReleaseReason)>,
    /// What could not be done; the next cycle tries again.
    pub errors: Vec<String>,
}

impl Workspaces {
    /// Runs a cycle every `CONTAINER_GC_INTERVAL` until the server stops. `others` is asked anew for each.
    pub async fn collect_regularly<F>(self: &Arc<Self>, others: impl Fn() -> F)
    where
        F: Future<Output = Result<PeerRooms, PeerUnavailable>>,
    {
        let mut cycle = tokio::time::interval(self.parts.settings.gc_interval);
        cycle.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // The first tick is immediate, and the start has just reconciled.
        cycle.tick().await;
        while self.stop.run_until_cancelled(cycle.tick()).await.is_some() {
            let report = self.collect(others()).await;
            for error in &report.errors {
                tracing::error!(error, "garbage collection");
            }
            if let Err(error) = self.refresh_records().await {
                tracing::warn!(%error, "the records of workspaces were not refreshed");
                self.set_behind(true);
            }
        }
    }

    /// Runs one cycle. `others` is awaited after containers, directories and records have been listed, so that it includes what
    /// other servers have begun meanwhile.
    pub async fn collect(self: &Arc<Self>, others: impl Future<Output = Result<PeerRooms, PeerUnavailable>>) -> Report {
        let mut report = Report::default();
        match self.doomed(others).await {
            Ok((doomed, errors)) => {
                report.errors = errors;
                let releases = futures::stream::iter(doomed).map(|(id, why)| async move {
                    let result = self.release(&id, why).await;
                    (id, why, result)
                });
                let mut releases = std::pin::pin!(releases.buffer_unordered(AT_ONCE));
                while let Some((id, why, result)) = releases.next().await {
                    match result {
                        Ok(()) => {
                            self.parts.metrics.gc_reclaimed(why.name());
                            report.reclaimed.push((id, why));
                        }
                        Err(error) => report.errors.push(format!("{id} ({why}): {error}")),
                    }
                }
            }
            Err(error) => report.errors.push(error.to_string()),
        }
        self.parts.metrics.gc_cycle(report.errors.is_empty());
        report
    }

    /// Rooms to be released, by the engine's list of containers and by our table, and what could not be examined.
    async fn doomed(
        self: &Arc<Self>,
        others: impl Future<Output = Result<PeerRooms, PeerUnavailable>>,
    ) -> Result<(Vec<(RoomId, ReleaseReason)>, Vec<String>), EngineError> {
        let (mut doomed, mut errors) = (Vec::new(), Vec::new());
        // The table comes first: a room built in between is then in the engine's list only, and `is_own` knows it.
        let known = self.rooms.all();
        let containers = self.containers().await?;
        let now = self.parts.clock.now();
        let mut waiting = Vec::new();
        for entry in known {
            let running = containers.get(&entry.room.id).is_some_and(|container| container.running);
            let idle = now.duration_since(entry.last_used) > self.parts.settings.ttl;
            match verdict(&entry, running, idle) {
                // Begun at once, so that a run that came in meanwhile, or a server that took the room, is not disturbed.
                Some(why) if self.rooms.begin_release_if_unchanged(&entry) => doomed.push((entry.room.id.clone(), why)),
                Some(_) => {}
                None if entry.state == RoomState::Pooled => waiting.push(entry.room),
                None => {}
            }
        }
        doomed.extend(self.unhealthy(waiting).await);
        doomed.extend(self.unknown(&containers, others, &mut errors).await);
        Ok((doomed, errors))
    }

    /// Rooms of the pool whose agent does not answer, so that no conversation has to find out.
    async fn unhealthy(&self, waiting: Vec<Arc<Room>>) -> Vec<(RoomId, ReleaseReason)> {
        let looks = futures::stream::iter(waiting).map(|room| async move {
            let well = acquire::is_responding(&room).await;
            // A conversation may have taken it meanwhile; then its run judges the room.
            (!well && self.rooms.is_pooled(&room.id)).then(|| (room.id.clone(), ReleaseReason::Unhealthy))
        });
        looks.buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await
    }

    /// Rooms of this deployment that are in no server's table. Running ones with a record are adopted; the rest, once old
    /// enough, is claimed for release.
    async fn unknown(
        self: &Arc<Self>,
        containers: &HashMap<RoomId, ListedContainer>,
        others: impl Future<Output = Result<PeerRooms, PeerUnavailable>>,
        errors: &mut Vec<String>,
    ) -> Vec<(RoomId, ReleaseReason)> {
        // Before reconciliation the table is incomplete.
        if !self.is_reconciled() {
            return Vec::new();
        }
        let directories = self.parts.sockets.list();
        let directories =
            directories.inspect_err(|error| errors.push(format!("socket directories not listed: {error}")));
        let directories: HashMap<RoomId, SystemTime> = directories.unwrap_or_default().into_iter().collect();
        let records = match self.parts.state.records().await {
            Ok(records) => records.into_iter().filter_map(keyed).collect::<HashMap<_, _>>(),
            Err(error) => {
                errors.push(format!("records not listed: {error}"));
                return Vec::new();
            }
        };
        let others = match others.await {
            Ok(others) => others,
            Err(error) => {
                errors.push(error.to_string());
                return Vec::new();
            }
        };
        let left: HashSet<&RoomId> = containers.keys().chain(directories.keys()).chain(records.keys()).collect();
        let unowned = |id: &&RoomId| self.is_ours(id) && !others.have(id) && !self.rooms.is_own(id);
        let now = self.parts.clock.date();
        let old = |since: SystemTime| now.duration_since(since).is_ok_and(|age| age >= self.parts.settings.grace);
        let mut doomed = Vec::new();
        for id in left.into_iter().filter(unowned) {
            let record = records.get(id);
            let why = match (containers.get(id), record, directories.get(id)) {
                (Some(container), Some(record), _) if container.running => {
                    if let Err(error) = self.adopt_recorded(id, record).await {
                        errors.push(format!("{id}: {error}"));
                    }
                    continue;
                }
                (Some(container), ..) => {
                    let created = SystemTime::UNIX_EPOCH + Duration::from_secs(container.created.unsigned_abs());
                    Some(ReleaseReason::Orphan).filter(|_| old(created))
                }
                (None, _, Some(changed)) if old(*changed) => Some(ReleaseReason::StaleDirectory),
                (None, Some(_), _) => Some(ReleaseReason::StaleRecord),
                (None, None, _) => None,
            };
            let Some(why) = why else { continue };
            match self.claim(id, record).await {
                Ok(true) => {
                    self.rooms.begin_release_unowned(id);
                    doomed.push((id.clone(), why));
                }
                Ok(false) => {}
                Err(error) => errors.push(format!("{id}: {error}")),
            }
        }
        doomed
    }

    fn is_ours(&self, id: &RoomId) -> bool {
        id.is_of(&self.parts.template.deployment)
    }

    /// Containers of this deployment by room. A container whose label names no room, or a room of another deployment, is not
    /// ours to touch, whoever gave it our label.
    pub(crate) async fn containers(&self) -> Result<HashMap<RoomId, ListedContainer>, EngineError> {
        let listed = self.parts.engine.list(LABEL_DEPLOYMENT, &self.parts.template.deployment).await?;
        let by_room = listed
            .into_iter()
            .filter_map(|container| Some((RoomId::parse(container.labels.get(LABEL_WORKSPACE)?)?, container)));
        Ok(by_room.filter(|(id, _)| self.is_ours(id)).collect())
    }
}

/// Whether, and why, a known room is to go.
fn verdict(entry: &Entry, running: bool, idle: bool) -> Option<ReleaseReason> {
    match &entry.state {
        RoomState::Starting => None,
        // A run in a dead room sees that itself, tells its reader, and gives the room up.
        RoomState::Bound { leased: true, .. } => None,
        RoomState::Releasing => Some(ReleaseReason::Unfinished),
        RoomState::Pooled | RoomState::Bound { .. } if !running => Some(ReleaseReason::Dead),
        RoomState::Bound { .. } if idle => Some(ReleaseReason::Idle),
        RoomState::Pooled | RoomState::Bound { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rooms::Occupant;
    use std::time::Instant;

    fn entry(state: RoomState) -> Entry {
        let room = Arc::new(Room::new(RoomId::generate("d"), jiff::Timestamp::now(), None, None));
        Entry { room, state, last_used: Instant::now() }
    }

    fn bound(leased: bool) -> RoomState {
        let occupant = Occupant { conversation: "c".into(), tenant: "t".into() };
        RoomState::Bound { occupant, leased, session: None }
    }

    #[test]
    fn only_what_is_idle_dead_or_half_released_goes() {
        let (used, idle) = (false, true);
        let verdict = |state, running, idle| verdict(&entry(state), running, idle);
        assert_eq!(verdict(bound(false), true, used), None);
        assert_eq!(verdict(bound(false), true, idle), Some(ReleaseReason::Idle));
        assert_eq!(verdict(bound(false), false, used), Some(ReleaseReason::Dead));
        assert_eq!(verdict(bound(true), true, idle), None, "a run is in it");
        assert_eq!(verdict(RoomState::Pooled, true, idle), None, "the pool does not age");
        assert_eq!(verdict(RoomState::Pooled, false, used), Some(ReleaseReason::Dead));
        assert_eq!(verdict(RoomState::Starting, false, idle), None, "its maker knows");
        assert_eq!(verdict(RoomState::Releasing, true, used), Some(ReleaseReason::Unfinished));
    }
}
