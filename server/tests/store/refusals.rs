//! Values that a database refuses, and rows with values that only an earlier version wrote.

use nagaya_server::conversation::store::{ConversationChange, ConversationFilter, Database, RunTotals, Store};
use serde_json::json;
use sqlx::Connection;

use crate::Home;
use crate::same::{messages, populate, run, totals};

/// A second connection to the SQLite file of a store.
pub(crate) async fn beside(home: &Home) -> sqlx::SqliteConnection {
    let Database::Sqlite(path) = home.database() else { panic!("an SQLite file") };
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
    sqlx::SqliteConnection::connect_with(&options).await.expect("connects")
}

/// Adds a run that the database refuses, and then one that it accepts.
async fn is_refused(store: &Store, totals: &RunTotals) {
    let id = populate(store).await;
    let done = json!({});
    let refused = store.add_run(run("r1", &id, totals, &done)).await.expect_err("refused");
    assert!(refused.is_refusal() && !refused.is_unavailable(), "{refused:?}");
    assert!(messages(store, &id).await.is_empty());
    store.add_run(run("r1", &id, &self::totals(1, 1), &done)).await.expect("adds");
    assert_eq!(store.conversation("t", &id).await.expect("reads").total_input_tokens, 1);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_refuses_nul_for_good() {
    let home = Home::server();
    let totals = RunTotals { session_id: Some("a\0b".into()), ..totals(1, 1) };
    is_refused(&home.open().await, &totals).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_refuses_what_a_constraint_forbids_for_good() {
    let home = Home::file();
    let store = home.open().await;
    let trigger = "CREATE TRIGGER no_sevens BEFORE UPDATE ON conversations WHEN NEW.total_input_tokens = 7
                   BEGIN SELECT RAISE(ABORT, 'no sevens'); END";
    sqlx::query(trigger).execute(&mut beside(&home).await).await.expect("a trigger");
    is_refused(&store, &totals(7, 1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_whose_sums_turned_real_can_be_read_changed_and_deleted() {
    let home = Home::file();
    let store = home.open().await;
    let id = populate(&store).await;
    // What version 0.1 did with two runs of i64::MAX tokens.
    let overflow = "UPDATE conversations SET total_input_tokens = 9223372036854775807 + 9223372036854775807,
                    total_output_tokens = 1e300, estimated_context_tokens = -1.5";
    sqlx::query(overflow).execute(&mut beside(&home).await).await.expect("overflows");
    let all = ConversationFilter { limit: 10, ..ConversationFilter::default() };
    let listed = store.conversations("t", &all).await.expect("lists").items.remove(0);
    let sums = (listed.total_input_tokens, listed.total_output_tokens, listed.estimated_context_tokens);
    assert_eq!(sums, (i64::MAX, i64::MAX, -1));
    store.conversation("t", &id).await.expect("reads");
    store.update_conversation("t", &id, ConversationChange::default()).await.expect("changes");
    let (totals, done) = (totals(5, 5), json!({}));
    store.add_run(run("r1", &id, &totals, &done)).await.expect("adds a run");
    let kinds = "SELECT typeof(total_input_tokens) || typeof(total_output_tokens) FROM conversations";
    let kinds: String = sqlx::query_scalar(kinds).fetch_one(&mut beside(&home).await).await.expect("reads");
    assert_eq!(kinds, "integerinteger");
    store.delete_conversation("t", &id).await.expect("deletes");
    store.close().await;
}
