//! The policy of a conversation's workspace, made of what applies to it. Changes reach open workspaces.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::BoxFuture;
use nagaya_egress::{Explanation, LayerSpec, ModelPolicy, Operations, Policy, PolicySpec, Question, Rates, RuleSpec};
use nagaya_workspace::rooms::Occupant;
use nagaya_workspace::{DEFAULT_IMAGE, Policies, Variant, VariantUnknown};

use super::document::{Document, EgressRules};
use super::documents::Levels;
use super::problem::Problem;
use super::resolve::{Effective, EgressLayer, Level};
use super::vaults::live::OfVault;
use super::{Tenancy, TenancyError};
use crate::bedrock;
use crate::cluster::policies::Changed;
use crate::conversation::store::{Conversation, Model, StoreError, Tenant};
use crate::providers::Provider;

/// How often a server looks whether another one has changed something that it was not told of.
const LOOK: Duration = Duration::from_millis(500);

/// The rules of one level. Endpoints of models are reached whatever the level says: models have rules of their own.
fn layer(of: &EgressLayer, model_hosts: &BTreeSet<String>) -> LayerSpec {
    let allow = of.allow.iter().flatten().map(|rule| RuleSpec {
        host: rule.host.clone(),
        methods: rule.methods.clone().unwrap_or_default(),
        paths: rule.paths.clone().unwrap_or_default(),
    });
    let deny = of.deny.iter().map(|host| RuleSpec::host(format!("!{host}")));
    let models = model_hosts.iter().filter(|_| of.allow.is_some()).map(RuleSpec::host);
    LayerSpec {
        name: of.from.name().to_owned(),
        rules: allow.chain(deny).chain(models).collect(),
        allows_rest: of.allow.is_none(),
        rates: Rates::default(),
    }
}

/// What is wrong with the rules of a document, as the proxy reads them.
pub(super) fn problems(document: &Document) -> Vec<Problem> {
    let Some(EgressRules { allow, deny, .. }) = &document.egress else { return Vec::new() };
    let of = |allow, deny| {
        let of = EgressLayer { from: Level::Tenant, allow, deny };
        let spec = PolicySpec { layers: vec![layer(&of, &BTreeSet::new())], ..PolicySpec::default() };
        Policy::new(spec).err()
    };
    let problem = |list: &str, error: nagaya_egress::PolicyError| {
        let place = error.place.replacen("layers[0].rules", list, 1);
        // What is denied are hosts alone.
        let place = if list == "egress.deny" { place.trim_end_matches(".host").to_owned() } else { place };
        Problem { place, why: error.message }
    };
    let allowed = of(Some(allow.clone().unwrap_or_else(|| Vec::new().into())), Vec::new())
        .map(|error| problem("egress.allow", error));
    let denied = of(None, deny.clone()).map(|error| problem("egress.deny", error));
    allowed.into_iter().chain(denied).collect()
}

impl Tenancy {
    /// Endpoints of models, as rules name them, each with what may be asked there.
    fn endpoints(&self, models: &[&Model]) -> Result<BTreeMap<String, Operations>, TenancyError> {
        let mut endpoints = BTreeMap::new();
        let Some(providers) = &self.settings.providers else { return Ok(endpoints) };
        for model in models {
            let region = model.model_region.as_deref().unwrap_or(&providers.region);
            match (model.provider, &providers.anthropic) {
                (Provider::Bedrock, _) => {
                    for host in [bedrock::runtime_host(region), bedrock::control_host(region)] {
                        endpoints.insert(host, Operations::bedrock());
                    }
                }
                (Provider::Anthropic, Some(endpoint)) => {
                    endpoints.insert(endpoint.authority(), Operations::messages_below(endpoint.path())?);
                }
                (Provider::Anthropic, None) => {}
            }
        }
        Ok(endpoints)
    }

