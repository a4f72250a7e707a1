//! A database that goes away, is locked, or is not ours to use.

use std::time::{Duration, Instant};

use nagaya_fixtures::postgres::Postgres;
use nagaya_server::conversation::store::{Database, NewTenant, OpenError, Store, StoreError};
use sqlx::Connection;

/// Longest wait for anything here.
const DEADLINE: Duration = Duration::from_secs(30);

fn at(url: &str) -> Database {
    url.parse().expect("an address")
}

async fn answers_again(store: &Store) {
    let until = Instant::now() + DEADLINE;
    while let Err(error) = store.ping().await {
        assert!(error.is_unavailable(), "{error}");
        assert!(Instant::now() < until, "it does not heal: {error}");
        tokio::task::yield_now().await;
    }
}

fn new(id: &str) -> NewTenant {
    NewTenant { tenant_id: id.into(), system_prompt: None, model_id: None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_is_told_and_one_that_is_back_is_used() {
    let mut postgres = Postgres::start().expect("PostgreSQL");
    let store = Store::open(&at(&postgres.url())).await.expect("opens");
    store.create_tenant(new("before")).await.expect("creates");
    postgres.stop().expect("stops");
    let refused = store.create_tenant(new("meanwhile")).await.expect_err("it is away");
    assert!(refused.is_unavailable(), "{refused}");
    postgres.start_again().expect("starts");
    answers_again(&store).await;
    store.create_tenant(new("after")).await.expect("creates");
    let tenants: Vec<_> = store.tenants().await.expect("lists").into_iter().map(|t| t.tenant_id).collect();
    assert_eq!(tenants, ["after", "before"]);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stands_still_is_given_up_and_used_when_it_goes_on() {
    let postgres = Postgres::start().expect("PostgreSQL");
    let store = Store::open(&at(&postgres.url())).await.expect("opens");
    for round in 0..2 {
        postgres.pause().expect("stands still");
        // More at once than there are connections: none may be lost for it.
        let asked = futures::future::join_all((0..20).map(|_| store.tenants()));
        for answer in tokio::time::timeout(DEADLINE, asked).await.expect("in time") {
            let error = answer.expect_err("it stands still");
            assert!(error.is_unavailable(), "{error}");
        }
        postgres.resume().expect("goes on");
        answers_again(&store).await;
        store.create_tenant(new(&format!("t{round}"))).await.expect("creates");
    }
    let all = futures::future::join_all((0..20).map(|_| store.tenants())).await;
    assert!(all.into_iter().all(|tenants| tenants.expect("lists").len() == 2));

    // In the middle of a statement, where no deadline of its own ends it.
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
    postgres.pause().expect("stands still");
    let refused = tokio::time::timeout(DEADLINE, waiting).await.expect("in time").expect("no panic");
    assert!(matches!(refused, Err(StoreError::Slow(_))), "{refused:?}");
    postgres.resume().expect("goes on");
    transaction.rollback().await.expect("lets go");
    answers_again(&store).await;
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_somebody_has_locked_is_waited_for_and_then_told() {
    let postgres = Postgres::start().expect("PostgreSQL");
    let store = Store::open(&at(&postgres.url())).await.expect("opens");
    let mut other = sqlx::PgConnection::connect(&postgres.url()).await.expect("connects");
    let mut transaction = other.begin().await.expect("begins");
    sqlx::query("LOCK TABLE tenants").execute(&mut *transaction).await.expect("locks");
    let refused = tokio::time::timeout(DEADLINE, store.create_tenant(new("t"))).await.expect("in time");
    let refused = refused.expect_err("locked");
    assert!(refused.is_unavailable(), "{refused}");
    transaction.rollback().await.expect("lets go");
    store.create_tenant(new("t")).await.expect("creates");
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_at_the_start_is_told_without_the_password() {
    let mut postgres = Postgres::start().expect("PostgreSQL");
    let failure = async |url: String| Store::open(&at(&url)).await.expect_err("is refused");
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
    for told in [wrong, missing, newer, away] {
        let told = told.to_string();
        assert!(!told.contains("password@") && !told.contains("wrong-password") && told.lines().count() == 1, "{told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_another_process_has_locked_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s.sqlite");
    let store = Store::open(&Database::Sqlite(path.clone())).await.expect("opens");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
    let mut other = sqlx::SqliteConnection::connect_with(&options).await.expect("connects");
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.expect("locks");
    let refused = store.create_tenant(new("t")).await.expect_err("locked");
    assert!(refused.is_unavailable() && matches!(refused, StoreError::Database(_)), "{refused}");
    assert!(store.tenants().await.expect("reading goes on").is_empty());
    sqlx::query("ROLLBACK").execute(&mut other).await.expect("lets go");
    store.create_tenant(new("t")).await.expect("creates");
    store.close().await;
}
