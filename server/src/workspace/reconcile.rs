//! The start: what an earlier server left is adopted, or taken down.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use nagaya_egress::Listener;

use super::build::whose;
use super::id::RoomId;
use super::release::Why;
use super::room::{Occupant, Room, RoomState};
use super::sockets::RoomDir;
use super::{Workspaces, agent};
use crate::state::{Record, StateError, Swap};
use crate::telemetry::audit::Event;

/// First and longest pause while the engine, or shared state, is not there.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

impl Workspaces {
    /// Reconciles as soon as engine, shared state and the other servers answer.
    pub(super) async fn reconcile_when_possible(self: &Arc<Self>) {
        let mut pause = BACKOFF.0;
        let mut told = false;
        loop {
            match self.reconcile().await {
                Ok(()) => return,
                Err(error) if !told => {
                    tracing::warn!(%error, "rooms of earlier servers cannot be looked through yet; `nagaya doctor` says what to do");
                    told = true;
                }
                Err(error) => tracing::debug!(%error, "rooms of earlier servers still cannot be looked through"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(BACKOFF.1);
        }
    }

    async fn reconcile(self: &Arc<Self>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        if let Some(size) = self.parts.state.pool().await? {
            tracing::info!(min = size.min, max = size.max, "the pool's size is as an operator has set it");
            self.set_pool_size(size);
        }
        let containers = self.containers().await?;
        let mut left: HashSet<RoomId> = containers.keys().cloned().collect();
        let records: HashMap<RoomId, Record> =
            self.parts.state.records().await?.into_iter().filter_map(keyed).collect();
        left.extend(records.keys().cloned());
        let ours = |id: &RoomId| id.is_of(&self.parts.template.deployment);
        left.extend(self.parts.sockets.list()?.into_iter().map(|(id, _)| id).filter(ours));
        // The others last: what they have begun meanwhile is theirs, too.
        let foreign = self.foreign().await?;
        let (mut adopted, mut released) = (0, 0);
        for id in left.difference(&foreign) {
            // A server that already serves conversations may have made it since, or be about to.
            if self.is_own(id) {
                continue;
            }
            let running = containers.get(id).is_some_and(|container| container.running);
            let old = records.get(id);
            if let Some(record) = old.filter(|_| running) {
                adopted += usize::from(self.take_up(id, record).await?);
                continue;
            }
            if self.is_shared() && old.is_none() {
                // Too young to tell, maybe: the collector goes by its age.
                continue;
            }
            if self.claim(id, old).await? {
                let why = if containers.contains_key(id) { Why::Orphan } else { Why::StaleDirectory };
                self.release_left_in_background(id.clone(), why);
                released += 1;
            }
        }
        if adopted + released > 0 {
            tracing::info!(adopted, released, "rooms of an earlier server");
        }
        Ok(())
    }

    /// Adopts a living room that no server has, as its record says; `false` where it came to nothing.
    pub(super) async fn take_up(self: &Arc<Self>, id: &RoomId, record: &Record) -> Result<bool, StateError> {
        let occupant = record.occupant.clone().map(|(conversation, tenant)| Occupant { conversation, tenant });
        // A run that looks for its conversation's room is to find it whole, or not at all.
        let turn = occupant.as_ref().map(|occupant| self.turnstile(&occupant.conversation));
        let _turn = match &turn {
            Some(turn) => Some(turn.lock().await),
            None => None,
        };
        let adoption = self.adopt(id, Some(record), occupant, record.session.clone(), false).await?;
        self.pool_changed.notify_one();
        Ok(matches!(adoption, Adoption::Done(_)))
    }

    /// Claims a room that no server has, opens its way out again and takes it in. One that is not fit is released.
    pub(super) async fn adopt(
        self: &Arc<Self>,
        id: &RoomId,
        old: Option<&Record>,
        occupant: Option<Occupant>,
        session: Option<String>,
        leased: bool,
    ) -> Result<Adoption, StateError> {
        let _incoming = self.announce(id);
        let taken = |occupant: &Occupant| self.rooms.of_conversation(&occupant.conversation).is_some();
        if self.rooms.contains(id) {
            return Ok(Adoption::Lost);
        }
        let record = match occupant.as_ref().is_some_and(taken) {
            // A run was quicker and has got its conversation a new room.
            true => self.record_for(id, None, None),
            false => self.record_for(id, occupant.as_ref(), session.clone()),
        };
        match self.parts.state.swap(id.as_str(), old, Some(&record)).await? {
            Swap::Changed => return Ok(Adoption::Lost),
            Swap::Taken => {
                if self.claim(id, old).await? {
                    self.release_left_in_background(id.clone(), Why::Orphan);
                }
                return Ok(Adoption::Unfit);
            }
            Swap::Done => {}
        }
        let opened = match record.occupant.is_none() && occupant.is_some() {
            true => Err(std::io::Error::other("its conversation has another")),
            false => self.open_again(id, occupant.as_ref()).await,
        };
        let (dir, listener) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                tracing::warn!(workspace = %id, %error, "room of another server is not fit to be adopted");
                if self.claim(id, Some(&record)).await? {
                    self.release_left_in_background(id.clone(), Why::Orphan);
                }
                return Ok(Adoption::Unfit);
            }
        };
        let state = match occupant {
            Some(occupant) => RoomState::Bound { occupant, leased, session },
            None => RoomState::Pooled,
        };
        let room = Arc::new(Room::new(id.clone(), jiff::Timestamp::now(), Some(dir), Some(listener)));
        self.rooms.insert(room.clone(), state);
        let occupant = room.occupant();
        self.parts.audit.tell(&Event::RoomAdopted { whose: whose(id, occupant.as_ref()) });
        Ok(Adoption::Done(room))
    }

