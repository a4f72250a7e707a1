//! Parts for tests and benchmarks: the real implementations, except for the engine, which the caller chooses.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nagaya_egress::{Egress, RequestRecord, Trail};
use nagaya_telemetry::audit::Audit;
use nagaya_telemetry::metrics::Metrics;

use crate::clock::Clock;
use crate::directory::SocketBase;
use crate::engine::Engine;
use crate::id::RoomId;
use crate::spec::{RoomLimits, Template};
use crate::state::{Embedded, PoolSize};
use crate::uids::UidRange;
use crate::workspaces::{Parts, Settings};

/// An egress trail that discards all records.
#[derive(Debug)]
pub struct NoTrail;

impl Trail for NoTrail {
    fn request(&self, _: &RequestRecord) {}
}

/// The parts of a server whose files all lie in `dir`: sockets in `dir/s`, records in `dir/workspaces.sqlite`. It keeps no warm
/// pool, and nothing is collected unless the caller asks for it.
///
/// # Errors
/// A part cannot be created, for example because `dir` is not writable.
pub async fn parts(
    engine: Arc<dyn Engine>,
    deployment: &str,
    dir: &Path,
) -> Result<Parts, Box<dyn std::error::Error + Send + Sync>> {
    let base = dir.join("s");
    let metrics = Arc::new(Metrics::new()?);
    Ok(Parts {
        engine,
        policies: Arc::new(crate::policies::OperatorsOnly),
        egress: Egress::new(nagaya_egress::Settings::default(), None, Arc::new(NoTrail))?,
        sockets: SocketBase::prepare(base.clone(), base)?,
        template: Template {
            deployment: deployment.into(),
            image: "image".into(),
            images: std::collections::BTreeMap::new(),
            limits: RoomLimits { nano_cpus: 1_000_000_000, memory: 1 << 30, pids: 256, disk: 1 << 29 },
            // The agents in memory are tasks of this process.
            uids: UidRange::shared(rustix::process::geteuid().as_raw()),
            driver_environment: Vec::new(),
        },
        state: Arc::new(Embedded::open(&dir.join("workspaces.sqlite")).await?),
        bucket: None,
        server_id: RoomId::generate(deployment).to_string(),
        audit: Arc::new(Audit::open(Path::new("/dev/null"), metrics.clone())?),
        metrics,
        clock: Clock::default(),
        settings: Settings {
            ttl: Duration::MAX,
            grace: Duration::ZERO,
            gc_interval: Duration::from_secs(1_000_000),
            pool: PoolSize { min: 0, max: 0 },
            max_rooms: 0,
            starts: 4,
            start_queue: 512,
            most_waiting_drivers: 0,
        },
    })
}
