//! The garbage collector: takes down what is idle, dead, orphaned or half taken down, and nothing else.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::Workspaces;
use super::id::RoomId;
use super::release::Why;
use super::room::{Entry, RoomState};
use super::spec::{LABEL_DEPLOYMENT, LABEL_WORKSPACE};
use crate::engine::{EngineError, Listed};

/// What one cycle did.
#[derive(Debug, Default)]
pub struct Report {
    /// Rooms taken down, and why.
    pub reclaimed: Vec<(RoomId, Why)>,
    /// What could not be done; the next cycle tries again.
    pub errors: Vec<String>,
}

impl Workspaces {
    pub(super) async fn collect_regularly(self: &Arc<Self>) {
        let mut cycle = tokio::time::interval(self.parts.gc_interval);
        cycle.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // The first tick is immediate, and the start has just reconciled.
        cycle.tick().await;
        while self.stop.run_until_cancelled(cycle.tick()).await.is_some() {
            let report = self.collect().await;
            for error in &report.errors {
                tracing::error!(error, "garbage collection");
            }
        }
    }

    /// One cycle.
    pub async fn collect(self: &Arc<Self>) -> Report {
        let mut report = Report::default();
        match self.doomed().await {
            Ok(doomed) => {
                let releases = doomed.into_iter().map(|(id, why)| async move {
                    let result = self.release(&id, why).await;
                    (id, why, result)
                });
                for (id, why, result) in futures::future::join_all(releases).await {
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

    /// What is to be taken down, by the engine's truth and our table.
    async fn doomed(&self) -> Result<Vec<(RoomId, Why)>, EngineError> {
        let mut doomed = Vec::new();
        // The table first: a room made in between is then in the engine's list and in the table, or in neither.
        let before: HashMap<RoomId, Entry> =
            self.rooms.all().into_iter().map(|entry| (entry.room.id.clone(), entry)).collect();
        let containers = self.containers().await?;
        for (id, entry) in &before {
            let running = containers.get(id).is_some_and(|container| container.running);
            if let Some(why) =
                verdict(entry, running, self.parts.clock.now().duration_since(entry.last_used) > self.parts.ttl)
            {
                doomed.push((id.clone(), why));
            }
        }
        let unknown = |id: &RoomId| !before.contains_key(id) && !self.rooms.contains(id);
        let now = self.parts.clock.date();
        let old = |since: SystemTime| now.duration_since(since).is_ok_and(|age| age >= self.parts.grace);
        for (id, container) in &containers {
            let created = SystemTime::UNIX_EPOCH + Duration::from_secs(container.created.unsigned_abs());
            if unknown(id) && old(created) {
                doomed.push((id.clone(), Why::Orphan));
            }
        }
        match self.parts.sockets.list() {
            Ok(directories) => doomed.extend(
                directories
                    .into_iter()
                    .filter(|(id, changed)| {
                        id.is_of(&self.parts.template.deployment)
                            && unknown(id)
                            && old(*changed)
                            && !containers.contains_key(id)
                    })
                    .map(|(id, _)| (id, Why::Orphan)),
            ),
            Err(error) => tracing::error!(%error, "socket directories not listed"),
        }
        Ok(doomed)
    }

    /// Containers of this deployment by room. A container whose label names no room is not ours to touch.
    pub(super) async fn containers(&self) -> Result<HashMap<RoomId, Listed>, EngineError> {
        let listed = self.parts.engine.list(LABEL_DEPLOYMENT, &self.parts.template.deployment).await?;
        Ok(listed
            .into_iter()
            .filter_map(|container| Some((RoomId::parse(container.labels.get(LABEL_WORKSPACE)?)?, container)))
            .collect())
    }
}

/// Whether, and why, a known room is to go.
fn verdict(entry: &Entry, running: bool, idle: bool) -> Option<Why> {
    match &entry.state {
        RoomState::Starting => None,
        // A run in a dead room sees that itself, tells its reader, and gives the room up.
        RoomState::Bound { leased: true, .. } => None,
        RoomState::Releasing => Some(Why::Unfinished),
        RoomState::Pooled | RoomState::Bound { .. } if !running => Some(Why::Dead),
        RoomState::Bound { .. } if idle => Some(Why::Idle),
        RoomState::Pooled | RoomState::Bound { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::room::{Occupant, Room};
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
        assert_eq!(verdict(bound(false), true, idle), Some(Why::Idle));
        assert_eq!(verdict(bound(false), false, used), Some(Why::Dead));
        assert_eq!(verdict(bound(true), true, idle), None, "a run is in it");
        assert_eq!(verdict(RoomState::Pooled, true, idle), None, "the pool does not age");
        assert_eq!(verdict(RoomState::Pooled, false, used), Some(Why::Dead));
        assert_eq!(verdict(RoomState::Starting, false, idle), None, "its maker knows");
        assert_eq!(verdict(RoomState::Releasing, true, used), Some(Why::Unfinished));
    }
}
