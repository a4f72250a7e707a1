//! The providers of models: which of them this deployment uses, and where the driver finds one of them.

use std::time::Duration;

use nagaya_driver::{Access, Place};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::bedrock;
use crate::messages_api::Endpoint;

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

    /// Where the driver calls a provider's models, at Bedrock those of a region. A provider that is not configured is named all the same, so
    /// that the egress proxy refuses the calls and says why.
    #[must_use]
    pub fn access(&self, provider: Provider, region: Option<&str>) -> Access {
        let region = region.unwrap_or(&self.region);
        let place = match provider {
            Provider::Bedrock => {
                Place::Bedrock { region: region.into(), url: format!("http://{}", bedrock::runtime_host(region)) }
            }
            Provider::Anthropic => {
                let endpoint = self.anthropic.clone().unwrap_or_else(Endpoint::anthropics);
                Place::Messages { url: endpoint.in_plain(), is_anthropics: endpoint.is_anthropics() }
            }
        };
        Access { place, idle: self.idle }
    }

    /// Where a driver that is started by hand calls models: at the first provider. A run brings its own.
    #[must_use]
    pub fn first(&self) -> Access {
        self.access(if self.bedrock { Provider::Bedrock } else { Provider::Anthropic }, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages_api;

    fn providers(bedrock: bool, url: Option<&str>) -> Providers {
        let anthropic = url.map(|url| Endpoint::parse(url).expect(url));
        Providers { bedrock, anthropic, region: "us-east-1".into(), idle: Duration::from_secs(60) }
    }

    #[test]
    fn each_provider_is_found_where_it_is() {
        let both = providers(true, Some("https://gw.example:8443/a"));
        let bedrock = |region: &str| Place::Bedrock {
            region: region.into(),
            url: format!("http://bedrock-runtime.{region}.amazonaws.com"),
        };
        let messages = |url: &str, is_anthropics| Place::Messages { url: url.into(), is_anthropics };
        assert_eq!(both.access(Provider::Bedrock, Some("eu-west-1")).place, bedrock("eu-west-1"));
        assert_eq!(both.access(Provider::Anthropic, None).place, messages("http://gw.example:8443/a", false));
        assert_eq!(both.first().place, bedrock("us-east-1"));
        let only = providers(false, Some(messages_api::ANTHROPIC));
        assert_eq!(only.first().place, messages("http://api.anthropic.com", true));
    }

    #[test]
    fn what_is_not_configured_is_named_with_its_settings() {
        let bedrock = providers(true, None);
        assert_eq!(bedrock.missing(Provider::Bedrock), None);
        assert!(bedrock.missing(Provider::Anthropic).is_some_and(|why| why.contains("ANTHROPIC_API_KEY")));
        let own = Place::Messages { url: "http://api.anthropic.com".into(), is_anthropics: true };
        assert_eq!(bedrock.access(Provider::Anthropic, None).place, own);
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
