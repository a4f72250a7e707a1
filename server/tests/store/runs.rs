//! Runs of which the database refuses a part, or does not answer. They have no workspace, because the engine refuses it.

use std::sync::Arc;
use std::time::Duration;

use nagaya_server::cluster::Cluster;
use nagaya_server::cluster::peers::Peers;
use nagaya_server::conversation::journal::shared::SharedLog;
use nagaya_server::conversation::journal::{Journal, Journals};
use nagaya_server::conversation::order::{Bounds, Order};
use nagaya_server::conversation::runs::Runs;
use nagaya_server::conversation::services::RunServices;
use nagaya_server::conversation::store::{Database, Store};
use nagaya_server::conversation::uploads::Uploads;
use nagaya_server::providers::Providers;
use nagaya_workspace::engine::memory::{Call, Fault, Memory};
use nagaya_workspace::{OnShutdown, Workspaces, testing};
use serde_json::Value;
use sqlx::Connection;

use crate::Home;
use crate::refusals::beside;
use crate::same::{messages, populate};

const DEPLOYMENT: &str = "refused";
/// Deadline for every wait.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long a client waits that then goes away.
const MOMENT: Duration = Duration::from_millis(300);
/// How long the engine takes for nothing: longer than the test needs until it has cancelled the run.
const HANGS: Duration = Duration::from_secs(12);

/// A server's runs over an SQLite database that a trigger changes.
struct Server {
    home: Home,
    store: Store,
    runs: Arc<Runs>,
    conversation: String,
    _dir: tempfile::TempDir,
}

impl Server {
    async fn start(trigger: &'static str) -> Self {
        let home = Home::file();
        let store = home.open().await;
        let conversation = populate(&store).await;
        sqlx::query(trigger).execute(&mut beside(&home).await).await.expect("a trigger");
        Self::over(home, store, conversation, Fault::Refuse).await
    }

    /// A server whose engine has this fault.
    async fn over(home: Home, store: Store, conversation: String, fault: Fault) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let engine = Arc::new(Memory::new(None));
        engine.fail_always(Call::Run, fault);
        let parts = testing::parts(engine, DEPLOYMENT, dir.path()).await.expect("parts");
        let (metrics, audit) = (parts.metrics.clone(), parts.audit.clone());
        let cluster = Cluster::new(Workspaces::new(parts), Peers::alone(DEPLOYMENT));
        cluster.start();
        let shared = match home.database() {
            Database::Sqlite(_) => None,
            Database::Postgres(url) => {
                Some(Arc::new(SharedLog::open(Database::address(&url).as_str(), DEPLOYMENT).expect("opens")))
            }
        };
        let runs = Runs::new(RunServices {
            cluster,
            store: store.clone(),
            uploads: Uploads::open(dir.path().join("uploads")).expect("opens"),
            waiting: Arc::default(),
            journals: Journals::open(dir.path().join("runs"), dir.path().join("log"), shared).expect("opens"),
            providers: Arc::new(Providers {
                bedrock: true,
                anthropic: None,
                region: "us-east-1".into(),
                idle: DEADLINE,
            }),
            metrics,
            audit,
            execution_timeout: DEADLINE,
            driver: nagaya_driver::Kind::default().driver(),
            driver_keep_alive: Duration::ZERO,
            approval_timeout: Duration::from_secs(3600),
            restoring: Arc::new(tokio::sync::Semaphore::new(1)),
            on_shutdown: OnShutdown::Destroy,
        });
        Self { home, store, runs: runs.await.expect("runs"), conversation, _dir: dir }
    }

    async fn order(&self) -> Order {
        Order {
            conversation: self.store.conversation("t", &self.conversation).await.expect("reads"),
            tenant: self.store.tenant("t").await.expect("reads"),
            model: self.store.model("m").await.expect("reads"),
            user_input: "hello".into(),
            request_id: None,
            user: None,
            bounds: Bounds::default(),
            client_tools: Vec::new(),
            content: Vec::new(),
            command: false,
            uploads: None,
        }
    }

    /// Runs to the end and returns the data of the events `error` and `done`. The next run may start then.
    async fn run(&self) -> (Vec<Value>, Value) {
        let journal = self.runs.start(self.order().await).await.expect("the run before is settled");
        assert!(tokio::time::timeout(DEADLINE, journal.ended()).await.expect("in time"), "left to the next process");
        let errors = events(&journal, "error");
        (errors, events(&journal, "done").remove(0))
    }

    /// Number of rows of a table.
    async fn count(&self, of: &'static str) -> i64 {
        sqlx::query_scalar(of).fetch_one(&mut beside(&self.home).await).await.expect("counts")
    }
}

