//! What tenants' configurations cost: the resolver, the policy of an open workspace, and the time until a change holds in all of them.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nagaya_egress::{Egress, Policy};
use nagaya_server::cluster::Cluster;
use nagaya_server::cluster::peers::Peers;
use nagaya_server::cluster::policies::Changed;
use nagaya_server::conversation::store::{
    ConfigurationOf, Database, NewConversation, NewModel, NewTenant, Store, Tenant,
};
use nagaya_server::providers::Provider;
use nagaya_server::tenancy::resolve::{Base, Level};
use nagaya_server::tenancy::{Document, Operator, Settings, Tenancy, resolve};
use nagaya_workspace::engine::memory::Memory;
use nagaya_workspace::id::RoomId;
use nagaya_workspace::rooms::Occupant;
use nagaya_workspace::{Parts, Policies, Workspaces, testing};
use serde_json::json;

use crate::process::status;
use crate::report::{Goal, Report, Table};
use crate::stage::Stage;
use crate::stats::{Sample, rounds};

const TENANTS: usize = 10_000;
const RULES: usize = 50;
/// Open workspaces of the tenant whose configuration changes.
const OPEN: usize = 100;
/// Open workspaces of other tenants, one each.
const OTHERS: usize = 400;
const MODEL: &str = "m";
/// Calls of the resolver in one sample.
const CALLS: u32 = 1_000;
/// Time limit for writing everything.
const LONG: Duration = Duration::from_secs(300);

pub(crate) fn measure(stage: &mut Stage, count: usize, report: &mut Report) {
    let stage = &*stage;
    if report.wants("resolver") {
        report.add(Table {
            id: "resolver",
            title: "What applies to a run: operator, tenant, conversation and run, with 50 rules and 20 models each",
            unit: "µs",
            more_is_better: false,
            note: "One call of the resolver, the mean of a thousand.".into(),
            series: rounds(count, vec![("ours", levels())], |_, levels| Ok(resolving(levels))),
            goals: vec![Goal::at_most(100.0)],
        });
    }
    if !report.wants("policy-memory") && !report.wants("policy-update") {
        return;
    }
    let tenants = Tenants::new(stage).map(Arc::new);
    let known = tenants.as_ref().map(Arc::clone).map_err(|error| anyhow::anyhow!("{error:#}"));
    if report.wants("policy-memory") {
        let held = known.and_then(|tenants| stage.within(LONG, "building policies", tenants.memory())?);
        let held = held.map(|kib| vec![Sample { value: kib, p99: None }]);
        report.add(Table {
            id: "policy-memory",
            title: "The policy of an open workspace: resident memory each",
            unit: "KiB",
            more_is_better: false,
            note: format!(
                "{TENANTS} policies of as many tenants with {RULES} rules each. Measured once: memory hardly varies."
            ),
            series: vec![crate::stats::Series { name: "ours", samples: held }],
            goals: vec![Goal::at_most(4.0)],
        });
    }
    if report.wants("policy-update") {
        let again = tenants.as_ref().map(Arc::clone).map_err(|error| anyhow::anyhow!("{error:#}"));
        let contenders = vec![("one tenant", tenants), ("all tenants", again)];
        report.add(Table {
            id: "policy-update",
            title: "A change of configuration, until it holds in every open workspace that it concerns",
            unit: "ms",
            more_is_better: false,
            note: format!(
                "{TENANTS} tenants with {RULES} rules each. One of them writes its configuration and has {OPEN} open workspaces; {OTHERS} \
                 others have one each, and all {} are renewed when a model changes.",
                OPEN + OTHERS
            ),
            series: rounds(count, contenders, |name, tenants| {
                let changed = async { if name == "one tenant" { tenants.one().await } else { tenants.all().await } };
                stage.within(LONG, "a change", changed)?
            }),
            goals: vec![Goal::at_most(50.0).of("one tenant"), Goal::at_most(50.0).of("all tenants")],
        });
    }
}

fn document(name: &str) -> Result<Document> {
    let rule = |n: usize| json!({"host": format!("api-{n}.{name}.example.com"), "methods": ["GET", "POST"], "paths": ["/v1/items"]});
    let allow: Vec<_> = (0..RULES).map(rule).collect();
    Ok(serde_json::from_value(json!({"egress": {"allow": allow, "requests_per_second": 50}}))?)
}

/// The operator's settings, and the documents of the other levels.
fn levels() -> Result<(Operator, [Document; 3])> {
    let models: Vec<String> = (0..20).map(|n| format!("model-{n}")).collect();
    let one = || -> Result<Document> {
        let more = json!({
            "models": {"allowed": models},
            "tools": {"allowed": (0..50).map(|n| format!("Tool{n}")).collect::<Vec<_>>()},
            "vaults": (0..20).map(|n| format!("vault-{n}")).collect::<Vec<_>>(),
            "limits": {"run_seconds": 100, "max_turns": 10},
            "permissions": {"ask": (0..50).map(|n| format!("Bash(git {n}:*)")).collect::<Vec<_>>()},
        });
        let more: Document = serde_json::from_value(more)?;
        Ok(Document { egress: document("t")?.egress, ..more })
    };
    let documents = [one()?, one()?, one()?];
    Ok((Operator { models, run_seconds: 600, disk: 1 << 30, ..Operator::default() }, documents))
}

fn resolving((operator, [tenant, conversation, run]): &(Operator, [Document; 3])) -> Sample {
    let base = Base { tenants_model: Some("model-1"), conversations_model: Some("model-2") };
    let levels = [(Level::Tenant, tenant), (Level::Conversation, conversation), (Level::Run, run)];
    let began = Instant::now();
    for _ in 0..CALLS {
        black_box(resolve(black_box(operator), base, &levels));
    }
    Sample { value: began.elapsed().as_secs_f64() * 1e6 / f64::from(CALLS), p99: None }
}

