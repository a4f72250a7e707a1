//! A database that is stopped, paused, locked, or not usable with the given address.

use std::time::{Duration, Instant};

use nagaya_fixtures::postgres::Postgres;
use nagaya_server::conversation::store::{Database, NewTenant, OpenError, Store, StoreError};
use sqlx::Connection;

/// Deadline for every wait.
const DEADLINE: Duration = Duration::from_secs(30);

fn at(url: &str) -> Database {
    url.parse().expect("an address")
}

async fn answers_again(store: &Store) {
    let until = Instant::now() + DEADLINE;
    while let Err(error) = store.ping().await {
        assert!(error.is_unavailable(), "{error}");
        assert!(Instant::now() < until, "the store does not recover: {error}");
        tokio::task::yield_now().await;
    }
}

fn new(id: &str) -> NewTenant {
    NewTenant { tenant_id: id.into(), system_prompt: None, model_id: None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_server_is_reported_as_unavailable_and_used_again_once_it_is_back() {
    let mut postgres = Postgres::start().expect("PostgreSQL");
    let store = Store::open(&at(&postgres.url())).await.expect("opens");
    store.create_tenant(new("before")).await.expect("creates");
    postgres.stop().expect("stops");
    let refused = store.create_tenant(new("meanwhile")).await.expect_err("the server is stopped");
    assert!(refused.is_unavailable(), "{refused}");
    postgres.start_again().expect("starts");
    answers_again(&store).await;
    store.create_tenant(new("after")).await.expect("creates");
    let tenants: Vec<_> = store.tenants().await.expect("lists").into_iter().map(|t| t.tenant_id).collect();
    assert_eq!(tenants, ["after", "before"]);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations_on_a_paused_server_time_out_and_succeed_once_it_continues() {
    let postgres = Postgres::start().expect("PostgreSQL");
    let store = Store::open(&at(&postgres.url())).await.expect("opens");
    for round in 0..2 {
        postgres.pause().expect("pauses");
        // More operations at once than connections: no connection may be lost.
        let answers = futures::future::join_all((0..20).map(|_| store.tenants()));
        for answer in tokio::time::timeout(DEADLINE, answers).await.expect("in time") {
            let error = answer.expect_err("the server is paused");
            assert!(error.is_unavailable(), "{error}");
        }
        postgres.resume().expect("continues");
        answers_again(&store).await;
        store.create_tenant(new(&format!("t{round}"))).await.expect("creates");
    }
    let all = futures::future::join_all((0..20).map(|_| store.tenants())).await;
    assert!(all.into_iter().all(|tenants| tenants.expect("lists").len() == 2));

    // Paused in the middle of a statement, PostgreSQL cannot enforce its own deadlines.
    let mut other = sqlx::PgConnection::connect(&postgres.url()).await.expect("connects");
    let mut watcher = sqlx::PgConnection::connect(&postgres.url()).await.expect("connects");
    let mut transaction = other.begin().await.expect("begins");
    sqlx::query("LOCK TABLE tenants").execute(&mut *transaction).await.expect("locks");
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { store.create_tenant(new("late")).await }
    });
    let until = Instant::now() + DEADLINE;
    let blocked = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    while sqlx::query(blocked).fetch_optional(&mut watcher).await.expect("looks").is_none() {
        assert!(Instant::now() < until, "nothing waits for the lock");
    }
    postgres.pause().expect("pauses");
    let refused = tokio::time::timeout(DEADLINE, waiting).await.expect("in time").expect("no panic");
    assert!(matches!(refused, Err(StoreError::Slow(_))), "{refused:?}");
    postgres.resume().expect("continues");
    transaction.rollback().await.expect("rolls back");
    answers_again(&store).await;
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_table_is_waited_for_and_then_reported_as_unavailable() {
    let postgres = Postgres::start().expect("PostgreSQL");
    let store = Store::open(&at(&postgres.url())).await.expect("opens");
    let mut other = sqlx::PgConnection::connect(&postgres.url()).await.expect("connects");
    let mut transaction = other.begin().await.expect("begins");
    sqlx::query("LOCK TABLE tenants").execute(&mut *transaction).await.expect("locks");
    let refused = tokio::time::timeout(DEADLINE, store.create_tenant(new("t"))).await.expect("in time");
    let refused = refused.expect_err("locked");
    assert!(refused.is_unavailable(), "{refused}");
    transaction.rollback().await.expect("rolls back");
    store.create_tenant(new("t")).await.expect("creates");
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_at_the_start_say_what_is_wrong_and_never_show_the_password() {
    let mut postgres = Postgres::start().expect("PostgreSQL");
    let failure = async |url: String| Store::open(&at(&url)).await.expect_err("fails");
    let wrong = failure(postgres.url_with("wrong-password", "postgres")).await;
    assert!(matches!(wrong, OpenError::Refused(_)), "{wrong:?}");
    let missing = failure(postgres.url_with("test-password", "nowhere")).await;
    assert!(matches!(missing, OpenError::Missing(_)), "{missing:?}");
    let store = Store::open(&at(&postgres.url())).await.expect("opens");
    let mut other = sqlx::PgConnection::connect(&postgres.url()).await.expect("connects");
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'x', TRUE, '', 0)";
    sqlx::query(newer).execute(&mut other).await.expect("writes");
    let newer = failure(postgres.url()).await;
    assert!(matches!(newer, OpenError::Newer(9999)), "{newer:?}");
    store.close().await;
    postgres.stop().expect("stops");
    let away = failure(postgres.url()).await;
    assert!(matches!(away, OpenError::Away(_)), "{away:?}");
    for error in [wrong, missing, newer, away] {
        let text = error.to_string();
        assert!(!text.contains("password@") && !text.contains("wrong-password") && text.lines().count() == 1, "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_locked_by_another_process_is_reported_as_unavailable_and_can_be_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s.sqlite");
    let store = Store::open(&Database::Sqlite(path.clone())).await.expect("opens");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
    let mut other = sqlx::SqliteConnection::connect_with(&options).await.expect("connects");
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.expect("locks");
    let refused = store.create_tenant(new("t")).await.expect_err("locked");
    assert!(refused.is_unavailable() && matches!(refused, StoreError::Database(_)), "{refused}");
    assert!(store.tenants().await.expect("reads").is_empty());
    sqlx::query("ROLLBACK").execute(&mut other).await.expect("rolls back");
    store.create_tenant(new("t")).await.expect("creates");
    store.close().await;
}
