//! Services that the agent may use as tools: servers of the Model Context Protocol (MCP).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::address::https_host;
use super::problem::{LONGEST_TEXT, MOST_ENTRIES, Problems, check_list};

/// Services that the agent may use as tools.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = ConfigurationIntegrations)]
pub struct Integrations {
    /// Servers of the Model Context Protocol by their names, of 1 to 64 letters, digits, '-' and single '_'. Only a tenant's configuration
    /// has any. The name `client` is that of the tools that callers themselves carry out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mcp_servers: Option<BTreeMap<String, McpServer>>,
    /// Names of those servers that are used; all that the level above has if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 100)]
    pub mcp_servers_allowed: Option<Vec<String>>,
}

/// A server of the Model Context Protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ConfigurationMcpServer)]
pub struct McpServer {
    /// Its `https` address, whose host workspaces may reach. Credentials for it belong into a vault.
    pub url: String,
}

impl Integrations {
    pub(super) fn check(&self, problems: &mut Problems) {
        if let Some(servers) = &self.mcp_servers {
            let few = servers.len() <= MOST_ENTRIES;
            problems.require(few, "integrations.mcp_servers", format!("must have at most {MOST_ENTRIES} entries"));
            for (name, server) in servers.iter().take(MOST_ENTRIES) {
                let place = format!("integrations.mcp_servers.{name}");
                let accepted = "must have a name of 1 to 64 letters, digits, '-' and single '_', which begins with a letter or digit, and is not client";
                problems.require(is_name(name), &*place, accepted);
                let accepted =
                    "must be an https address of at most 1024 visible characters, without user, password and fragment";
                let plain = server.url.len() <= LONGEST_TEXT && server.url.bytes().all(|byte| byte.is_ascii_graphic());
                problems.require(plain && https_host(&server.url).is_some(), format!("{place}.url"), accepted);
            }
        }
        check_list(problems, "integrations.mcp_servers_allowed", self.mcp_servers_allowed.as_deref());
    }
}

/// The name under which the driver has the tools that callers themselves carry out.
const CALLERS_TOOLS: &str = "client";

/// Two underscores separate the names of server and tool.
fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    (1..=64).contains(&text.len())
        && text.bytes().all(plain)
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && !text.contains("__")
        && !text.ends_with('_')
        && text != CALLERS_TOOLS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unambiguous() {
        for name in ["a", "my-server", "my_server", "A1"] {
            assert!(is_name(name), "{name}");
        }
        for junk in ["", "a__b", "a_", "_a", "-a", "a b", "a.b", "client", &"a".repeat(65)] {
            assert!(!is_name(junk), "{junk}");
        }
    }
}
