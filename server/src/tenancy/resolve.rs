//! The one place where operator, tenant, conversation and run meet.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::document::{AllowRule, Document, EgressRules};
use super::problem::{Problem, Problems};

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ConfigurationLevel)]
pub enum Level {
    /// The deployment's settings.
    Operator,
    /// The tenant's configuration.
    Tenant,
    /// The conversation's configuration.
    Conversation,
    /// The request that started the run.
    Run,
}

impl Level {
    /// The level's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Tenant => "tenant",
            Self::Conversation => "conversation",
            Self::Run => "run",
        }
    }
}

/// A value, and the level that decided it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Decided<T> {
    /// The value.
    pub value: T,
    /// The lowest level that has changed it.
    pub from: Level,
}

impl<T> Decided<T> {
    fn operators(value: T) -> Self {
        Self { value, from: Level::Operator }
    }
}

/// What the operator's settings allow every tenant.
#[derive(Debug, Clone, Default)]
pub struct Operator {
    /// Ids of the models.
    pub models: Vec<String>,
    /// Tools of the model's provider that tenants may permit.
    pub provider_tools: Vec<String>,
    /// Longest time of one run, in seconds.
    pub run_seconds: u64,
}

/// Rules of one level about where workspaces may connect to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = EffectiveEgress)]
pub struct EgressLayer {
    /// The level that has these rules.
    pub from: Level,
    /// What may be reached; `None` for all that the levels above allow.
    pub allow: Option<Vec<AllowRule>>,
    /// What may not be reached.
    pub deny: Vec<String>,
}

/// What applies, each value with where it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = EffectiveConfiguration)]
pub struct Effective {
    /// Ids of the models that may be used.
    pub models: Decided<Vec<String>>,
    /// Id of the model of new conversations that name none.
    pub default_model: Decided<Option<String>>,
    /// Names of the driver's tools that it may use; `None` for all.
    pub tools: Decided<Option<Vec<String>>>,
    /// Tools of the model's provider that may be used.
    pub provider_tools: Decided<Vec<String>>,
    /// A request must be allowed by every one of these, and by the operator's allow-list.
    pub egress: Vec<EgressLayer>,
    /// Requests per second of one workspace.
    pub requests_per_second: Decided<Option<u32>>,
    /// Bytes per second of one workspace.
    pub bytes_per_second: Decided<Option<u64>>,
    /// Ids of the vaults whose credentials are used, in this order.
    pub vaults: Decided<Vec<String>>,
    /// Longest time of one run, in seconds.
    pub run_seconds: Decided<u64>,
    /// Requests to the model in one run.
    pub max_turns: Decided<Option<u32>>,
}

/// The documents of the levels below the operator, from the top.
pub type Documents<'a> = [(Level, &'a Document)];

/// What applies where these levels meet. Each level can only narrow what the levels above it allow; whatever goes beyond that has no
/// effect.
#[must_use]
pub fn resolve(operator: &Operator, tenant_model: Option<&str>, documents: &Documents<'_>) -> Effective {
    let default_from = if tenant_model.is_some() { Level::Tenant } else { Level::Operator };
    let mut effective = Effective {
        models: Decided::operators(operator.models.clone()),
        default_model: Decided { value: tenant_model.map(ToOwned::to_owned), from: default_from },
        tools: Decided::operators(None),
        provider_tools: Decided::operators(Vec::new()),
        egress: Vec::new(),
        requests_per_second: Decided::operators(None),
        bytes_per_second: Decided::operators(None),
        vaults: Decided::operators(Vec::new()),
        run_seconds: Decided::operators(operator.run_seconds),
        max_turns: Decided::operators(None),
    };
    // A tool of the provider must be permitted by the operator and by the tenant, and by the levels below only if they say anything.
    let mut provider_tools = operator.provider_tools.clone();
    for (level, document) in documents {
        effective.narrow(*level, document, &mut provider_tools);
    }
    if effective.default_model.value.as_ref().is_some_and(|model| !effective.models.value.contains(model)) {
        effective.default_model = Decided { value: None, from: effective.models.from };
    }
    effective
}