fn events(journal: &Journal, name: &str) -> Vec<Value> {
    let (mut lines, mut found) = (journal.lines(), Vec::new());
    while let Some(line) = lines.next_line().expect("reads") {
        let line = std::str::from_utf8(line).expect("UTF-8");
        if let Some((_, data)) = line.split_once(&format!(" {name} {{")).filter(|(head, _)| head.len() < 20) {
            found.push(serde_json::from_str(&format!("{{{data}")).expect("JSON"));
        }
    }
    found
}

fn types(errors: &[Value]) -> Vec<&str> {
    errors.iter().filter_map(|error| error["error_type"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_the_database_refuses_makes_the_run_fail_and_holds_up_nothing() {
    let refuse = "CREATE TRIGGER refuse BEFORE INSERT ON messages WHEN NEW.message_type = 'user'
                  BEGIN SELECT RAISE(ABORT, 'refused'); END";
    let server = Server::start(refuse).await;
    for round in 1..=2 {
        let (errors, done) = server.run().await;
        assert_eq!(types(&errors), ["workspace_error", "record_error"]);
        assert_eq!((&done["status"], done["errors"].as_array().map(Vec::len)), (&"error".into(), Some(2)));
        let kinds: Vec<_> =
            messages(&server.store, &server.conversation).await.into_iter().map(|m| m.message_type).collect();
        assert_eq!(kinds, ["error", "error", "done"].repeat(round));
        assert_eq!(server.count("SELECT COUNT(*) FROM runs WHERE status = 'error'").await, round as i64);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_the_database_refuses_is_stored_without_what_was_reported() {
    let refuse = "CREATE TRIGGER refuse BEFORE INSERT ON messages
                  WHEN NEW.message_type = 'done' AND NEW.content LIKE '%injected fault%'
                  BEGIN SELECT RAISE(ABORT, 'refused'); END";
    let server = Server::start(refuse).await;
    for round in 1..=2 {
        let (_, done) = server.run().await;
        assert_eq!(done["status"], "error");
        let errors = done["errors"].as_array().expect("errors");
        assert!(errors.len() == 1 && errors[0].as_str().is_some_and(|e| e.contains("database refuses")), "{errors:?}");
        assert_eq!(server.count("SELECT COUNT(*) FROM runs").await, round);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_of_which_the_database_refuses_everything_ends_all_the_same() {
    let refuse = "CREATE TRIGGER refuse BEFORE INSERT ON runs BEGIN SELECT RAISE(ABORT, 'refused'); END";
    let server = Server::start(refuse).await;
    for _ in 0..2 {
        assert_eq!(server.run().await.1["status"], "error");
    }
    assert_eq!(server.count("SELECT COUNT(*) FROM runs").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancellation_happens_wholly_also_if_nobody_waits_for_it() {
    let home = Home::server();
    let Database::Postgres(url) = home.database() else { panic!("a server") };
    let store = home.open().await;
    let conversation = populate(&store).await;
    let server = Server::over(home, store, conversation, Fault::Hang(HANGS)).await;
    let journal = server.runs.start(server.order().await).await.expect("begins");
    let (waiting, before) = server.runs.start_or_wait(None, server.order().await, false).await.expect("waits");
    assert_eq!(before, 1);
    // The client goes away while the log does not answer.
    let mut other = sqlx::PgConnection::connect(Database::address(&url).as_str()).await.expect("connects");
    sqlx::raw_sql("BEGIN; LOCK TABLE log_lines IN ACCESS EXCLUSIVE MODE").execute(&mut other).await.expect("locks");
    let answered = tokio::time::timeout(MOMENT, server.runs.cancel(&server.conversation)).await;
    assert!(answered.is_err(), "it is answered before it is in the log");
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.expect("unlocks");
    tokio::time::timeout(DEADLINE, journal.ended()).await.expect("in time");
    assert_eq!(events(&journal, "done").remove(0)["status"], "cancelled");
    // All that follows the run's end is over.
    server.runs.drain(DEADLINE).await;
    let known = server.runs.accepted(&server.conversation, &waiting).await.expect("answers");
    assert_eq!(known, None, "a message that was dropped begins a run");
}
