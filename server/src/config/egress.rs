//! The one way out: who may be reached, and with whose credentials.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use nagaya_egress::{AllowList, CredentialRules, Networks, Pins};

use super::reader::Reader;

/// Settings of the egress proxy.
#[derive(Debug, Clone)]
pub struct EgressSettings {
    /// `PROXY_ALLOWED_DOMAINS`
    pub allowed: AllowList,
    /// `PROXY_ALLOWED_NETWORKS`
    pub networks: Networks,
    /// `PROXY_RESOLVE`
    pub pins: Pins,
    /// `PROXY_NAME_SERVERS`
    pub name_servers: Vec<SocketAddr>,
    /// `PROXY_OPAQUE_TUNNELS`
    pub opaque: AllowList,
    /// `PROXY_CREDENTIALS`
    pub credentials: CredentialRules,
    /// `PROXY_EXTRA_CA_FILE`, read.
    pub extra_ca_pem: Option<Vec<u8>>,
    /// `AWS_REGION`
    pub region: String,
}

/// The host that serves a region's Bedrock models.
#[must_use]
pub fn bedrock_runtime_host(region: &str) -> String {
    format!("bedrock-runtime.{region}.amazonaws.com")
}

/// A region's name: lower-case words and digits joined by '-'; it becomes part of a host name.
#[must_use]
pub fn is_region(text: &str) -> bool {
    (1..=40).contains(&text.len())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Addresses, each with a port if it is not DNS's own.
fn name_servers(text: &str) -> Result<Vec<SocketAddr>, String> {
    let servers = text.split(',').map(str::trim).filter(|server| !server.is_empty()).map(|server| {
        let address = server.parse::<IpAddr>().map(|address| SocketAddr::new(address, 53));
        let accepted = "accepted: addresses, each with an optional port: 10.0.0.53, 10.0.0.53:5353, [fd00::53]:53";
        address.or_else(|_| server.parse()).map_err(|_| format!("{server:?}: {accepted}"))
    });
    servers.collect()
}

const ANTHROPIC_API: &str = "api.anthropic.com";

impl EgressSettings {
    pub(super) fn read(r: &mut Reader) -> Self {
        let region = r.get("AWS_REGION", "us-east-1", "a region's name, as us-east-1", |text| {
            is_region(text).then(|| text.to_owned())
        });
        let anthropic_key = r.secret("ANTHROPIC_API_KEY", |text| {
            let fit = text.bytes().all(|b| b.is_ascii_graphic());
            if fit {
                Ok(Some(text.to_owned()).filter(|key| !key.is_empty()))
            } else {
                Err("accepted: one line of visible ASCII".into())
            }
        });
        let runtime = bedrock_runtime_host(&region);
        let control = format!("bedrock.{region}.amazonaws.com");
        let mut endpoints = format!("{runtime},{control}");
        if anthropic_key.is_some() {
            endpoints = format!("{endpoints},{ANTHROPIC_API}");
        }
        let signing = format!("{runtime}=sigv4:bedrock:{region},{control}=sigv4:bedrock:{region}");
        let allowed = r.parse("PROXY_ALLOWED_DOMAINS", &endpoints, str::parse);
        let networks = r.parse("PROXY_ALLOWED_NETWORKS", "", str::parse);
        let pins = r.parse("PROXY_RESOLVE", "", str::parse);
        let name_servers = r.parse("PROXY_NAME_SERVERS", "", name_servers);
        let opaque = r.parse("PROXY_OPAQUE_TUNNELS", "", str::parse);
        let mut credentials: CredentialRules = r.reference("PROXY_CREDENTIALS", &signing, str::parse);
        if let Some(key) = anthropic_key {
            credentials = credentials.with_header(ANTHROPIC_API, "x-api-key", &key);
        }
        let extra_ca_pem = r.parse("PROXY_EXTRA_CA_FILE", "", |text| match text {
            "" => Ok(None),
            path => std::fs::read(PathBuf::from(path)).map(Some),
        });
        Self { allowed, networks, pins, name_servers, opaque, credentials, extra_ca_pem, region }
    }
}