    /// A living room's directory and way out.
    async fn open_again(&self, id: &RoomId, occupant: Option<&Occupant>) -> std::io::Result<(RoomDir, Listener)> {
        let dir = self.parts.sockets.open(id)?;
        agent::health(&dir).await.map_err(std::io::Error::other)?;
        let listener = self.open_listener(id, &dir, occupant)?;
        Ok((dir, listener))
    }
}

/// A record under its room's id; `None` where it names none.
pub(super) fn keyed(record: Record) -> Option<(RoomId, Record)> {
    Some((RoomId::parse(&record.workspace)?, record))
}

/// What became of an adoption.
#[derive(Debug)]
pub(super) enum Adoption {
    /// The room is this server's.
    Done(Arc<Room>),
    /// It is not fit, and is being released.
    Unfit,
    /// Somebody else has it.
    Lost,
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use nagaya_egress::{Egress, RequestRecord, Settings, Trail};

    use super::*;
    use crate::config::RoomLimits;
    use crate::engine::memory::Memory;
    use crate::state::Embedded;
    use crate::telemetry::audit::Audit;
    use crate::telemetry::metrics::Metrics;
    use crate::workspace::clock::Clock;
    use crate::workspace::peers::Peers;
    use crate::workspace::pool::PoolSize;
    use crate::workspace::sockets::SocketBase;
    use crate::workspace::{Parts, Template};

    struct Nobody;

    impl Trail for Nobody {
        fn request(&self, _: &RequestRecord) {}
    }

    async fn workspaces(dir: &Path) -> Arc<Workspaces> {
        let metrics = Arc::new(Metrics::new().expect("metrics"));
        Workspaces::new(Parts {
            engine: Arc::new(Memory::new(None)),
            egress: Egress::new(Settings::default(), None, Arc::new(Nobody)).expect("a proxy"),
            sockets: SocketBase::prepare(dir.join("s"), dir.join("s")).expect("a base"),
            template: Template {
                deployment: "d".into(),
                image: "image".into(),
                limits: RoomLimits { nano_cpus: 1, memory: 1, pids: 1, disk: 1 },
                user: (1000, 1000),
                region: "us-east-1".into(),
            },
            state: Arc::new(Embedded::open(&dir.join("records")).await.expect("opens")),
            bucket: None,
            peers: Peers::alone("d"),
            audit: Arc::new(Audit::open(Path::new("/dev/null"), metrics.clone()).expect("opens")),
            metrics,
            clock: Clock::default(),
            ttl: Duration::MAX,
            grace: Duration::ZERO,
            gc_interval: Duration::MAX,
            pool: PoolSize { min: 0, max: 0 },
            most: 0,
        })
    }

    /// Runs are taken up while the start still looks around: what it sees of a room may be no more than the directory.
    #[tokio::test]
    async fn a_room_that_is_being_made_is_not_taken_for_one_that_was_left() {
        let dir = tempfile::tempdir().expect("a directory");
        let workspaces = workspaces(dir.path()).await;
        let (made, left) = (RoomId::generate("d"), RoomId::generate("d"));
        for id in [&made, &left] {
            drop(workspaces.parts.sockets.create(id).expect("makes"));
        }
        let there = |id: &RoomId| dir.path().join("s").join(id.as_str()).exists();
        let released = async || {
            workspaces.reconcile().await.expect("reconciles");
            workspaces.tasks.close();
            tokio::time::timeout(Duration::from_secs(20), workspaces.tasks.wait()).await.expect("released");
            workspaces.tasks.reopen();
        };
        let incoming = workspaces.announce(&made);
        released().await;
        assert!(there(&made), "its directory is taken away while it is made");
        assert!(!there(&left), "what was left is there");
        // The same for the collector, where nothing is too young for it.
        workspaces.reconciled.send_replace(true);
        let report = workspaces.collect().await;
        assert!(there(&made) && report.reclaimed.is_empty() && report.errors.is_empty(), "{report:?}");
        drop(incoming);
        let report = workspaces.collect().await;
        assert_eq!(report.reclaimed, [(made.clone(), Why::StaleDirectory)], "{report:?}");
        assert!(!there(&made));
        workspaces.parts.state.close().await;
    }
}
