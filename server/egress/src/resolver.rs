//! Resolves a host to the addresses that may be connected to. There is one look-up: the addresses checked are those connected to.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{ResolverBuilder, TokioResolver};

use crate::address::Networks;
use crate::host::Host;
use crate::pins::Pins;

/// How long a look-up may take, including all attempts.
const DEADLINE: Duration = Duration::from_secs(5);

/// Why a host cannot be connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ResolveError {
    /// The host has no address, or no name server knows it.
    Unknown,
    /// No name server answered in time.
    Timeout,
    /// The host resolves to an address that may not be reached.
    Forbidden(&'static str),
}

/// Resolves hosts under the address policy.
pub(crate) struct Resolver {
    networks: Networks,
    pins: Pins,
    /// `None` if this system has no DNS configuration; then only pinned hosts and addresses can be connected to.
    dns: Option<TokioResolver>,
}

impl Resolver {
    pub(crate) fn new(networks: Networks, pins: Pins, name_servers: &[SocketAddr]) -> Self {
        let dns = match name_servers {
            [] => TokioResolver::builder_tokio(),
            given => Ok(TokioResolver::builder_with_config(asking(given), TokioRuntimeProvider::default())),
        };
        let dns = dns.and_then(ResolverBuilder::build);
        if let Err(error) = &dns {
            tracing::warn!(%error, "no DNS: only pinned names can be reached");
        }
        Self { networks, pins, dns: dns.ok() }
    }

    /// The addresses to connect to for `host`. Every address is checked, and there is no second look-up, so a name server that
    /// answers differently a moment later (DNS rebinding) changes nothing.
    pub(crate) async fn resolve(&self, host: &Host, port: u16) -> Result<Vec<SocketAddr>, ResolveError> {
        let pinned = self.pins.get(host, port);
        if !pinned.is_empty() {
            return Ok(pinned);
        }
        let addresses = match host {
            Host::Address(address) => vec![SocketAddr::new(*address, port)],
            Host::Name(name) => self.look_up(name, port).await?,
        };
        // One forbidden address refuses the whole name: an honest name does not mix both kinds.
        match addresses.iter().find_map(|address| self.networks.objection(address.ip())) {
            Some(why) => Err(ResolveError::Forbidden(why)),
            None if addresses.is_empty() => Err(ResolveError::Unknown),
            None => Ok(addresses),
        }
    }

    async fn look_up(&self, name: &str, port: u16) -> Result<Vec<SocketAddr>, ResolveError> {
        let dns = self.dns.as_ref().ok_or(ResolveError::Unknown)?;
        // The final dot makes the name absolute, so no search domain is tried.
        match tokio::time::timeout(DEADLINE, dns.lookup_ip(format!("{name}."))).await {
            Err(_) => Err(ResolveError::Timeout),
            Ok(Err(error)) => {
                tracing::debug!(name, %error, "not resolved");
                Err(ResolveError::Unknown)
            }
            Ok(Ok(found)) => Ok(found.iter().map(|address| SocketAddr::new(address, port)).collect()),
        }
    }
}

/// Queries these servers by UDP, and by TCP if an answer does not fit.
fn asking(servers: &[SocketAddr]) -> ResolverConfig {
    let server = |server: &SocketAddr| {
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
            connection.port = server.port();
            connection
        });
        NameServerConfig::new(server.ip(), true, connections.into())
    };
    ResolverConfig::from_parts(None, Vec::new(), servers.iter().map(server).collect())
}
