//! The configuration document of a tenant or a conversation. Whatever differs between tenants is a field here.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::agent::Agent;
use super::integrations::Integrations;
use super::permissions::Permissions;
use super::problem::{Problem, Problems, check_list};
use super::rules::{AllowRule, Rules};
use crate::conversation::cost::Usd;
use crate::conversation::skills::reference;

/// Rules of one list, at most. With these, the policy of an open listener stays within some KiB.
const MOST_RULES: usize = 200;
/// Size of a workspace directory, in bytes, at least.
const LEAST_DISK: u64 = 1 << 20;

/// A configuration. Absent fields leave everything as the level above has it; present ones can only narrow that. The levels are, from
/// the top: the operator's settings, the tenant, the conversation, the run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = Configuration, example = json!({"egress": {"allow": [{"host": "api.example.com", "methods": ["GET"], "paths": ["/v1"]}]}}))]
pub struct Document {
    /// Models that may be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub models: Option<Models>,
    /// Tools that the agent may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools: Option<Tools>,
    /// Where workspaces may connect to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<EgressRules>,
    /// Ids of the tenant's vaults whose credentials are used, in this order: the first credential that matches a request counts. Without
    /// it, none is used.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 100)]
    pub vaults: Option<Vec<String>>,
    /// Limits of each of the runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// Name of the image of the workspaces, one of the operator's `CONTAINER_IMAGES`, or `default`. A workspace of another image is
    /// replaced before the next run.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[a-z0-9][a-z0-9._-]{0,63}$")]
    pub image: Option<String>,
    /// Size of the workspace directory in bytes, at most. A workspace of another size is replaced before the next run.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1_048_576)]
    pub disk: Option<u64>,
    /// What the agent asks about before it does it, and what it never does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permissions: Option<Permissions>,
    /// Services that the agent may use as tools.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub integrations: Option<Integrations>,
    /// Skills of the tenant that the agent has, each by its name (`pricing`: the latest version) or with a version (`pricing@3`). The levels below
    /// choose among those of the level above; without any, none is used.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 100)]
    pub skills: Option<Vec<String>>,
    /// How the agent works.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<Agent>,
}

/// Models that may be used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = ConfigurationModels)]
pub struct Models {
    /// Ids of the models that conversations may use; all that the level above has if absent. A conversation has a model of its own; its
    /// configuration lists here what its workspace may ask besides.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 100)]
    pub allowed: Option<Vec<String>>,
    /// Id of the model of new conversations that name none; for a run, of the model that it uses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
}

/// Tools that the agent may use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = ConfigurationTools)]
pub struct Tools {
    /// Names of the driver's own tools that it may use, such as `Bash` or `Read`; all that the level above has if absent, and none if
    /// empty. The driver keeps to it; code in the workspace may do whatever the workspace permits.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 100)]
    pub allowed: Option<Vec<String>>,
    /// Tools that the model's provider itself carries out, outside the workspace and its rules, such as `web_search`. None if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 100)]
    pub provider: Option<Vec<String>>,
}

/// Where workspaces may connect to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = ConfigurationEgress)]
pub struct EgressRules {
    /// What may be reached; all that the level above allows if absent. The endpoints of the models need no rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<AllowRule>>, max_items = 200)]
    pub allow: Option<Rules>,
    /// What may not be reached, whatever else allows it: hosts, `*.suffix` or addresses, with an optional `:port`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 200)]
    pub deny: Vec<String>,
    /// Requests per second of one workspace, at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub requests_per_second: Option<u32>,
    /// Bytes per second of one workspace, in both directions together, at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1_024)]
    pub bytes_per_second: Option<u64>,
}

/// Limits of each of the runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = ConfigurationLimits)]
pub struct Limits {
    /// Longest time of one run, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 604_800)]
    pub run_seconds: Option<u64>,
    /// Requests to the model in one run, at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 10_000)]
    pub max_turns: Option<u32>,
    /// Cost of one run in USD: when what the model's answers have reported costs more, the run is stopped. Its cost may exceed this by that of
    /// the answer in progress.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_cost_usd: Option<Usd>,
}