    /// The policy for what applies, with the credentials of its vaults.
    fn build(
        &self,
        tenant: &str,
        models: &[Model],
        effective: &Effective,
        credentials: &[OfVault],
    ) -> Result<Policy, TenancyError> {
        let may_ask = &effective.workspace_models.value;
        let models: Vec<&Model> = models.iter().filter(|model| may_ask.contains(&model.model_id)).collect();
        let endpoints = self.endpoints(&models)?;
        let hosts: BTreeSet<String> = endpoints.keys().cloned().collect();
        let mut layers: Vec<LayerSpec> = effective.egress.iter().map(|of| layer(of, &hosts)).collect();
        let rates = Rates {
            requests_per_second: effective.requests_per_second.value,
            bytes_per_second: effective.bytes_per_second.value,
        };
        if rates != Rates::default() {
            layers.push(LayerSpec { name: "rates".into(), allows_rest: true, rates, ..LayerSpec::default() });
        }
        let ids = models.iter().map(|model| model.provider_model_id.clone());
        let mut policy = ModelPolicy::new(ids).with_server_tools(effective.provider_tools.value.clone());
        for (authority, operations) in endpoints {
            let host = authority.rsplit_once(':').map_or(authority.as_str(), |(host, _)| host);
            policy = policy.with_endpoint(host, operations)?;
        }
        let vaults = effective.vaults.value.iter();
        let ordered = vaults.flat_map(|vault| credentials.iter().filter(move |of| of.vault == *vault));
        let credentials = ordered.map(|of| of.credential.clone()).collect();
        let name = tenant.to_owned();
        Ok(Policy::new(PolicySpec { name, layers, credentials, models: Some(policy) })?)
    }

    /// The policies of the workspaces of these conversations, in their order. What they have in common is read once, and those of a tenant
    /// to which the same applies share one.
    async fn policies(&self, occupants: &[Occupant]) -> Result<Vec<Result<Arc<Policy>, TenancyError>>, TenancyError> {
        let levels = self.levels_of_all(occupants).await?;
        let mut built: HashMap<&str, Vec<(Effective, Arc<Policy>)>> = HashMap::new();
        let mut policies = Vec::with_capacity(occupants.len());
        for Occupant { tenant, conversation } in occupants {
            let levels = match levels.get(tenant) {
                Some(Ok(levels)) => levels,
                Some(Err(unreadable)) => {
                    policies.push(Err(TenancyError::Unreadable(unreadable.clone())));
                    continue;
                }
                None => {
                    policies.push(Err(StoreError::NotFound("tenant").into()));
                    continue;
                }
            };
            let built = built.entry(tenant).or_default();
            policies.push(self.policy_among(tenant, conversation, levels, built).await);
        }
        Ok(policies)
    }

    /// The policy of a conversation's workspace: one of those that are built already, or another one.
    async fn policy_among(
        &self,
        tenant: &str,
        conversation: &str,
        levels: &Levels,
        built: &mut Vec<(Effective, Arc<Policy>)>,
    ) -> Result<Arc<Policy>, TenancyError> {
        let effective = levels.of_conversation(conversation, None)?;
        if let Some((_, policy)) = built.iter().find(|(of, _)| *of == effective) {
            return Ok(policy.clone());
        }
        let vaults: Vec<&String> = effective.vaults.value.iter().collect();
        let credentials = self.credentials_of(tenant, &vaults).await?;
        let policy = Arc::new(self.build(tenant, &levels.common.models, &effective, &credentials)?);
        built.push((effective, policy.clone()));
        Ok(policy)
    }

    /// The policy of a conversation's workspace, or of the tenant where there is no conversation.
    async fn policy(&self, tenant: &Tenant, conversation: Option<&str>) -> Result<Policy, TenancyError> {
        let levels = self.levels(tenant, conversation.as_slice()).await?;
        let effective = match conversation {
            Some(id) => levels.of_conversation(id, None)?,
            None => levels.of_tenant(),
        };
        let vaults: Vec<&String> = effective.vaults.value.iter().collect();
        let credentials = self.credentials_of(&tenant.tenant_id, &vaults).await?;
        self.build(&tenant.tenant_id, &levels.common.models, &effective, &credentials)
    }

    /// The policy under which the server itself asks addresses that a tenant has given: what the tenant's workspaces may reach, and no
    /// credentials.
    pub(super) async fn policy_without_credentials(&self, tenant: &str) -> Result<Arc<Policy>, TenancyError> {
        let tenant = self.store.tenant(tenant).await?;
        let effective = self.levels(&tenant, &[]).await?.of_tenant();
        let layers = effective.egress.iter().map(|of| layer(of, &BTreeSet::new())).collect();
        let name = format!("server for {}", tenant.tenant_id);
        Ok(Arc::new(Policy::new(PolicySpec { name, layers, ..PolicySpec::default() })?))
    }

