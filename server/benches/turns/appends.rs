//! Additions to the log.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use futures::future::try_join_all;
use nagaya_fixtures::postgres::Postgres;
use nagaya_server::conversation::event::Event;
use nagaya_server::conversation::journal::shared::SharedLog;
use nagaya_server::conversation::journal::{Head, Journal, Journals};
use nagaya_server::conversation::order::{Bounds, Order};
use nagaya_server::conversation::store::{Database, NewConversation, NewModel, NewTenant, Store};
use nagaya_server::providers::Provider;

use crate::report::{Goal, Report, Table};
use crate::stage::Stage;
use crate::stats::{Sample, Series, quantile, rounds};

/// Events of one run into its file.
const INTO_FILE: u64 = 50_000;
/// Runs that add at the same time, and the events of each, which waits for each.
const RUNS: usize = 25;
const EACH: u64 = 400;

/// A database with a conversation, and the log in a directory of its own.
struct Log {
    journals: Journals,
    store: Store,
    conversation: String,
    postgres: Option<Postgres>,
    _dir: tempfile::TempDir,
}

impl Log {
    async fn open(postgres: Option<Postgres>) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("nagaya-bench-log-").tempdir()?;
        let database: Database = match &postgres {
            Some(postgres) => postgres.url().parse().map_err(|why| anyhow::anyhow!("{why}"))?,
            None => Database::Sqlite(dir.path().join("nagaya.sqlite")),
        };
        let store = Store::open(&database).await?;
        let price = || "0".parse().map_err(|why| anyhow::anyhow!("{why}"));
        store
            .create_model(NewModel {
                model_id: "bench".into(),
                display_name: "Bench".into(),
                provider: Provider::Anthropic,
                provider_model_id: "bench".into(),
                model_region: None,
                context_window: 200_000,
                max_output_tokens: 8192,
                input_token_price: price()?,
                output_token_price: price()?,
            })
            .await?;
        store
            .create_tenant(NewTenant { tenant_id: "t".into(), system_prompt: None, model_id: Some("bench".into()) })
            .await?;
        let (tenant_id, user_id, model_id) = ("t".to_owned(), "u".to_owned(), "bench".to_owned());
        let new = NewConversation { tenant_id, user_id, model_id, workspace_enabled: true };
        let conversation = store.create_conversation(new).await?.conversation_id;
        let shared = match &database {
            Database::Postgres(url) => Some(Arc::new(SharedLog::open(Database::address(url).as_str(), "bench")?)),
            Database::Sqlite(_) => None,
        };
        let journals = Journals::open(dir.path().join("runs"), dir.path().join("log"), shared)?;
        Ok(Self { journals, store, conversation, postgres, _dir: dir })
    }

    async fn begin(&self, run: String) -> Result<Journal> {
        let order = Order {
            conversation: self.store.conversation("t", &self.conversation).await?,
            tenant: self.store.tenant("t").await?,
            model: self.store.model("bench").await?,
            user_input: "hello".into(),
            request_id: None,
            user: None,
            bounds: Bounds::default(),
            client_tools: Vec::new(),
            content: Vec::new(),
            command: false,
            uploads: None,
        };
        let head = Head { run_id: run, began: jiff::Timestamp::now(), order };
        self.journals.begin(head).await.context("a journal")
    }

    async fn close(self) {
        if let Some(log) = self.journals.shared() {
            log.close().await;
        }
        self.store.close().await;
        drop(self.postgres);
    }
}

fn event() -> Event {
    Event::TextDelta { text: "a word or two ".into() }
}

pub(crate) fn file(stage: &mut Stage, count: usize, report: &mut Report) {
    let stage = &*stage;
    let series = rounds(count, vec![("ours", Ok(()))], |_, ()| {
        stage.runtime.block_on(async {
            let log = Log::open(None).await?;
            let journal = log.begin("r".into()).await?;
            let began = Instant::now();
            for number in 1..=INTO_FILE {
                journal.append(number, &event()).await?;
            }
            let took = began.elapsed().as_secs_f64();
            log.close().await;
            #[allow(clippy::cast_precision_loss, reason = "some thousands")]
            Ok(Sample { value: INTO_FILE as f64 / took, p99: None })
        })
    });
    report.add(Table {
        id: "append-file",
        title: "Events of a run into its file",
        unit: "events/s",
        more_is_better: true,
        note: format!("{INTO_FILE} events of one run, one after the other, each waited for."),
        series,
        goals: vec![Goal::at_least(20_000.0)],
    });
}

pub(crate) fn postgres(stage: &mut Stage, count: usize, report: &mut Report) {
    let stage = &*stage;
    let measured: Vec<Result<(f64, f64)>> = (0..count).map(|_| stage.runtime.block_on(into_postgres())).collect();
    let measured: Result<Vec<(f64, f64)>> = measured.into_iter().collect();
    let series = |which: fn(&(f64, f64)) -> f64| Series {
        name: "ours",
        samples: match &measured {
            Ok(all) => Ok(all.iter().map(|round| Sample { value: which(round), p99: None }).collect()),
            Err(error) => Err(anyhow::anyhow!("{error:#}")),
        },
    };
    let note = format!(
        "{RUNS} runs at the same time, each with {EACH} events, each of which is waited for until the database has it. PostgreSQL \
         runs on the same machine and syncs every transaction."
    );
    if report.wants("append-postgres") {
        report.add(Table {
            id: "append-postgres",
            title: "Events of many runs into PostgreSQL",
            unit: "events/s",
            more_is_better: true,
            note: note.clone(),
            series: vec![series(|(rate, _)| *rate)],
            goals: vec![Goal::at_least(5_000.0)],
        });
    }
    if report.wants("append-postgres-p99") {
        report.add(Table {
            id: "append-postgres-p99",
            title: "Events of many runs into PostgreSQL: 99th percentile of one",
            unit: "ms",
            more_is_better: false,
            note,
            series: vec![series(|(_, p99)| *p99)],
            goals: vec![Goal::at_most(5.0)],
        });
    }
}

/// Events per second, and the 99th percentile of one in milliseconds.
async fn into_postgres() -> Result<(f64, f64)> {
    let log = Log::open(Some(Postgres::start()?)).await?;
    let mut journals = Vec::new();
    for run in 0..RUNS {
        journals.push(log.begin(format!("r{run:02}")).await?);
    }
    let began = Instant::now();
    let tasks = journals.into_iter().map(|journal| {
        tokio::spawn(async move {
            let mut took = Vec::new();
            for number in 1..=EACH {
                let began = Instant::now();
                journal.append(number, &event()).await?;
                took.push(began.elapsed().as_secs_f64() * 1e3);
            }
            anyhow::Ok(took)
        })
    });
    let took = try_join_all(tasks).await?.into_iter().collect::<Result<Vec<_>>>()?.concat();
    let whole = began.elapsed().as_secs_f64();
    log.close().await;
    #[allow(clippy::cast_precision_loss, reason = "some thousands")]
    Ok((took.len() as f64 / whole, quantile(&took, 0.99)))
}
