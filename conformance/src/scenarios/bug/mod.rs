//! BUG: the fifteen faults of an earlier system from which the contract was derived.

mod agent_driver;
mod container_gauge;
mod corrupt_record;
mod docker_address;
mod failing_bucket;
mod gc_interval;
mod health_without_bucket;
mod health_without_docker;
mod health_without_redis;
mod image_agent;
mod no_bucket;
mod release;
mod server_in_container;
mod socket_directory;
mod socket_path_compose;
mod socket_path_default;
mod status_filter;
mod tunnel_bytes;

use crate::harness::scenario::Scenario;

/// The scenarios of each file.
pub(super) const FILES: &[&[Scenario]] = &[
    agent_driver::SCENARIOS,
    container_gauge::SCENARIOS,
    corrupt_record::SCENARIOS,
    docker_address::SCENARIOS,
    failing_bucket::SCENARIOS,
    gc_interval::SCENARIOS,
    health_without_bucket::SCENARIOS,
    health_without_docker::SCENARIOS,
    health_without_redis::SCENARIOS,
    image_agent::SCENARIOS,
    no_bucket::SCENARIOS,
    release::SCENARIOS,
    server_in_container::SCENARIOS,
    socket_directory::SCENARIOS,
    socket_path_compose::SCENARIOS,
    socket_path_default::SCENARIOS,
    status_filter::SCENARIOS,
    tunnel_bytes::SCENARIOS,
];
