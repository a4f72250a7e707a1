//! Garbage collection with many rooms: the cost of a cycle that finds one of them idle.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nagaya_server::cluster::Cluster;
use nagaya_server::cluster::peers::Peers;
use nagaya_workspace::clock::Clock;
use nagaya_workspace::engine::Engine;
use nagaya_workspace::engine::memory::Memory;
use nagaya_workspace::id::RoomId;
use nagaya_workspace::state::Record;
use nagaya_workspace::{ReleaseReason, Variant, Workspaces};
use rustix::time::{ClockId, clock_gettime};

use crate::deployment::{TTL, base, occupant, parts};
use crate::report::{Goal, Report, Table};
use crate::stage::{PATIENCE, Stage};
use crate::stats::{Sample, rounds};

const FEW: (usize, &str) = (1_000, "1,000 rooms");
const MANY: (usize, &str) = (10_000, "10,000 rooms");
/// Difference in idle time between rooms, so that one of them becomes idle in each round.
const APART: Duration = Duration::from_secs(60);
/// User of every room.
const UID: u32 = 50_000;
/// Time limit for creating the rooms.
const LONG: Duration = Duration::from_secs(300);

pub(crate) fn measure(stage: &mut Stage, count: usize, report: &mut Report) {
    let stage = &*stage;
    let populations = [FEW, MANY].map(|(rooms, name)| (name, Population::new(stage, rooms, count)));
    let series = rounds(count, populations.into(), |_, population| {
        let took = population.collect(stage)?;
        Ok(Sample { value: took.as_secs_f64() * 1e3, p99: None })
    });
    report.add(Table {
        id: "collection",
        title: "Garbage collection: processor time of a cycle that finds one room idle",
        unit: "ms",
        more_is_better: false,
        note: "Of the whole process. Engine: in memory; every room has a container, a directory and a record in the state file."
            .into(),
        series,
        goals: vec![Goal::at_most(100.0).of(MANY.1), Goal::ratio(FEW.1, 12.0).of(MANY.1)],
    });
}

/// Rooms of conversations, of which one becomes idle each time the clock is advanced.
struct Population {
    cluster: Arc<Cluster>,
    workspaces: Arc<Workspaces>,
    clock: Clock,
    rooms: usize,
    _dir: tempfile::TempDir,
}

impl Population {
    fn new(stage: &Stage, rooms: usize, idle: usize) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("nagaya-bench-").tempdir()?;
        stage.within(LONG, "creating the rooms", Self::build(dir, rooms, idle))?
    }

    async fn build(dir: tempfile::TempDir, rooms: usize, idle: usize) -> Result<Self> {
        let engine = Arc::new(Memory::new(None));
        let parts = parts(engine.clone(), "collection", dir.path()).await?;
        let (template, clock) = (parts.template.clone(), parts.clock.clone());
        let cluster = Cluster::new(Workspaces::new(parts), Peers::alone("collection"));
        let workspaces = cluster.workspaces().clone();
        cluster.start();
        crate::stage::until(|| workspaces.is_reconciled()).await;
        for n in 0..rooms {
            let id = RoomId::generate("collection");
            put(&workspaces, &id, dir.path()).await?;
            engine.run(template.room(&id, UID, base(dir.path()).join(id.as_str()), &Variant::default())).await?;
            if n < idle {
                clock.advance(APART);
            }
        }
        // Now the first room is idle, and the second will be at the next advance.
        clock.advance(TTL.checked_sub(APART * u32::try_from(idle)?).context("too many rounds")? + APART / 2);
        Ok(Self { cluster, workspaces, clock, rooms, _dir: dir })
    }

    /// Processor time of one cycle.
    fn collect(&self, stage: &Stage) -> Result<Duration> {
        let known = self.workspaces.rooms().all().len();
        ensure!((self.rooms / 2..=self.rooms).contains(&known), "{known} rooms of {}", self.rooms);
        let before = cpu()?;
        let report = stage.within(PATIENCE, "a cycle", self.cluster.collect())?;
        let took = cpu()?.saturating_sub(before);
        ensure!(report.errors.is_empty(), "{}", report.errors.join("; "));
        ensure!(matches!(report.reclaimed[..], [(_, ReleaseReason::Idle)]), "reclaimed: {:?}", report.reclaimed);
        self.clock.advance(APART);
        Ok(took)
    }
}

/// Adds an idle room with directory and record, but without open descriptors: ten thousand would exceed the limit of the process.
async fn put(workspaces: &Workspaces, id: &RoomId, dir: &Path) -> Result<()> {
    std::fs::create_dir(base(dir).join(id.as_str()))?;
    workspaces.insert_bound(id, occupant(id.as_str()));
    let record = Record {
        workspace: id.to_string(),
        occupant: Some((id.to_string(), "bench".into())),
        session: None,
        retired: false,
        owner: workspaces.server_id().into(),
    };
    workspaces.state().put_owned(&record).await?;
    Ok(())
}

/// Processor time used by this process.
fn cpu() -> Result<Duration> {
    Ok(Duration::try_from(clock_gettime(ClockId::ProcessCPUTime))?)
}
