//! What of a document goes beyond the level above it.

use nagaya_workspace::DEFAULT_IMAGE;

use super::document::Document;
use super::integrations::Integrations;
use super::problem::{Problem, Problems};
use super::resolve::{Effective, Level, Operator};

/// Where a document goes beyond `above`, which is what applies one level higher. `may_reach` says whether the levels above allow
/// anything that a pattern of hosts matches.
pub fn excesses(
    operator: &Operator,
    above: &Effective,
    document: &Document,
    may_reach: impl Fn(&str) -> Result<bool, String>,
) -> Vec<Problem> {
    let mut problems = Problems::default();
    if let Some(models) = &document.models {
        let named =
            models.allowed.iter().flatten().enumerate().map(|(at, model)| (format!("models.allowed[{at}]"), model));
        let default = models.default.iter().map(|model| ("models.default".to_owned(), model));
        for (place, model) in named.chain(default) {
            let known = above.models.value.contains(model);
            problems.require(known, place, format!("there is no active model {model:?} that may be used here"));
        }
    }
    if let Some(tools) = &document.tools {
        for (at, tool) in tools.allowed.iter().flatten().enumerate() {
            let permitted = above.tools.value.as_ref().is_none_or(|above| above.contains(tool));
            problems.require(permitted, format!("tools.allowed[{at}]"), "the tenant's configuration does not have it");
        }
        for (at, tool) in tools.provider.iter().flatten().enumerate() {
            let permitted = operator.provider_tools.contains(tool)
                && (above.provider_tools.from == Level::Operator || above.provider_tools.value.contains(tool));
            let why = "is not permitted by the level above; the operator permits such tools with MODEL_PROVIDER_TOOLS";
            problems.require(permitted, format!("tools.provider[{at}]"), why);
        }
    }
    if let Some(egress) = &document.egress {
        for (at, rule) in egress.allow.iter().flatten().enumerate() {
            let place = format!("egress.allow[{at}].host");
            match may_reach(&rule.host) {
                Ok(true) => {}
                Ok(false) => {
                    problems.add(place, "can never match, because the level above allows no such host and port");
                }
                Err(why) => problems.add(place, why),
            }
        }
    }
    if above.vaults.from != Level::Operator {
        for (at, vault) in document.vaults.iter().flatten().enumerate() {
            let permitted = above.vaults.value.contains(vault);
            problems.require(permitted, format!("vaults[{at}]"), "the tenant's configuration does not list it");
        }
    }
    if let Some(image) = &document.image {
        let offered = image == DEFAULT_IMAGE || operator.images.contains(image);
        let others = operator.images.iter().map(|name| format!(", {name}")).collect::<String>();
        problems.require(offered, "image", format!("the operator offers {DEFAULT_IMAGE}{others} (CONTAINER_IMAGES)"));
    }
    if let Some(disk) = document.disk {
        let most = above.disk.value;
        problems.require(disk <= most, "disk", format!("must be at most {most}, the size that the level above has"));
    }
    if document.permissions.as_ref().is_some_and(|permissions| permissions.questions == Some(true)) {
        let above = &above.permissions.questions;
        let permitted = above.from == Level::Operator || above.value;
        problems.require(permitted, "permissions.questions", "is not permitted by the level above");
    }
    if let Some(Integrations { mcp_servers, mcp_servers_allowed }) = &document.integrations {
        for (at, name) in mcp_servers_allowed.iter().flatten().enumerate() {
            let known = match mcp_servers {
                Some(own) => own.contains_key(name),
                None => above.mcp_servers.value.contains_key(name),
            };
            let why = "is no server of the tenant's configuration that may be used here";
            problems.require(known, format!("integrations.mcp_servers_allowed[{at}]"), why);
        }
    }
    for (at, entry) in document.skills.iter().flatten().enumerate() {
        let why = "the level above does not list it";
        problems.require(above.permits_skill(entry), format!("skills[{at}]"), why);
    }
    if let Some(agent) = &document.agent {
        agent.exceed(&above.agent, &above.workspace_models.value, &mut problems);
    }
    if let (Some(cost), Some(most)) =
        (document.limits.as_ref().and_then(|limits| limits.max_cost_usd), above.max_cost_usd.value)
    {
        let why = format!("must be at most {most}, the limit of the level above");
        problems.require(cost <= most, "limits.max_cost_usd", why);
    }
    if let Some(seconds) = document.limits.as_ref().and_then(|limits| limits.run_seconds) {
        let most = above.run_seconds.value;
        let within = seconds <= most;
        problems.require(within, "limits.run_seconds", format!("must be at most {most}, the limit of the level above"));
    }
    problems.0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::tenancy::resolve::tests::{document, operator};
    use crate::tenancy::resolve::{Base, resolve};

    #[test]
    fn whatever_goes_beyond_the_level_above_is_told_with_its_place() {
        let above = document(json!({"models": {"allowed": ["a"]}, "tools": {"allowed": ["Bash"]}, "vaults": ["v1"],
            "limits": {"run_seconds": 60}, "disk": 2_097_152, "permissions": {"questions": false},
            "integrations": {"mcp_servers": {"a": {"url": "https://a.example/"}}}}));
        let above = resolve(&operator(), Base::default(), &[(Level::Tenant, &above)]);
        let below = document(json!({
            "models": {"allowed": ["a", "b"], "default": "c"},
            "tools": {"allowed": ["Bash", "Read"], "provider": ["web_search", "web_fetch"]},
            "egress": {"allow": [{"host": "a.example"}, {"host": "evil.example"}, {"host": "?"}]},
            "vaults": ["v1", "v2"],
            "limits": {"run_seconds": 61},
            "image": "other",
            "disk": 2_097_153,
            "permissions": {"questions": true},
            "integrations": {"mcp_servers_allowed": ["a", "b"]},
        }));
        let may_reach = |host: &str| if host == "?" { Err("no host".to_owned()) } else { Ok(host == "a.example") };
        let problems = excesses(&operator(), &above, &below, may_reach);
        let places: Vec<&str> = problems.iter().map(|problem| problem.place.as_str()).collect();
        assert_eq!(
            places,
            [
                "models.allowed[1]",
                "models.default",
                "tools.allowed[1]",
                "tools.provider[1]",
                "egress.allow[1].host",
                "egress.allow[2].host",
                "vaults[1]",
                "image",
                "disk",
                "permissions.questions",
                "integrations.mcp_servers_allowed[1]",
                "limits.run_seconds",
            ]
        );
    }
}