    /// Whether the levels above allow anything that a pattern of hosts matches.
    pub(super) fn may_reach(&self, above: &Effective, host: &str) -> Result<bool, String> {
        let layers = above.egress.iter().map(|of| layer(of, &BTreeSet::new())).collect();
        let policy = Policy::new(PolicySpec { layers, ..PolicySpec::default() });
        let reached = policy.and_then(|policy| self.egress.may_reach(&policy, host));
        reached.map_err(|error| error.message)
    }

    /// What would happen to a request from a workspace.
    ///
    /// # Errors
    /// The address or the method is none, or the database failed.
    pub async fn explain(
        &self,
        tenant: &Tenant,
        conversation: Option<&Conversation>,
        question: Question,
    ) -> Result<Explanation, TenancyError> {
        let conversation = conversation.map(|conversation| conversation.conversation_id.as_str());
        let policy = self.policy(tenant, conversation).await?;
        Ok(self.egress.explain(&policy, &question)?)
    }

    /// Makes a change hold in the open workspaces of the tenant, or of one conversation, of every server.
    pub async fn spread(&self, tenant: &str, conversation: Option<&str>, close: bool) {
        let Some(cluster) = self.cluster() else { return };
        let conversation = conversation.map(ToOwned::to_owned);
        cluster.renew_policies(Changed { tenant: Some(tenant.to_owned()), conversation, close }).await;
    }

    /// Makes policies again that could not be made, and notices changes of other servers that this one was not told of, until the future
    /// is dropped.
    pub async fn follow_changes(&self) {
        let mut known = None;
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            let all = Changed::default();
            let Some(cluster) = self.cluster() else { continue };
            if self.stale.swap(false, Ordering::AcqRel) {
                cluster.renew_own_policies(&all).await;
            }
            if !cluster.is_shared() {
                continue;
            }
            match self.store.configuration_changes().await {
                Ok(number) => {
                    if known.replace(number).is_some_and(|before| before != number) {
                        cluster.renew_own_policies(&all).await;
                    }
                }
                Err(error) => tracing::debug!(%error, "cannot look for changes of configurations"),
            }
        }
    }
}

impl Policies for Tenancy {
    fn of<'a>(&'a self, occupants: &'a [Occupant]) -> BoxFuture<'a, Vec<Arc<Policy>>> {
        Box::pin(async move {
            let closed = Arc::new(Policy::closed());
            match self.policies(occupants).await {
                Ok(policies) => {
                    self.failing.store(false, Ordering::Relaxed);
                    let with_ids = policies.into_iter().zip(occupants);
                    let policies = with_ids.map(|(policy, of)| {
                        policy.unwrap_or_else(|error| {
                            self.is_closed(&of.tenant, &of.conversation, &error);
                            closed.clone()
                        })
                    });
                    policies.collect()
                }
                Err(error) => {
                    for of in occupants {
                        self.is_closed(&of.tenant, &of.conversation, &error);
                    }
                    vec![closed; occupants.len()]
                }
            }
        })
    }

    fn variant<'a>(&'a self, occupant: &'a Occupant) -> BoxFuture<'a, Result<Variant, VariantUnknown>> {
        Box::pin(async move {
            let applies = async {
                let tenant = self.store.tenant(&occupant.tenant).await?;
                let id = occupant.conversation.as_str();
                self.levels(&tenant, &[id]).await?.of_conversation(id, None)
            };
            let Effective { image, disk, .. } = applies.await.map_err(|error| VariantUnknown(error.to_string()))?;
            Ok(Variant {
                image: Some(image.value).filter(|name| name != DEFAULT_IMAGE),
                disk: Some(disk.value).filter(|_| disk.from != Level::Operator),
            })
        })
    }
}

impl Tenancy {
    /// Notes that workspaces reach nothing because their policy cannot be made. It is tried again, unless they belong to nobody any
    /// more.
    fn is_closed(&self, tenant: &str, conversation: &str, error: &TenancyError) {
        if matches!(error, TenancyError::Store(StoreError::NotFound(_))) {
            tracing::debug!(tenant, conversation, %error, "a workspace without its conversation reaches nothing");
            return;
        }
        self.stale.store(true, Ordering::Release);
        if self.failing.swap(true, Ordering::Relaxed) {
            tracing::debug!(tenant, conversation, %error, "a workspace's policy still cannot be made");
        } else {
            tracing::error!(tenant, conversation, %error, "a workspace's policy cannot be made: it reaches nothing until then");
        }
    }
}
