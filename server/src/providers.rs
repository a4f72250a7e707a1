//! The providers of models: which of them this deployment uses, and the environment that leads the driver to one of them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::bedrock;
use crate::messages_api::{self, Endpoint};

/// Who serves a model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Provider {
    /// Amazon Bedrock.
    #[default]
    Bedrock,
    /// The Messages API: Anthropic's own, or that of a gateway (`ANTHROPIC_BASE_URL`).
    Anthropic,
}

impl Provider {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Bedrock, Self::Anthropic];

    /// The word that stands for the provider.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bedrock => "bedrock",
            Self::Anthropic => "anthropic",
        }
    }

    /// The provider that a word stands for.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|provider| provider.as_str() == text)
    }
}

/// Variables that name the driver's models for sub-agents and small tasks.
const OTHER_MODELS: [&str; 3] =
    ["ANTHROPIC_DEFAULT_OPUS_MODEL", "ANTHROPIC_DEFAULT_SONNET_MODEL", "ANTHROPIC_DEFAULT_HAIKU_MODEL"];

/// Variables of a driver's environment; `None` removes what the container has under that name.
pub type Variables = BTreeMap<String, Option<String>>;

/// The providers that this deployment uses.
#[derive(Debug, Clone)]
pub struct Providers {
    /// Whether models may be called at Bedrock.
    pub bedrock: bool,
    /// Endpoint of the Messages API, if models may be called there.
    pub anthropic: Option<Endpoint>,
    /// `AWS_REGION`: region of Bedrock's models that name none.
    pub region: String,
    /// `MODEL_IDLE_TIMEOUT`: how long nothing of a model's answer may arrive.
    pub idle: Duration,
}

impl Providers {
    /// Why models of a provider cannot be called, and which settings change that; `None` if it is configured.
    #[must_use]
    pub fn missing(&self, provider: Provider) -> Option<String> {
        match provider {
            Provider::Bedrock if !self.bedrock => Some(
                "this server does not call models at Bedrock; its operator gives it AWS credentials and AWS_REGION, and names bedrock in \
                 MODEL_PROVIDERS where that is set"
                    .into(),
            ),
            Provider::Anthropic if self.anthropic.is_none() => Some(
                "this server has no credential for the Messages API; its operator sets ANTHROPIC_API_KEY (for a gateway \
                 ANTHROPIC_BASE_URL and ANTHROPIC_API_KEY or ANTHROPIC_AUTH_TOKEN), and names anthropic in MODEL_PROVIDERS where that \
                 is set"
                    .into(),
            ),
            Provider::Bedrock | Provider::Anthropic => None,
        }
    }

    /// Host and port of a provider's endpoint; `region` is that of a model at Bedrock. `None` if the provider is not configured.
    #[must_use]
    pub fn endpoint(&self, provider: Provider, region: Option<&str>) -> Option<(String, u16)> {
        match provider {
            Provider::Bedrock => self.bedrock.then(|| (bedrock::runtime_host(region.unwrap_or(&self.region)), 443)),
            Provider::Anthropic => self.anthropic.as_ref().map(|endpoint| (endpoint.host.clone(), endpoint.port)),
        }
    }

    /// Why a provider's models, at Bedrock those in a region, cannot be called, and what to set; `None` if they can. `allows` says
    /// which hosts and ports workspaces may reach.
    #[must_use]
    pub fn unreachable(
        &self,
        provider: Provider,
        region: Option<&str>,
        allows: impl Fn(&str, u16) -> bool,
    ) -> Option<String> {
        let Some((host, port)) = self.endpoint(provider, region) else { return self.missing(provider) };
        let entry = if port == 443 { host.clone() } else { format!("{host}:{port}") };
        (!allows(&host, port)).then(|| format!("workspaces may not reach {entry}; add it to PROXY_ALLOWED_DOMAINS"))
    }

    /// The environment that leads the driver to a model. It removes what leads to another provider, and holds no secret. One that
    /// is not configured is named all the same, so that the egress proxy refuses the calls and says why.
    #[must_use]
    pub fn environment(&self, provider: Provider, region: Option<&str>, model: &str) -> Variables {
        let mut variables: Variables =
            bedrock::VARIABLES.into_iter().chain(messages_api::VARIABLES).map(|name| (name.to_owned(), None)).collect();
        let set = self.set(provider, region, model);
        variables.extend(set.into_iter().map(|(name, value)| (name.to_owned(), Some(value))));
        variables
    }

