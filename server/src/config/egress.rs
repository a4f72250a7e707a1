//! Settings of the egress proxy: which hosts workspaces may reach, with which credentials, and where models are called.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nagaya_egress::{AllowList, CredentialRules, Operations, Settings};

use super::reader::Reader;
use crate::bedrock;
use crate::messages_api::{self, Endpoint};
use crate::providers::{Provider, Providers};

/// Where the AWS credential chain finds credentials without asking anybody, beside the files of a profile.
const AWS: [&str; 8] = [
    "AWS_REGION",
    "AWS_ACCESS_KEY_ID",
    "AWS_PROFILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_CONFIG_FILE",
];

/// Reads the settings of the egress proxy, and the providers of models; `idle` is `MODEL_IDLE_TIMEOUT`.
pub(super) fn read(r: &mut Reader, home: Option<&str>, idle: Duration) -> (Settings, Providers) {
    let region = r.get("AWS_REGION", "us-east-1", "the name of an AWS region, for example us-east-1", |text| {
        bedrock::is_region(text).then(|| text.to_owned())
    });
    let (runtime, control) = (bedrock::runtime_host(&region), bedrock::control_host(&region));
    let messages = Messages::read(r);
    let signing = format!("{runtime}=sigv4:bedrock:{region},{control}=sigv4:bedrock:{region}");
    let uses_aws = r.is_any_set(&AWS) || has_aws_profile(home);
    let default = match (messages.is_set, uses_aws) {
        (true, false) => "anthropic",
        (true, true) => "bedrock,anthropic",
        (false, _) => "bedrock",
    };
    let used = r.get("MODEL_PROVIDERS", default, "bedrock, anthropic, or both, separated by commas", providers);
    let bedrock = used.contains(&Provider::Bedrock);
    let rules = r.text("PROXY_CREDENTIALS");
    let anthropic = used.contains(&Provider::Anthropic).then(|| messages.endpoint.clone());
    if let Some(endpoint) =
        anthropic.as_ref().filter(|_| messages.header.is_none() && !has_rule(&rules, &messages.endpoint))
    {
        r.error(format!(
            "MODEL_PROVIDERS={}: {endpoint} needs a credential: set ANTHROPIC_API_KEY, ANTHROPIC_AUTH_TOKEN, or a rule for {} in \
             PROXY_CREDENTIALS",
            used.iter().map(|provider| provider.as_str()).collect::<Vec<_>>().join(","),
            endpoint.host
        ));
    }
    let mut endpoints = if bedrock { vec![runtime.clone(), control] } else { Vec::new() };
    endpoints.extend(anthropic.as_ref().map(Endpoint::authority));
    let allowed = r.parse("PROXY_ALLOWED_DOMAINS", &endpoints.join(","), str::parse);
    let networks = r.parse("PROXY_ALLOWED_NETWORKS", "", str::parse);
    let pins = r.parse("PROXY_RESOLVE", "", str::parse);
    let name_servers = r.parse("PROXY_NAME_SERVERS", "", name_servers);
    let opaque = r.parse("PROXY_OPAQUE_TUNNELS", "", str::parse);
    let mut credentials: CredentialRules =
        r.reference("PROXY_CREDENTIALS", if bedrock { &signing } else { "" }, str::parse);
    if let Some((name, secret)) = messages.header.filter(|_| anthropic.is_some()) {
        let operations =
            Operations::messages_below(messages.endpoint.path()).unwrap_or_else(|_| Operations::messages());
        credentials = credentials.with_header_for(&messages.endpoint.host, name, &secret, operations);
    }
    let extra_ca_pem = r.parse("PROXY_EXTRA_CA_FILE", "", |text| match text {
        "" => Ok(None),
        path => std::fs::read(PathBuf::from(path)).map(Some),
    });
    let gateway = match &anthropic {
        _ if bedrock => Some(runtime),
        // Requests in origin form go to the port of HTTPS.
        Some(endpoint) => Some(endpoint.host.clone()).filter(|_| endpoint.port == 443),
        None => None,
    };
    let settings = Settings {
        allowed,
        networks,
        pins,
        name_servers,
        opaque,
        credentials,
        gateway,
        extra_ca_pem,
        ..Settings::default()
    };
    (settings, Providers { bedrock, anthropic, region, idle })
}

/// The Messages API as it is configured.
struct Messages {
    endpoint: Endpoint,
    /// Name and value of the header with the credential.
    header: Option<(&'static str, String)>,
    /// Whether any of its settings is set.
    is_set: bool,
}

impl Messages {
    fn read(r: &mut Reader) -> Self {
        let is_set = r.is_any_set(&["ANTHROPIC_BASE_URL"]);
        // A base URL with a password in it is invalid, and is not shown.
        let endpoint = r.reference("ANTHROPIC_BASE_URL", messages_api::ANTHROPIC, endpoint);
        let key = r.secret("ANTHROPIC_API_KEY", visible);
        let token = r.secret("ANTHROPIC_AUTH_TOKEN", visible);
        if key.is_some() && token.is_some() {
            r.error(
                "ANTHROPIC_AUTH_TOKEN: ANTHROPIC_API_KEY is set as well; set one of them: the token is sent as \
                     `Authorization: Bearer`, the key as `x-api-key`",
            );
        }
        let header = key
            .map(|key| ("x-api-key", key))
            .or_else(|| token.map(|token| ("authorization", format!("Bearer {token}"))));
        Self { endpoint, is_set: is_set || header.is_some(), header }
    }
}

/// Parses a base URL whose host is also one for the allow-list.
fn endpoint(text: &str) -> Result<Endpoint, String> {
    let endpoint = Endpoint::parse(text)?;
    match format!("{}:{}", endpoint.host, endpoint.port).parse::<AllowList>() {
        Ok(_) if !endpoint.host.contains('*') => Ok(endpoint),
        _ => Err(format!("{:?} is no host; accepted: the name or address of one", endpoint.host)),
    }
}

/// A secret of one line.
fn visible(text: &str) -> Result<Option<String>, String> {
    match text.bytes().all(|b| b.is_ascii_graphic()) {
        true => Ok(Some(text.to_owned()).filter(|secret| !secret.is_empty())),
        false => Err("accepted: one line of visible ASCII".into()),
    }
}

fn providers(text: &str) -> Option<BTreeSet<Provider>> {
    let named = text.split(',').map(str::trim).filter(|name| !name.is_empty());
    named.map(Provider::from_text).collect::<Option<BTreeSet<_>>>().filter(|named| !named.is_empty())
}

/// Whether there is a profile of AWS.
fn has_aws_profile(home: Option<&str>) -> bool {
    home.is_some_and(|home| {
        ["credentials", "config"].iter().any(|file| Path::new(home).join(".aws").join(file).exists())
    })
}

/// Whether one of the rules in `PROXY_CREDENTIALS` is for an endpoint. What is wrong in a rule is said where they are parsed.
fn has_rule(rules: &str, endpoint: &Endpoint) -> bool {
    let items = rules.split(|c: char| c == ',' || c.is_whitespace());
    let mut hosts =
        items.filter_map(|item| item.split_once('=')).filter_map(|(host, _)| host.parse::<AllowList>().ok());
    hosts.any(|host| host.allows_host(&endpoint.host, 443))
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
