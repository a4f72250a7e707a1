//! What a proxy is set up with.

use std::net::SocketAddr;
use std::time::Duration;

use crate::address::Networks;
use crate::allow::AllowList;
use crate::credentials::CredentialRules;
use crate::pins::Pins;

/// How many connections beyond a listener's limit are answered at the same time; further ones are closed without an answer.
pub(crate) const REFUSED_AT_ONCE: usize = 4;

/// What a proxy is set up with.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Hosts and ports that clients may reach; all others are denied.
    pub allowed: AllowList,
    /// Networks that may be reached although their addresses are private, reserved or otherwise special.
    pub networks: Networks,
    /// Names that resolve to given addresses, without DNS.
    pub pins: Pins,
    /// DNS servers; empty for those of the system.
    pub name_servers: Vec<SocketAddr>,
    /// Targets whose tunnels are not inspected: they may carry anything, TLS for another host included.
    pub opaque: AllowList,
    /// Rules that say which hosts get which credential.
    pub credentials: CredentialRules,
    /// Host that requests in origin form (`GET /path`) go to; `None` refuses them.
    pub gateway: Option<String>,
    /// Certificates of further authorities to trust, in PEM.
    pub extra_ca_pem: Option<Vec<u8>>,
    /// Limits in time and size.
    pub limits: Limits,
}

/// Limits in time and size.
///
/// Each shared resource has a common part, of which one listener gets at most a quarter and the listeners of one tenant together at
/// most half, and a reserve for each listener, which others cannot use. The total is at most the common part plus the reserve
/// times the number of listeners.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Time to establish a connection to the target; TLS gets as long again. Default: 10 s.
    pub connect: Duration,
    /// How long a request or tunnel may be without a byte in either direction. Default: 300 s.
    pub idle: Duration,
    /// The same for a tunnel of which one direction is closed already. Default: 60 s.
    pub drain: Duration,
    /// Time to the first byte on a new connection. Default: 10 s.
    pub silent: Duration,
    /// Idle time between two requests on a connection. Default: 75 s.
    pub keep_alive: Duration,
    /// Time from the first byte of a request's head to its last; also of each ClientHello in a tunnel. Default: 10 s.
    pub head: Duration,
    /// Minimum rate at which a client must send a request's body, in bytes per second. Only time in which the proxy waits for the
    /// client counts. Default: 1024.
    pub upload_rate: u64,
    /// The time of waiting for the client over which that rate is measured. Default: 30 s.
    pub upload_window: Duration,
    /// Concurrent requests and tunnels of one listener. Default: 128.
    pub concurrent: usize,
    /// Open connections of one listener, including idle ones, as far as its descriptors suffice. Default: 512.
    pub connections: usize,
    /// Refusals per second that one listener gets without delay, each with its own record. Default: 20.
    pub denials: u32,
    /// Burst of refusals beyond that rate. Default: 100.
    pub denials_burst: u32,
    /// Maximum size of a request's body, in bytes. Default: 5 GiB, the maximum of one S3 request.
    pub body: u64,
    /// Maximum size of a body that has to be hashed before it is sent, in bytes. Default: 128 MiB. Bedrock accepts at most 20 MB;
    /// larger S3 objects can be uploaded in parts.
    pub signed_body: u64,
    /// Common part, in bytes, of all bodies that are being hashed, as far as they are in memory. Default: 64 MiB.
    pub held_in_memory: usize,
    /// Reserve of each listener for the same. Default: 1 MiB.
    pub reserved_in_memory: usize,
    /// Common part, in bytes, of all bodies that are being hashed, as far as they are in files. Default: 1 GiB.
    pub held_on_disk: u64,
    /// Reserve of each listener for the same. Default: 32 MiB, so that a Bedrock call always fits.
    pub reserved_on_disk: u64,
    /// Common part, in bytes, of the buffers of all tunnels; beyond it tunnels use small buffers. Default: 64 MiB.
    pub buffers: usize,
    /// Reserve of each listener for the same. Default: 512 KiB, which is two buffers.
    pub reserved_buffers: usize,
    /// Common part of the descriptors of all listeners: connections of clients, connections to targets, files. Default: 4096;
    /// never more than a quarter of the process's soft limit.
    pub descriptors: usize,
    /// Reserve of each listener for the same. Default: 16.
    pub reserved_descriptors: usize,
    /// Idle connections kept for one target. Default: 32.
    pub idle_connections: usize,
}

impl Limits {
    /// How many descriptors a proxy with this number of listeners may have open: the common part, and for each listener its
    /// reserve, its socket and directory, and the connections that are being refused.
    #[must_use]
    pub fn descriptors_of(&self, listeners: usize) -> usize {
        self.descriptors.saturating_add(listeners.saturating_mul(self.reserved_descriptors + REFUSED_AT_ONCE + 3))
    }
}

impl Default for Limits {
    fn default() -> Self {
        const MIB: u64 = 1024 * 1024;
        Self {
            connect: Duration::from_secs(10),
            idle: Duration::from_secs(300),
            drain: Duration::from_secs(60),
            silent: Duration::from_secs(10),
            keep_alive: Duration::from_secs(75),
            head: Duration::from_secs(10),
            upload_rate: 1024,
            upload_window: Duration::from_secs(30),
            concurrent: 128,
            connections: 512,
            denials: 20,
            denials_burst: 100,
            body: 5 * 1024 * MIB,
            signed_body: 128 * MIB,
            held_in_memory: 64 * 1024 * 1024,
            reserved_in_memory: 1024 * 1024,
            held_on_disk: 1024 * MIB,
            reserved_on_disk: 32 * MIB,
            buffers: 64 * 1024 * 1024,
            reserved_buffers: 512 * 1024,
            descriptors: 4096,
            reserved_descriptors: 16,
            idle_connections: 32,
        }
    }
}

/// Why a proxy cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The certificates of the further authorities cannot be read.
    #[error("the extra certificates: {0}")]
    ExtraCa(String),
    /// TLS cannot be set up.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The gateway is no host name.
    #[error("the gateway {0:?} is not a host name")]
    Gateway(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The documented limits.
    #[test]
    fn the_limits_are_those_that_are_documented() {
        let limits = Limits::default();
        let seconds = [
            limits.connect,
            limits.idle,
            limits.drain,
            limits.silent,
            limits.keep_alive,
            limits.head,
            limits.upload_window,
        ];
        assert_eq!(seconds.map(|time| time.as_millis()), [10_000, 300_000, 60_000, 10_000, 75_000, 10_000, 30_000]);
        assert_eq!((limits.upload_rate, limits.denials, limits.denials_burst), (1024, 20, 100));
        assert_eq!((limits.concurrent, limits.connections, limits.idle_connections), (128, 512, 32));
        assert_eq!((limits.descriptors, limits.reserved_descriptors), (4096, 16));
        let mib = |bytes: u64| (bytes >> 20, bytes & 0xf_ffff);
        assert_eq!(mib(limits.body), (5 * 1024, 0));
        assert_eq!(mib(limits.signed_body), (128, 0));
        assert_eq!(mib(limits.held_in_memory as u64), (64, 0));
        assert_eq!(mib(limits.reserved_in_memory as u64), (1, 0));
        assert_eq!(mib(limits.held_on_disk), (1024, 0));
        assert_eq!(mib(limits.reserved_on_disk), (32, 0));
        assert_eq!(mib(limits.buffers as u64), (64, 0));
        assert_eq!(limits.reserved_buffers, 512 * 1024);
        assert_eq!((limits.descriptors_of(0), limits.descriptors_of(10)), (4096, 4096 + 10 * (16 + 4 + 3)));
    }
}