impl Effective {
    fn narrow(&mut self, level: Level, document: &Document, provider_tools: &mut Vec<String>) {
        if let Some(models) = &document.models {
            if let Some(allowed) = &models.allowed {
                self.models.value.retain(|model| allowed.contains(model));
                self.models.from = level;
            }
            if let Some(default) = &models.default {
                self.default_model = Decided { value: Some(default.clone()), from: level };
            }
        }
        if let Some(tools) = &document.tools {
            if let Some(allowed) = &tools.allowed {
                let narrowed = match self.tools.value.take() {
                    Some(above) => above.into_iter().filter(|tool| allowed.contains(tool)).collect(),
                    None => allowed.clone(),
                };
                self.tools = Decided { value: Some(narrowed), from: level };
            }
            if let Some(provider) = &tools.provider {
                provider_tools.retain(|tool| provider.contains(tool));
                self.provider_tools = Decided { value: provider_tools.clone(), from: level };
            }
        }
        if let Some(EgressRules { allow, deny, requests_per_second, bytes_per_second }) = &document.egress {
            if allow.is_some() || !deny.is_empty() {
                self.egress.push(EgressLayer { from: level, allow: allow.clone(), deny: deny.clone() });
            }
            lower(&mut self.requests_per_second, *requests_per_second, level);
            lower(&mut self.bytes_per_second, *bytes_per_second, level);
        }
        if let Some(vaults) = &document.vaults {
            let permitted = |vault: &&String| self.vaults.from == Level::Operator || self.vaults.value.contains(vault);
            let value = vaults.iter().filter(permitted).cloned().collect();
            self.vaults = Decided { value, from: level };
        }
        if let Some(limits) = &document.limits {
            if let Some(seconds) = limits.run_seconds.filter(|seconds| *seconds < self.run_seconds.value) {
                self.run_seconds = Decided { value: seconds, from: level };
            }
            lower(&mut self.max_turns, limits.max_turns, level);
        }
    }
}

fn lower<T: Ord + Copy>(decided: &mut Decided<Option<T>>, limit: Option<T>, level: Level) {
    if let Some(limit) = limit
        && decided.value.is_none_or(|above| limit < above)
    {
        *decided = Decided { value: Some(limit), from: level };
    }
}

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

    fn document(json: serde_json::Value) -> Document {
        serde_json::from_value(json).expect("a document")
    }

    fn operator() -> Operator {
        Operator {
            models: ["a", "b", "c"].map(Into::into).into(),
            provider_tools: vec!["web_search".into()],
            run_seconds: 600,
        }
    }

    #[test]
    fn each_level_narrows_the_one_above_and_is_named() {
        let tenant = document(json!({
            "models": {"allowed": ["a", "b"], "default": "a"},
            "tools": {"allowed": ["Bash", "Read"], "provider": ["web_search"]},
            "egress": {"allow": [{"host": "*.example.com"}], "requests_per_second": 10},
            "vaults": ["v1", "v2"],
            "limits": {"run_seconds": 60},
        }));
        let conversation = document(json!({
            "models": {"allowed": ["b", "c"]},
            "tools": {"allowed": ["Read", "Write"]},
            "egress": {"deny": ["www.example.com"], "requests_per_second": 20},
            "vaults": ["v2", "v3"],
            "limits": {"run_seconds": 600, "max_turns": 5},
        }));
        let levels = [(Level::Tenant, &tenant), (Level::Conversation, &conversation)];
        let effective = resolve(&operator(), Some("c"), &levels);
        assert_eq!(effective.models, Decided { value: vec!["b".into()], from: Level::Conversation });
        assert_eq!(effective.default_model.value, None, "the default is not among the models any more");
        assert_eq!(effective.tools.value, Some(vec!["Read".into()]), "never more than the level above");
        assert_eq!(effective.provider_tools.value, ["web_search"]);
        assert_eq!(effective.requests_per_second, Decided { value: Some(10), from: Level::Tenant });
        assert_eq!(effective.vaults.value, ["v2"]);
        assert_eq!(effective.run_seconds, Decided { value: 60, from: Level::Tenant });
        assert_eq!(effective.max_turns, Decided { value: Some(5), from: Level::Conversation });
        assert_eq!(
            effective.egress.iter().map(|layer| layer.from).collect::<Vec<_>>(),
            [Level::Tenant, Level::Conversation]
        );
    }

    #[test]
    fn without_documents_the_operators_settings_apply() {
        let effective = resolve(&operator(), None, &[]);
        assert_eq!(effective.models, Decided { value: operator().models, from: Level::Operator });
        assert!(effective.provider_tools.value.is_empty() && effective.vaults.value.is_empty());
        assert_eq!((effective.tools.value, effective.egress.len()), (None, 0));
    }

    #[test]
    fn whatever_goes_beyond_the_level_above_is_told_with_its_place() {
        let above = document(json!({"models": {"allowed": ["a"]}, "tools": {"allowed": ["Bash"]}, "vaults": ["v1"],
            "limits": {"run_seconds": 60}}));
        let above = resolve(&operator(), None, &[(Level::Tenant, &above)]);
        let below = document(json!({
            "models": {"allowed": ["a", "b"], "default": "c"},
            "tools": {"allowed": ["Bash", "Read"], "provider": ["web_search", "web_fetch"]},
            "egress": {"allow": [{"host": "a.example"}, {"host": "evil.example"}, {"host": "?"}]},
            "vaults": ["v1", "v2"],
            "limits": {"run_seconds": 61},
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
                "limits.run_seconds",
            ]
        );
    }
}