/// Many tenants in a database, some of them with open workspaces on an engine in memory.
struct Tenants {
    tenancy: Arc<Tenancy>,
    cluster: Arc<Cluster>,
    first: Tenant,
    /// A conversation of each tenant.
    conversations: Vec<(String, String)>,
    _dir: tempfile::TempDir,
}

impl Tenants {
    fn new(stage: &Stage) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("nagaya-bench-").tempdir()?;
        stage.within(LONG, "creating the tenants", Self::build(dir))?
    }

    async fn build(dir: tempfile::TempDir) -> Result<Self> {
        let store = Store::open(&Database::Sqlite(dir.path().join("nagaya.sqlite"))).await?;
        let model = NewModel {
            model_id: MODEL.into(),
            display_name: "M".into(),
            provider: Provider::Bedrock,
            provider_model_id: "b".into(),
            model_region: None,
            context_window: 1,
            max_output_tokens: 1,
            input_token_price: "0".parse().map_err(|error| anyhow::anyhow!("a price: {error}"))?,
            output_token_price: "0".parse().map_err(|error| anyhow::anyhow!("a price: {error}"))?,
        };
        store.create_model(model).await?;
        let mut conversations = Vec::new();
        for n in 0..TENANTS {
            let (tenant_id, model_id) = (format!("tenant-{n}"), Some(MODEL.into()));
            store.create_tenant(NewTenant { tenant_id: tenant_id.clone(), system_prompt: None, model_id }).await?;
            let text = serde_json::to_string(&document(&tenant_id)?)?;
            store.write_configuration(ConfigurationOf::Tenant(&tenant_id), 0, &text).await?;
            conversations.push((tenant_id.clone(), conversation(&store, &tenant_id).await?));
        }
        let parts =
            testing::parts(Arc::new(Memory::new(Some(tokio::runtime::Handle::current()))), "tenancy", dir.path());
        let parts = parts.await.map_err(|error| anyhow::anyhow!(error))?;
        let allowed = "*.example.com".parse().map_err(|error| anyhow::anyhow!("an allow-list: {error}"))?;
        let settings = nagaya_egress::Settings { allowed, ..nagaya_egress::Settings::default() };
        let egress = Egress::new(settings, None, Arc::new(testing::NoTrail))?;
        let operator = Operator { run_seconds: 600, disk: 1 << 30, ..Operator::default() };
        let settings = Settings { operator, ..Settings::default() };
        let tenancy = Tenancy::new(store.clone(), settings, egress.clone());
        let workspaces = Workspaces::new(Parts { policies: tenancy.clone(), egress, ..parts });
        let cluster = Cluster::new(workspaces, Peers::alone("tenancy"));
        tenancy.serve(&cluster);
        cluster.start();
        let (first, _) = &conversations[0];
        for _ in 0..OPEN {
            let occupant = Occupant { conversation: conversation(&store, first).await?, tenant: first.clone() };
            drop(cluster.acquire(occupant).await?);
        }
        for (tenant, conversation) in &conversations[1..=OTHERS] {
            cluster.workspaces().insert_bound(&RoomId::generate("tenancy"), occupant(tenant, conversation));
        }
        let first = store.tenant(first).await?;
        Ok(Self { tenancy, cluster, first, conversations, _dir: dir })
    }

    /// Growth of resident memory for each policy, in KiB.
    async fn memory(&self) -> Result<f64> {
        // What the database keeps of what it has read is not part of a policy's cost.
        for (tenant, conversation) in &self.conversations {
            drop(self.tenancy.of(&[occupant(tenant, conversation)]).await);
        }
        let before = status(std::process::id(), "VmRSS")?;
        let policies = self.policies(TENANTS).await?;
        let grown = status(std::process::id(), "VmRSS")?.saturating_sub(before);
        ensure!(policies.iter().all(|policy| policy.bytes() > RULES), "a policy has no rules");
        #[allow(clippy::cast_precision_loss, reason = "kibibytes of one process")]
        Ok(grown as f64 / policies.len() as f64)
    }

    async fn policies(&self, count: usize) -> Result<Vec<Arc<Policy>>> {
        let mut policies = Vec::with_capacity(count);
        for (tenant, conversation) in self.conversations.iter().rev().take(count) {
            policies.extend(self.tenancy.of(&[occupant(tenant, conversation)]).await);
        }
        Ok(policies)
    }

    async fn one(&self) -> Result<Sample> {
        let of = ConfigurationOf::Tenant(&self.first.tenant_id);
        let now = self.tenancy.document(of).await?;
        let began = Instant::now();
        let written = self.tenancy.write_document(&self.first, of, now.version, &now.document, false).await;
        let took = began.elapsed();
        let written = written.map_err(|error| anyhow::anyhow!("{error:?}"))?;
        ensure!(written.version == now.version + 1, "the configuration was not written");
        Ok(Sample { value: took.as_secs_f64() * 1e3, p99: None })
    }

    async fn all(&self) -> Result<Sample> {
        let began = Instant::now();
        self.cluster.renew_policies(Changed::default()).await;
        Ok(Sample { value: began.elapsed().as_secs_f64() * 1e3, p99: None })
    }
}

fn occupant(tenant: &str, conversation: &str) -> Occupant {
    Occupant { conversation: conversation.to_owned(), tenant: tenant.to_owned() }
}

async fn conversation(store: &Store, tenant: &str) -> Result<String> {
    let new = NewConversation {
        tenant_id: tenant.into(),
        user_id: "u".into(),
        model_id: MODEL.into(),
        workspace_enabled: true,
    };
    Ok(store.create_conversation(new).await.context("a conversation")?.conversation_id)
}
