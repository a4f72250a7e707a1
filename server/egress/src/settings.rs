//! What a proxy is set up with.

use std::net::SocketAddr;
use std::time::Duration;

use crate::address::Networks;
use crate::allow::AllowList;
use crate::credentials::CredentialRules;
use crate::pins::Pins;

/// What a proxy is set up with.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Who may be reached.
    pub allowed: AllowList,
    /// Special networks that may be reached.
    pub networks: Networks,
    /// Names that lead to given addresses.
    pub pins: Pins,
    /// DNS servers that are asked; none means those of the system.
    pub name_servers: Vec<SocketAddr>,
    /// Targets whose tunnels may carry anything, TLS to another name included.
    pub opaque: AllowList,
    /// Which hosts get which credential.
    pub credentials: CredentialRules,
    /// Host that requests in origin form go to; `None` refuses them.
    pub gateway: Option<String>,
    /// Certificates of further authorities to believe, PEM.
    pub extra_ca_pem: Option<Vec<u8>>,
    /// How much, how long.
    pub limits: Limits,
}

/// How much, how long.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Until a connection to the target stands; TLS gets as long again.
    pub connect: Duration,
    /// Without a byte in either direction.
    pub idle: Duration,
    /// The same for a tunnel of which one direction is closed already.
    pub drain: Duration,
    /// From the first byte of a request's head to its last; also of a TLS client's first message in a tunnel.
    pub head: Duration,
    /// Requests and tunnels of one listener at once.
    pub concurrent: usize,
    /// Connections of one listener at once, idle ones included.
    pub connections: usize,
    /// Bytes of a request's body.
    pub body: u64,
    /// Bytes of a body that has to be hashed before it is sent.
    pub signed_body: u64,
    /// Bytes of all bodies that are being hashed, as far as they are in memory.
    pub held_in_memory: usize,
    /// The same, as far as they are in files.
    pub held_on_disk: u64,
    /// Bytes of all buffers of all tunnels; past it they go on with small ones.
    pub buffers: usize,
    /// Idle connections kept for one target.
    pub idle_connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        const MIB: u64 = 1024 * 1024;
        Self {
            connect: Duration::from_secs(10),
            idle: Duration::from_secs(300),
            drain: Duration::from_secs(60),
            head: Duration::from_secs(10),
            concurrent: 128,
            connections: 512,
            // What S3 takes in one request.
            body: 5 * 1024 * MIB,
            // Bedrock takes 20 MB at most; S3 more, but then in parts.
            signed_body: 128 * MIB,
            held_in_memory: 64 * 1024 * 1024,
            held_on_disk: 1024 * MIB,
            buffers: 64 * 1024 * 1024,
            idle_connections: 32,
        }
    }
}

/// Why a proxy cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The further authorities' certificates.
    #[error("the extra certificates: {0}")]
    ExtraCa(String),
    /// TLS.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The gateway.
    #[error("the gateway {0:?} is no host")]
    Gateway(String),
}
