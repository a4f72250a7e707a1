//! Lists of conversations in a large database.

use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::stream::{self, TryStreamExt};
use nagaya_server::conversation::store::{Database, NewConversation, NewModel, NewTenant, Store};
use nagaya_server::providers::Provider;

use crate::load::{Ask, load};
use crate::net::Address;
use crate::report::{Goal, Report, Table};
use crate::server::Server;
use crate::stage::Stage;
use crate::stats::{Sample, rounds};

/// Conversations in the database.
const STORED: usize = 100_000;
/// Tenants among which the conversations are divided evenly. One more tenant has as many conversations alone.
const TENANTS: usize = 100;
/// Requests per second, and the duration of a round.
const RATE: f64 = 2_000.0;
const LONG: Duration = Duration::from_secs(3);
/// Requests per second for the tenant that has all conversations.
const RATE_ONE: f64 = 100.0;
/// Concurrent writers while the database is filled.
const WRITERS: usize = 8;

/// A server that serves lists only.
struct Lister {
    server: Server,
    address: std::net::SocketAddr,
    _dir: tempfile::TempDir,
}

pub(crate) fn measure(stage: &mut Stage, count: usize, report: &mut Report) {
    let mut lister = start(stage);
    for (id, tenant, rate, goals) in
        [("listing", "t7", RATE, vec![Goal::at_most(10.0)]), ("listing-one-tenant", "all", RATE_ONE, vec![])]
    {
        if !report.wants(id) {
            continue;
        }
        let contender = lister.as_ref().map(|lister| ask(lister, tenant)).map_err(|error| anyhow::anyhow!("{error:#}"));
        let series = rounds(count, vec![("ours", contender)], |_, ask| {
            let sample = load(ask, Some(rate), LONG)?;
            Ok(Sample { value: sample.p99.context("no p99")?, p99: None })
        });
        let note = format!(
            "{rate} requests a second for 20 conversations and the number of all, due at even times on 32 kept connections, {LONG:?}; \
             each counts from when it was due."
        );
        report.add(Table {
            id,
            title: match id {
                "listing" => "Lists of a tenant's 1,000 conversations among 100,000: 99th percentile",
                _ => "Lists of a tenant's 100,000 conversations: 99th percentile",
            },
            unit: "ms",
            more_is_better: false,
            note,
            series,
            goals,
        });
    }
    if let Ok(Lister { server, .. }) = std::mem::replace(&mut lister, Err(anyhow::anyhow!("stopped")))
        && let Err(error) = server.stop()
    {
        eprintln!("{error:#}");
    }
}

fn ask(lister: &Lister, tenant: &str) -> Ask {
    Ask {
        at: Address::Tcp(lister.address),
        request: format!("GET /api/tenants/{tenant}/conversations?limit=20 HTTP/1.1\r\nHost: bench\r\n\r\n"),
        is_right: |body| body.starts_with(b"{\"items\":[{\"conversation_id\""),
    }
}

fn start(stage: &Stage) -> Result<Lister> {
    let dir = tempfile::Builder::new().prefix("nagaya-bench-list-").tempdir()?;
    let state = dir.path().join("state");
    std::fs::create_dir(&state)?;
    stage.runtime.block_on(fill(&Database::Sqlite(state.join("nagaya.sqlite")))).context("filling the database")?;
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let settings = [("WARM_POOL_MIN_SIZE", "0".to_owned()), ("RATE_LIMIT_REQUESTS", "0".to_owned())];
    let name = format!("bench-list-{}", std::process::id());
    let mut server = Server::start(&name, dir.path(), address, &settings)?;
    server.ready(address)?;
    Ok(Lister { server, address, _dir: dir })
}

async fn fill(database: &Database) -> Result<()> {
    let store = Store::open(database).await?;
    store
        .create_model(NewModel {
            model_id: "bench".into(),
            display_name: "Bench".into(),
            provider: Provider::Bedrock,
            provider_model_id: "bench".into(),
            model_region: None,
            context_window: 200_000,
            max_output_tokens: 8192,
            input_token_price: "0".parse().map_err(|why| anyhow::anyhow!("{why}"))?,
            output_token_price: "0".parse().map_err(|why| anyhow::anyhow!("{why}"))?,
        })
        .await?;
    let mut tenants: Vec<String> = (0..TENANTS).map(|number| format!("t{number}")).collect();
    tenants.push("all".into());
    for tenant in &tenants {
        store
            .create_tenant(NewTenant { tenant_id: tenant.clone(), system_prompt: None, model_id: Some("bench".into()) })
            .await?;
    }
    let owners = (0..STORED).flat_map(|number| [tenants[number % TENANTS].clone(), "all".to_owned()]);
    stream::iter(owners.map(Ok::<_, anyhow::Error>))
        .try_for_each_concurrent(WRITERS, |tenant_id| {
            let store = &store;
            async move {
                let (user_id, model_id) = ("bench".to_owned(), "bench".to_owned());
                let new = NewConversation { tenant_id, user_id, model_id, workspace_enabled: true };
                Ok(store.create_conversation(new).await.map(drop)?)
            }
        })
        .await?;
    store.close().await;
    Ok(())
}