    /// The environment of a container, as `NAME=value`: that of its first provider. It is for programs that are started by hand; a
    /// run sets its own.
    #[must_use]
    pub fn of_containers(&self) -> Vec<String> {
        let provider = if self.bedrock { Provider::Bedrock } else { Provider::Anthropic };
        let mut variables = self.set(provider, None, "");
        // There is no model yet whose name could be given to others.
        variables.retain(|(_, value)| !value.is_empty());
        variables.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    fn set(&self, provider: Provider, region: Option<&str>, model: &str) -> Vec<(&'static str, String)> {
        let region = region.unwrap_or(&self.region);
        let mut variables = match (provider, &self.anthropic) {
            (Provider::Bedrock, _) => bedrock::environment(region, self.idle),
            (Provider::Anthropic, Some(endpoint)) => messages_api::environment(endpoint, self.idle),
            (Provider::Anthropic, None) => messages_api::environment(&Endpoint::anthropics(), self.idle),
        };
        // The driver has names of its own for the models of sub-agents and small tasks. The proxy passes on the conversation's alone.
        variables.extend(OTHER_MODELS.map(|name| (name, model.to_owned())));
        variables
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn providers(bedrock: bool, url: Option<&str>) -> Providers {
        let anthropic = url.map(|url| Endpoint::parse(url).expect(url));
        Providers { bedrock, anthropic, region: "us-east-1".into(), idle: Duration::from_secs(60) }
    }

    #[test]
    fn every_variable_of_one_provider_is_removed_for_the_other() {
        for url in [messages_api::ANTHROPIC, "https://gw.example/a"] {
            let both = providers(true, Some(url));
            let mut bedrock = both.environment(Provider::Bedrock, Some("eu-west-1"), "b");
            let anthropic = both.environment(Provider::Anthropic, None, "a");
            assert_eq!(bedrock.remove("AWS_REGION"), Some(Some("eu-west-1".into())));
            assert_eq!(bedrock["ANTHROPIC_DEFAULT_HAIKU_MODEL"].as_deref(), Some("b"));
            assert!(bedrock.keys().eq(anthropic.keys()), "one of them leaves a variable as the container has it");
            assert_eq!((&bedrock["ANTHROPIC_BASE_URL"], &bedrock["ANTHROPIC_AUTH_TOKEN"]), (&None, &None));
            assert_eq!(
                (&anthropic["CLAUDE_CODE_USE_BEDROCK"], &anthropic["ANTHROPIC_BEDROCK_BASE_URL"]),
                (&None, &None)
            );
            assert_eq!(anthropic["ANTHROPIC_BASE_URL"].as_deref(), Some(url.replace("https", "http").as_str()));
        }
    }

    #[test]
    fn a_container_is_made_for_the_first_provider() {
        let has =
            |providers: &Providers, start: &str| providers.of_containers().iter().any(|set| set.starts_with(start));
        assert!(has(&providers(true, Some("https://gw.example")), "CLAUDE_CODE_USE_BEDROCK=1"));
        let only = providers(false, Some("https://gw.example"));
        assert!(has(&only, "ANTHROPIC_BASE_URL=http://gw.example") && !has(&only, "CLAUDE_CODE_USE_BEDROCK"));
        assert!(only.of_containers().iter().all(|set| !set.ends_with('=')), "{:?}", only.of_containers());
    }

    #[test]
    fn what_is_not_configured_is_named_with_its_settings() {
        let bedrock = providers(true, None);
        assert_eq!(bedrock.missing(Provider::Bedrock), None);
        assert!(bedrock.missing(Provider::Anthropic).is_some_and(|why| why.contains("ANTHROPIC_API_KEY")));
        assert!(bedrock.environment(Provider::Anthropic, None, "a")["ANTHROPIC_BASE_URL"].is_some());
        let gateway = providers(false, Some("https://gw.example:8443"));
        assert_eq!(
            gateway.unreachable(Provider::Anthropic, None, |host, port| (host, port) == ("gw.example", 8443)),
            None
        );
        let told = gateway.unreachable(Provider::Anthropic, None, |_, _| false);
        assert!(told.is_some_and(|why| why.contains("gw.example:8443; add it to PROXY_ALLOWED_DOMAINS")));
        let anthropic = providers(false, Some(messages_api::ANTHROPIC));
        assert_eq!(anthropic.missing(Provider::Anthropic), None);
        assert!(anthropic.missing(Provider::Bedrock).is_some_and(|why| why.contains("AWS_REGION")));
    }
}
