//! Garbage collection: releases rooms that are idle, dead, orphaned or half released, and no others.

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

/// Releases, or health requests to agents, in progress concurrently.
const CONCURRENCY: usize = 16;

/// The result of one cycle.
#[derive(Debug, Default)]
pub struct Report {
    /// The released rooms, each with the reason.
    pub reclaimed: Vec<(RoomId, ReleaseReason)>,
    /// Failures. The next cycle tries again.
    pub errors: Vec<String>,
}

impl Workspaces {
    /// Runs a cycle every `CONTAINER_GC_INTERVAL` until the server stops. `peers` is called for each cycle.
    pub async fn collect_regularly<F>(self: &Arc<Self>, peers: impl Fn() -> F)
    where
        F: Future<Output = Result<PeerRooms, PeerUnavailable>>,
    {
        let mut cycle = tokio::time::interval(self.parts.settings.gc_interval);
        cycle.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // The first tick is immediate, and the start has just reconciled.
        cycle.tick().await;
        while self.stop.run_until_cancelled(cycle.tick()).await.is_some() {
            let report = self.collect(peers()).await;
            for error in &report.errors {
                tracing::error!(error, "garbage collection failed for a workspace or could not list them");
            }
            if let Err(error) = self.refresh_records().await {
                tracing::warn!(%error, "the records of workspaces were not refreshed");
                self.set_records_stale(true);
            }
        }
    }

