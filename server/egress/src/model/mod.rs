//! Model requests: which models may be asked, and which tools their provider may execute.

mod body;
mod json;

use std::collections::BTreeSet;

pub(crate) use body::{Found, Reader};

use crate::allow::HostPattern;
use crate::answer::Refusal;
use crate::credentials::{Api, Operations};
use crate::host::Host;
use crate::policy::{PolicyError, cut};

/// What a listener may ask of models.
#[derive(Debug, Clone, Default)]
pub struct ModelPolicy {
    models: BTreeSet<Box<str>>,
    server_tools: BTreeSet<Box<str>>,
    endpoints: Vec<(HostPattern, Operations)>,
}

impl ModelPolicy {
    /// Allows these models, named as the provider's wire names them: Bedrock's model ids and ARNs, the Messages API's model names.
    #[must_use]
    pub fn new(models: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let models = models.into_iter().map(|model| model.into().into_boxed_str()).collect();
        Self { models, ..Self::default() }
    }

    /// Allows tools and sources that the provider executes or fetches: `web_search`, `web_fetch`, `code_execution`, `mcp_servers`,
    /// `url_source` (images and documents by URL), `file_source` (by a file's id), `s3_location`, `system_tool` (Converse), or
    /// the name of another one. A name without a date allows every version of the tool.
    #[must_use]
    pub fn with_server_tools(mut self, tools: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.server_tools.extend(tools.into_iter().map(|tool| tool.into().into_boxed_str()));
        self
    }

    /// Holds requests to a host against these operations also where no credential has a list, for example with a client's own key;
    /// tunnels to it are refused.
    ///
    /// # Errors
    /// `host` is no host pattern, or `operations` is any.
    pub fn with_endpoint(mut self, host: &str, operations: Operations) -> Result<Self, PolicyError> {
        let accepted = "accepted: a host or *.suffix, without a port";
        let pattern = HostPattern::parse(host)
            .ok_or_else(|| PolicyError::new("endpoints.host", format!("{:?}: {accepted}", cut(host))))?;
        if operations.are_any() {
            return Err(PolicyError::new("endpoints.operations", "an endpoint needs a list of operations"));
        }
        self.endpoints.push((pattern, operations));
        Ok(self)
    }

    pub(crate) fn endpoint(&self, host: &Host) -> Option<&Operations> {
        self.endpoints.iter().find(|(pattern, _)| pattern.matches(host)).map(|(_, operations)| operations)
    }

    /// Whether this model may be asked.
    pub(crate) fn check(&self, model: &str) -> Result<(), Refusal> {
        if self.models.contains(model) {
            return Ok(());
        }
        Err(Refusal::denied("model_not_allowed").about(if model.is_empty() { "no model" } else { model }))
    }

    /// Holds what a body says against the policy.
    pub(crate) fn check_body(&self, found: &Found, api: Api) -> Result<(), Refusal> {
        if api == Api::Messages && !found.has_model {
            return self.check("");
        }
        found.models.iter().try_for_each(|model| self.check(model))?;
        found.tools.iter().try_for_each(|tool| self.check_tool(tool))
    }

    fn check_tool(&self, tool: &str) -> Result<(), Refusal> {
        let listed = |name: &str| self.server_tools.contains(name);
        let base = body::undated(tool);
        let implied = match base {
            "mcp_toolset" => listed("mcp_servers"),
            "container" | "container_upload" => listed("code_execution"),
            _ => false,
        };
        if implied || listed(tool) || listed(base) {
            return Ok(());
        }
        Err(Refusal::denied("server_tool_not_allowed").about(tool))
    }
}
