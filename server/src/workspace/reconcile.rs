//! The start: what an earlier server left is adopted, or taken down.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::id::RoomId;
use super::release::Why;
use super::room::{Occupant, Room, RoomState};
use super::{Workspaces, agent};
use crate::state::Record;

/// First and longest pause while the engine is not there.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

impl Workspaces {
    /// Reconciles as soon as the engine answers.
    pub(super) async fn reconcile_when_possible(self: &Arc<Self>) {
        let mut pause = BACKOFF.0;
        let mut told = false;
        loop {
            match self.reconcile().await {
                Ok(()) => return,
                Err(error) if !told => {
                    tracing::warn!(%error, "waiting for the container engine; `nagaya doctor` says what to do");
                    told = true;
                }
                Err(error) => tracing::debug!(%error, "still waiting for the container engine"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(BACKOFF.1);
        }
    }

    async fn reconcile(self: &Arc<Self>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let containers = self.containers().await?;
        let mut records: HashMap<RoomId, Record> = HashMap::new();
        let mut left: HashSet<RoomId> = containers.keys().cloned().collect();
        for record in self.parts.records.all().await? {
            match RoomId::parse(&record.workspace) {
                Some(id) => {
                    left.insert(id.clone());
                    records.insert(id, record);
                }
                None => self.parts.records.delete(&record.workspace).await?,
            }
        }
        let ours = |id: &RoomId| id.is_of(&self.parts.template.deployment);
        left.extend(self.parts.sockets.list()?.into_iter().map(|(id, _)| id).filter(ours));
        let (mut adopted, mut released) = (0, 0);
        for id in left {
            // A server that already serves conversations may have made it since.
            if self.rooms.contains(&id) {
                continue;
            }
            let running = containers.get(&id).is_some_and(|container| container.running);
            let record = records.remove(&id).filter(|_| running);
            let fit = match record {
                Some(record) => self.adopt(&id, record).await,
                None => false,
            };
            if fit {
                adopted += 1;
            } else {
                let why = if containers.contains_key(&id) { Why::Orphan } else { Why::StaleDirectory };
                self.release_in_background(id, why);
                released += 1;
            }
        }
        if adopted + released > 0 {
            tracing::info!(adopted, released, "rooms of an earlier server");
        }
        Ok(())
    }

    /// Opens a living room's way out again and takes the room in; `false` where it is not fit.
    async fn adopt(self: &Arc<Self>, id: &RoomId, record: Record) -> bool {
        let occupant = record.occupant.map(|(conversation, tenant)| Occupant { conversation, tenant });
        let opened = async {
            let dir = self.parts.sockets.open(id)?;
            agent::health(&dir).await.map_err(std::io::Error::other)?;
            let listener = self.open_listener(id, &dir, occupant.as_ref())?;
            Ok::<_, std::io::Error>((dir, listener))
        };
        let (dir, listener) = match opened.await {
            Ok(opened) => opened,
            Err(error) => {
                tracing::warn!(workspace = %id, %error, "room of an earlier server is not fit to be adopted");
                return false;
            }
        };
        let taken = |occupant: &Occupant| self.rooms.of_conversation(&occupant.conversation).is_some();
        if occupant.as_ref().is_some_and(taken) {
            // A run was quicker than this start and has got its conversation a new room.
            listener.stop(Duration::ZERO).await;
            return false;
        }
        let state = match occupant {
            Some(occupant) => RoomState::Bound { occupant, leased: false, session: record.session },
            None => RoomState::Pooled,
        };
        let room = Room::new(id.clone(), jiff::Timestamp::now(), Some(dir), Some(listener));
        self.rooms.insert(Arc::new(room), state);
        true
    }
}
