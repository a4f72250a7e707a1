//! Starts one workspace for `nagaya doctor`, exactly as the server would, and removes it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nagaya_egress::{Egress, RequestRecord, Trail};
use nagaya_telemetry::audit::Audit;
use nagaya_telemetry::metrics::Metrics;
use nagaya_workspace::clock::Clock;
use nagaya_workspace::directory::SocketBase;
use nagaya_workspace::engine::Docker;
use nagaya_workspace::rooms::Occupant;
use nagaya_workspace::state::{Embedded, PoolSize};
use nagaya_workspace::{OnShutdown, OperatorsOnly, Parts, Settings, Template, Variant, Workspaces};

use crate::config::Config;

/// How long the removal may take.
const REMOVAL: Duration = Duration::from_secs(30);

/// A trail that keeps nothing.
#[derive(Debug)]
pub(crate) struct NoTrail;

impl Trail for NoTrail {
    fn request(&self, _: &RequestRecord) {}
}

/// Starts a workspace and removes it. Returns how long it took until it answered, else why it did not, for people.
pub(crate) async fn start_one(config: &Config) -> Result<Duration, String> {
    // A deployment of its own, whose records are in memory: a server that runs meanwhile does not notice.
    let deployment = format!("doctor-{:016x}", rand::random::<u64>());
    let workspaces = Workspaces::new(parts(config, deployment).await.map_err(|error| error.to_string())?);
    let occupant = Occupant { conversation: "doctor".into(), tenant: "doctor".into() };
    let began = Instant::now();
    let started = workspaces.take_or_build(&occupant, &Variant::default(), began).await;
    let took = began.elapsed();
    let result = started.map(drop).map_err(|error| error.to_string());
    workspaces.skip_grace_periods();
    workspaces.shut_down(OnShutdown::Destroy, REMOVAL).await;
    workspaces.close().await;
    result.map(|()| took)
}

async fn parts(config: &Config, deployment: String) -> Result<Parts, Box<dyn std::error::Error>> {
    let rooms = &config.rooms;
    let metrics = Arc::new(Metrics::new()?);
    Ok(Parts {
        policies: Arc::new(OperatorsOnly),
        engine: Arc::new(Docker::new(rooms.engine.clone())),
        egress: Egress::new(nagaya_egress::Settings::default(), None, Arc::new(NoTrail))?,
        sockets: SocketBase::prepare(rooms.socket_base.clone(), rooms.socket_host_base.clone())?,
        template: Template {
            deployment: deployment.clone(),
            image: rooms.image.clone(),
            images: rooms.images.clone(),
            limits: rooms.limits,
            uids: rooms.uids,
            driver_environment: config.driver_environment(),
        },
        state: Arc::new(Embedded::in_memory().await?),
        bucket: None,
        server_id: deployment,
        audit: Arc::new(Audit::open(Path::new("/dev/null"), metrics.clone())?),
        metrics,
        clock: Clock::default(),
        settings: Settings { pool: PoolSize { min: 0, max: 0 }, max_rooms: 0, ..rooms.settings.clone() },
    })
}