impl Document {
    /// What is wrong with the document by itself, whatever the levels above have.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Problems::default();
        if let Some(models) = &self.models {
            check_list(&mut problems, "models.allowed", models.allowed.as_deref());
            if let (Some(allowed), Some(default)) = (&models.allowed, &models.default) {
                problems.require(allowed.contains(default), "models.default", "must be one of models.allowed");
            }
        }
        if let Some(tools) = &self.tools {
            check_list(&mut problems, "tools.allowed", tools.allowed.as_deref());
            check_list(&mut problems, "tools.provider", tools.provider.as_deref());
            for (at, tool) in tools.allowed.iter().flatten().enumerate() {
                let named = tool.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
                problems.require(named, format!("tools.allowed[{at}]"), "must be letters, digits and '_'");
            }
        }
        if let Some(egress) = &self.egress {
            egress.check(&mut problems);
        }
        check_list(&mut problems, "vaults", self.vaults.as_deref());
        if let Some(limits) = &self.limits {
            let seconds = limits.run_seconds.is_none_or(|seconds| (1..=604_800).contains(&seconds));
            problems.require(seconds, "limits.run_seconds", "must be from 1 to 604800");
            let turns = limits.max_turns.is_none_or(|turns| (1..=10_000).contains(&turns));
            problems.require(turns, "limits.max_turns", "must be from 1 to 10000");
        }
        let disk = self.disk.is_none_or(|disk| disk >= LEAST_DISK);
        problems.require(disk, "disk", format!("must be at least {LEAST_DISK}"));
        if let Some(permissions) = &self.permissions {
            permissions.check(&mut problems);
        }
        if let Some(integrations) = &self.integrations {
            integrations.check(&mut problems);
        }
        if let Some(agent) = &self.agent {
            agent.check(&mut problems);
        }
        check_list(&mut problems, "skills", self.skills.as_deref());
        let mut names = HashSet::new();
        for (at, entry) in self.skills.iter().flatten().enumerate() {
            let place = format!("skills[{at}]");
            match reference(entry) {
                Some((name, _)) => {
                    problems.require(names.insert(name), place, "another version of it is given as well");
                }
                None => problems.add(place, "must be the name of a skill, perhaps with a version, such as pricing@3"),
            }
        }
        problems.0
    }
}

impl EgressRules {
    fn check(&self, problems: &mut Problems) {
        let few = self.allow.as_ref().is_none_or(|rules| rules.len() <= MOST_RULES);
        problems.require(few, "egress.allow", format!("must have at most {MOST_RULES} rules"));
        let few = self.deny.len() <= MOST_RULES;
        problems.require(few, "egress.deny", format!("must have at most {MOST_RULES} entries"));
        for (at, rule) in self.allow.iter().flatten().enumerate().take(MOST_RULES) {
            rule.check(&format!("egress.allow[{at}]"), problems);
        }
        let rate = self.requests_per_second.is_none_or(|rate| (1..=1_000_000).contains(&rate));
        problems.require(rate, "egress.requests_per_second", "must be from 1 to 1000000");
        let rate = self.bytes_per_second.is_none_or(|rate| (1_024..=1 << 40).contains(&rate));
        problems.require(rate, "egress.bytes_per_second", "must be from 1024 to 1099511627776");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: serde_json::Value) -> Result<Document, serde_json::Error> {
        serde_json::from_value(json)
    }

    #[test]
    fn unknown_fields_are_refused_at_every_depth() {
        use serde_json::json;
        for unknown in [
            json!({"color": 1}),
            json!({"models": {"color": 1}}),
            json!({"tools": {"color": 1}}),
            json!({"egress": {"color": 1}}),
            json!({"egress": {"allow": [{"host": "a.example", "color": 1}]}}),
            json!({"limits": {"color": 1}}),
            json!({"permissions": {"color": 1}}),
            json!({"integrations": {"color": 1}}),
            json!({"integrations": {"mcp_servers": {"a": {"url": "https://a.example", "color": 1}}}}),
        ] {
            assert!(read(unknown.clone()).is_err_and(|error| error.to_string().contains("color")), "{unknown}");
        }
        assert_eq!(read(json!({})).expect("a document"), Document::default());
    }

