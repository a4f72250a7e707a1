//! Builds the parts of a server from its configuration.

use std::sync::Arc;
use std::time::Duration;

use nagaya_egress::{AllowList, Egress};
use nagaya_telemetry::audit::Audit;
use nagaya_telemetry::metrics::Metrics;
use nagaya_workspace::clock::Clock;
use nagaya_workspace::directory::SocketBase;
use nagaya_workspace::engine::Docker;
use nagaya_workspace::objects::Bucket;
use nagaya_workspace::state::directory::StateDir;
use nagaya_workspace::state::{Embedded, Redis, State};
use nagaya_workspace::{Parts, Template, Workspaces};

use super::StartError;
use super::trail::EgressTrail;
use crate::api::Reach;
use crate::aws;
use crate::cluster::Cluster;
use crate::cluster::peers::Peers;
use crate::config::Config;
use crate::conversation::store::Store;
use crate::tenancy::Tenancy;

/// How much longer than twice its refresh interval a record lives that no server refreshes.
const RECORD_SLACK: Duration = Duration::from_secs(3600);

/// The deployment's workspaces, and the tenants' configurations, on which their policies depend. Nothing runs yet.
pub(super) async fn cluster(
    config: &Config,
    state: &StateDir,
    deployment: String,
    metrics: Arc<Metrics>,
    audit: Arc<Audit>,
    store: Store,
) -> Result<(Arc<Cluster>, Arc<Tenancy>), StartError> {
    let rooms = &config.rooms;
    let sockets = SocketBase::prepare(rooms.socket_base.clone(), rooms.socket_host_base.clone())
        .map_err(|error| StartError::Sockets(rooms.socket_base.clone(), error))?;
    let (shared, peers) = shared_state(config, state, &deployment).await?;
    let region = &config.providers.region;
    let aws = aws::credentials(region).await;
    let bucket = config.storage.bucket.clone();
    let for_bucket = config.storage.bucket_keys(aws.clone());
    let bucket = bucket.map(|bucket| Bucket::open(bucket, region, for_bucket)).transpose()?;
    let trail = EgressTrail { metrics: metrics.clone(), audit: audit.clone() };
    let egress = Egress::new(config.egress.clone(), aws, Arc::new(trail))?;
    let tenancy = Tenancy::new(store, config.tenancy.clone(), egress.clone());
    let workspaces = Workspaces::new(Parts {
        policies: tenancy.clone(),
        engine: Arc::new(Docker::new(rooms.engine.clone())),
        egress,
        sockets,
        template: Template {
            deployment,
            image: rooms.image.clone(),
            images: rooms.images.clone(),
            limits: rooms.limits,
            uids: rooms.uids,
            driver_environment: config.driver_environment(),
        },
        state: shared,
        bucket,
        server_id: peers.id().to_owned(),
        metrics,
        audit,
        clock: Clock::default(),
        settings: rooms.settings.clone(),
    });
    let cluster = Cluster::new(workspaces, peers);
    tenancy.serve(&cluster);
    Ok((cluster, tenancy))
}

/// The records of workspaces, and the other servers: in Redis among the servers that share it, else in a file of this server
/// alone.
async fn shared_state(
    config: &Config,
    state: &StateDir,
    deployment: &str,
) -> Result<(Arc<dyn State>, Peers), StartError> {
    let Some(address) = config.storage.redis.clone() else {
        let path = state.file("workspaces.sqlite");
        let embedded = Embedded::open(&path).await.map_err(|error| StartError::Records(path, error))?;
        return Ok((Arc::new(embedded), Peers::alone(deployment)));
    };
    let rooms = &config.rooms;
    let redis = Redis::new(address, deployment, rooms.settings.ttl.max(rooms.settings.gc_interval) * 2 + RECORD_SLACK)?;
    // Redis may be unreachable or refuse commands: known rooms continue, everything else waits until it works.
    match redis.ping().await {
        Ok(()) => tracing::info!("workspace records, locks and the pool's size are in Redis"),
        Err(error) => {
            tracing::error!(%error, "starting without shared state; conversations get no new rooms until it answers");
        }
    }
    let peers = Peers::among(&rooms.socket_base, deployment)
        .map_err(|error| StartError::Sockets(rooms.socket_base.clone(), error))?;
    Ok((Arc::new(redis), peers))
}

/// What the allow-list of the egress proxy allows.
#[derive(Debug)]
pub(super) struct ByAllowList(pub(super) AllowList);

impl Reach for ByAllowList {
    fn allows(&self, host: &str, port: u16) -> bool {
        self.0.allows_host(host, port)
    }
}
