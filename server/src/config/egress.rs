//! Settings of the egress proxy: which hosts workspaces may reach, and with which credentials.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use nagaya_egress::{CredentialRules, Settings};

use super::reader::Reader;
use crate::bedrock;

const ANTHROPIC_API: &str = "api.anthropic.com";

/// Reads the settings of the egress proxy, and the default region of model calls (`AWS_REGION`).
pub(super) fn read(r: &mut Reader) -> (Settings, String) {
    let region = r.get("AWS_REGION", "us-east-1", "the name of an AWS region, for example us-east-1", |text| {
        bedrock::is_region(text).then(|| text.to_owned())
    });
    let anthropic_key = r.secret("ANTHROPIC_API_KEY", |text| {
        let is_valid = text.bytes().all(|b| b.is_ascii_graphic());
        if is_valid {
            Ok(Some(text.to_owned()).filter(|key| !key.is_empty()))
        } else {
            Err("accepted: one line of visible ASCII".into())
        }
    });
    let (runtime, control) = (bedrock::runtime_host(&region), bedrock::control_host(&region));
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
    let settings = Settings {
        allowed,
        networks,
        pins,
        name_servers,
        opaque,
        credentials,
        gateway: Some(runtime),
        extra_ca_pem,
        ..Settings::default()
    };
    (settings, region)
}

/// Parses addresses of name servers, separated by commas, each with an optional port (default 53).
fn name_servers(text: &str) -> Result<Vec<SocketAddr>, String> {
    let servers = text.split(',').map(str::trim).filter(|server| !server.is_empty()).map(|server| {
        let address = server.parse::<IpAddr>().map(|address| SocketAddr::new(address, 53));
        let accepted = "accepted: addresses, each with an optional port: 10.0.0.53, 10.0.0.53:5353, [fd00::53]:53";
        address.or_else(|_| server.parse()).map_err(|_| format!("{server:?}: {accepted}"))
    });
    servers.collect()
}