    #[test]
    fn limits_are_exact() {
        use serde_json::{Value, json};
        let texts = |count: usize, of: fn(usize) -> String| (0..count).map(of).collect::<Vec<_>>();
        let names = |count| texts(count, |number| format!("n{number}"));
        let hosts = |count: usize| {
            let hosts: Vec<Value> = (0..count).map(|number| json!({"host": format!("h{number}.example")})).collect();
            json!({"egress": {"allow": hosts}})
        };
        let denied = |count| json!({"egress": {"deny": texts(count, |number| format!("h{number}.example"))}});
        for (fits, exceeds) in [
            (json!({"limits": {"run_seconds": 1}}), json!({"limits": {"run_seconds": 0}})),
            (json!({"limits": {"run_seconds": 604_800}}), json!({"limits": {"run_seconds": 604_801}})),
            (json!({"limits": {"max_turns": 1}}), json!({"limits": {"max_turns": 0}})),
            (json!({"limits": {"max_turns": 10_000}}), json!({"limits": {"max_turns": 10_001}})),
            (json!({"disk": LEAST_DISK}), json!({"disk": LEAST_DISK - 1})),
            (json!({"egress": {"requests_per_second": 1}}), json!({"egress": {"requests_per_second": 0}})),
            (
                json!({"egress": {"requests_per_second": 1_000_000}}),
                json!({"egress": {"requests_per_second": 1_000_001}}),
            ),
            (json!({"egress": {"bytes_per_second": 1_024}}), json!({"egress": {"bytes_per_second": 1_023}})),
            (
                json!({"egress": {"bytes_per_second": 1_u64 << 40}}),
                json!({"egress": {"bytes_per_second": (1_u64 << 40) + 1}}),
            ),
            (hosts(MOST_RULES), hosts(MOST_RULES + 1)),
            (denied(MOST_RULES), denied(MOST_RULES + 1)),
            (json!({"models": {"allowed": names(100)}}), json!({"models": {"allowed": names(101)}})),
            (json!({"tools": {"allowed": names(100)}}), json!({"tools": {"allowed": names(101)}})),
            (json!({"vaults": names(100)}), json!({"vaults": names(101)})),
            (json!({"skills": names(100)}), json!({"skills": names(101)})),
            (json!({"permissions": {"ask": names(100)}}), json!({"permissions": {"ask": names(101)}})),
            (json!({"permissions": {"deny": names(100)}}), json!({"permissions": {"deny": names(101)}})),
            (json!({"vaults": ["x".repeat(1_024)]}), json!({"vaults": ["x".repeat(1_025)]})),
            (json!({"vaults": ["x"]}), json!({"vaults": ["a\0"]})),
            (json!({"skills": ["a", "b@2"]}), json!({"skills": ["a", "a@2"]})),
            (json!({"models": {"allowed": ["a"], "default": "a"}}), json!({"models": {"allowed": [], "default": "a"}})),
        ] {
            assert!(read(fits.clone()).expect("a document").problems().is_empty(), "{fits}");
            assert_eq!(read(exceeds.clone()).expect("a document").problems().len(), 1, "{exceeds}");
        }
    }

    #[test]
    fn every_problem_is_told_with_its_place() {
        let document = read(serde_json::json!({
            "models": {"allowed": ["a", "a"], "default": "b"},
            "tools": {"allowed": ["Bash,Read"]},
            "egress": {"allow": [{"host": "!a.example"}, {"host": "b.example", "methods": [], "paths": []}],
                "requests_per_second": 0, "bytes_per_second": 1},
            "vaults": [""],
            "limits": {"run_seconds": 0, "max_turns": 0},
            "disk": 1_048_575,
            "permissions": {"ask": ["Bash", "Bash"], "deny": ["Bash(git push:*)", "Bash()", "a b"]},
            "integrations": {"mcp_servers": {"a__b": {"url": "https://a.example"}, "c": {"url": "http://a.example"}},
                "mcp_servers_allowed": ["d", "d"]},
        }));
        let problems = document.expect("a document").problems();
        let places: Vec<&str> = problems.iter().map(|problem| problem.place.as_str()).collect();
        assert_eq!(
            places,
            [
                "models.allowed[1]",
                "models.default",
                "tools.allowed[0]",
                "egress.allow[0].host",
                "egress.allow[1].methods",
                "egress.allow[1].paths",
                "egress.requests_per_second",
                "egress.bytes_per_second",
                "vaults[0]",
                "limits.run_seconds",
                "limits.max_turns",
                "disk",
                "permissions.ask[1]",
                "permissions.deny[1]",
                "permissions.deny[2]",
                "integrations.mcp_servers.a__b",
                "integrations.mcp_servers.c.url",
                "integrations.mcp_servers_allowed[1]",
            ]
        );
    }
}
