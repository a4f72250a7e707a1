//! Runs of which the database refuses a part. They end at once, because the engine refuses their workspace.

use std::sync::Arc;
use std::time::Duration;

use nagaya_server::cluster::Cluster;
use nagaya_server::cluster::peers::Peers;
use nagaya_server::conversation::journal::{Journal, Journals};
use nagaya_server::conversation::order::{Bounds, Order};
use nagaya_server::conversation::runs::Runs;
use nagaya_server::conversation::services::RunServices;
use nagaya_server::conversation::store::Store;
use nagaya_server::conversation::uploads::Uploads;
use nagaya_server::providers::Providers;
use nagaya_workspace::engine::memory::{Call, Fault, Memory};
use nagaya_workspace::{OnShutdown, Workspaces, testing};
use serde_json::Value;

use crate::Home;
use crate::refusals::beside;
use crate::same::{messages, populate};

const DEPLOYMENT: &str = "refused";
/// Deadline for every wait.
const DEADLINE: Duration = Duration::from_secs(30);

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
        let (home, dir) = (Home::file(), tempfile::tempdir().expect("a directory"));
        let store = home.open().await;
        let conversation = populate(&store).await;
        sqlx::query(trigger).execute(&mut beside(&home).await).await.expect("a trigger");
        let engine = Arc::new(Memory::new(None));
        engine.fail_always(Call::Run, Fault::Refuse);
        let parts = testing::parts(engine, DEPLOYMENT, dir.path()).await.expect("parts");
        let (metrics, audit) = (parts.metrics.clone(), parts.audit.clone());
        let cluster = Cluster::new(Workspaces::new(parts), Peers::alone(DEPLOYMENT));
        cluster.start();
        let runs = Runs::new(RunServices {
            cluster,
            store: store.clone(),
            uploads: Uploads::open(dir.path().join("uploads")).expect("opens"),
            waiting: Arc::default(),
            journals: Journals::open(dir.path().join("runs"), dir.path().join("log"), None).expect("opens"),
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

    /// Runs to the end and returns the data of the events `error` and `done`. The next run may start then.
    async fn run(&self) -> (Vec<Value>, Value) {
        let order = Order {
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
        };
        let journal = self.runs.start(order).await.expect("the run before is settled");
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