    /// Runs one cycle. `peers` is awaited after containers, directories and records have been listed, so that it includes the rooms
    /// that other servers have begun to build meanwhile.
    pub async fn collect(self: &Arc<Self>, peers: impl Future<Output = Result<PeerRooms, PeerUnavailable>>) -> Report {
        let mut report = Report::default();
        match self.select(peers).await {
            Ok((selected, errors)) => {
                report.errors = errors;
                let releases = futures::stream::iter(selected).map(|(id, why)| async move {
                    let result = self.release(&id, why).await;
                    (id, why, result)
                });
                let mut releases = std::pin::pin!(releases.buffer_unordered(CONCURRENCY));
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

    /// Selects the rooms to release, by comparing the engine's containers with the table, and lists what could not be examined.
    async fn select(
        self: &Arc<Self>,
        peers: impl Future<Output = Result<PeerRooms, PeerUnavailable>>,
    ) -> Result<(Vec<(RoomId, ReleaseReason)>, Vec<String>), EngineError> {
        let (mut selected, mut errors) = (Vec::new(), Vec::new());
        // The table is read before the engine's list: a room that is built in between is then missing in the former only, where
        // `is_own` finds it.
        let known = self.rooms.all();
        let containers = self.containers().await?;
        let now = self.parts.clock.now();
        let mut pooled = Vec::new();
        for entry in known {
            let container = containers.get(&entry.room.id);
            let running = container.is_some_and(|container| container.running);
            let paused = container.is_some_and(|container| container.paused);
            let idle = now.duration_since(entry.last_used) > self.parts.settings.ttl;
            // A run that is still in an outdated room is taken up first.
            let settled = now.duration_since(entry.last_used) > self.parts.settings.grace;
            let drained = settled && entry.room.is_outdated();
            match release_reason(&entry, Observed { running, paused, idle, drained }) {
                // The release begins here, and only if nothing has happened to the room: a run may have leased it meanwhile, or
                // another server taken it over.
                Some(why) if self.rooms.begin_release_if_unchanged(&entry) => {
                    selected.push((entry.room.id.clone(), why));
                }
                Some(_) => {}
                None if entry.state == RoomState::Pooled => pooled.push(entry.room),
                None => {}
            }
        }
        selected.extend(self.unhealthy(pooled).await);
        selected.extend(self.unknown(&containers, peers, &mut errors).await);
        Ok((selected, errors))
    }

    /// Pooled rooms whose agent does not answer. They are replaced before a conversation receives one.
    async fn unhealthy(&self, pooled: Vec<Arc<Room>>) -> Vec<(RoomId, ReleaseReason)> {
        let checks = futures::stream::iter(pooled).map(|room| async move {
            let responding = acquire::is_responding(&room).await;
            // A conversation may have leased the room meanwhile; then its run finds out.
            (!responding && self.rooms.is_pooled(&room.id)).then(|| (room.id.clone(), ReleaseReason::Unhealthy))
        });
        checks.buffer_unordered(CONCURRENCY).filter_map(std::future::ready).collect().await
    }

    /// Rooms of this deployment that are in no server's table. Running ones with a record are adopted; the others are claimed and
    /// selected for release once they are older than the grace period.
    async fn unknown(
        self: &Arc<Self>,
        containers: &HashMap<RoomId, ListedContainer>,
        peers: impl Future<Output = Result<PeerRooms, PeerUnavailable>>,
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
        let peers = match peers.await {
            Ok(peers) => peers,
            Err(error) => {
                errors.push(error.to_string());
                return Vec::new();
            }
        };
        self.running_elsewhere.lock().retain(|id, _| containers.contains_key(id));
        let left: HashSet<&RoomId> = containers.keys().chain(directories.keys()).chain(records.keys()).collect();
        let unowned = |id: &&RoomId| self.is_ours(id) && !peers.have(id) && !self.rooms.is_own(id);
        let now = self.parts.clock.date();
        let old = |since: SystemTime| now.duration_since(since).is_ok_and(|age| age >= self.parts.settings.grace);
        let mut selected = Vec::new();
        for id in left.into_iter().filter(unowned) {
            let record = records.get(id);
            let why = match (containers.get(id), record, directories.get(id)) {
                (Some(container), Some(record), _) if container.running => {
                    if let Err(error) = self.adopt_recorded(id, record, &peers).await {
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
                    selected.push((id.clone(), why));
                }
                Ok(false) => {}
                Err(error) => errors.push(format!("{id}: {error}")),
            }
        }
        selected
    }

    fn is_ours(&self, id: &RoomId) -> bool {
        id.is_of(&self.parts.template.deployment)
    }

    /// Containers of this deployment by room. A container whose label names no room, or a room of another deployment, is left alone
    /// even if it has this deployment's label.
    pub(crate) async fn containers(&self) -> Result<HashMap<RoomId, ListedContainer>, EngineError> {
        let listed = self.parts.engine.list(LABEL_DEPLOYMENT, &self.parts.template.deployment).await?;
        let by_room = listed
            .into_iter()
            .filter_map(|container| Some((RoomId::parse(container.labels.get(LABEL_WORKSPACE)?)?, container)));
        Ok(by_room.filter(|(id, _)| self.is_ours(id)).collect())
    }
}

/// What a cycle observes of a room in the table.
#[derive(Debug, Clone, Copy)]
struct Observed {
    /// Whether the engine lists its container as running.
    running: bool,
    /// Whether the engine lists its container as paused.
    paused: bool,
    /// Whether it has been unused for longer than `CONTAINER_TTL`.
    idle: bool,
    /// Whether it is one of version 0.1 and no run is in it.
    drained: bool,
}

/// The reason to release a room that is in the table; `None` if it stays.
fn release_reason(entry: &Entry, observed: Observed) -> Option<ReleaseReason> {
    match &entry.state {
        RoomState::Starting => None,
        // The run notices that its room is dead, reports it in its event stream and releases the room.
        RoomState::Bound { leased: true, .. } => None,
        RoomState::Releasing => Some(ReleaseReason::Unfinished),
        RoomState::Pooled | RoomState::Bound { .. } if observed.paused => Some(ReleaseReason::Paused),
        RoomState::Pooled | RoomState::Bound { .. } if !observed.running => Some(ReleaseReason::Dead),
        RoomState::Pooled | RoomState::Bound { .. } if observed.drained => Some(ReleaseReason::Outdated),
        RoomState::Bound { .. } if observed.idle => Some(ReleaseReason::Idle),
        RoomState::Pooled | RoomState::Bound { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rooms::Occupant;
    use std::time::Instant;

    fn entry(state: RoomState) -> Entry {
        let room = Arc::new(Room::new(RoomId::generate("d"), jiff::Timestamp::now(), None));
        Entry { room, state, last_used: Instant::now() }
    }

    fn bound(leased: bool) -> RoomState {
        let occupant = Occupant { conversation: "c".into(), tenant: "t".into() };
        RoomState::Bound { occupant, leased, session: None }
    }

    #[test]
    fn only_idle_dead_and_half_released_rooms_are_released() {
        let (used, idle) = (false, true);
        let observed = |running, idle| Observed { running, paused: false, idle, drained: false };
        let reason = |state, running, idle| release_reason(&entry(state), observed(running, idle));
        let drained = Observed { drained: true, ..observed(true, idle) };
        let paused = Observed { paused: true, ..observed(false, used) };
        assert_eq!(release_reason(&entry(bound(false)), paused), Some(ReleaseReason::Paused));
        assert_eq!(release_reason(&entry(bound(true)), paused), None, "its run finds out");
        assert_eq!(release_reason(&entry(bound(false)), drained), Some(ReleaseReason::Outdated));
        assert_eq!(release_reason(&entry(bound(true)), drained), None, "its run goes on");
        assert_eq!(reason(bound(false), true, used), None);
        assert_eq!(reason(bound(false), true, idle), Some(ReleaseReason::Idle));
        assert_eq!(reason(bound(false), false, used), Some(ReleaseReason::Dead));
        assert_eq!(reason(bound(true), true, idle), None, "a run holds the lease");
        assert_eq!(reason(RoomState::Pooled, true, idle), None, "pooled rooms do not become idle");
        assert_eq!(reason(RoomState::Pooled, false, used), Some(ReleaseReason::Dead));
        assert_eq!(reason(RoomState::Starting, false, idle), None, "its build finds out");
        assert_eq!(reason(RoomState::Releasing, true, used), Some(ReleaseReason::Unfinished));
    }
}
