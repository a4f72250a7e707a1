//! The suite that every database must pass.

use jiff::Timestamp;
use nagaya_protocol::Usage;
use nagaya_server::conversation::store::{
    ConversationChange, ConversationFilter, ConversationStatus, EndedRun, ModelChange, ModelStatus, NewConversation,
    NewMessage, NewModel, NewTenant, RunTotals, Store, StoreError, TenantChange, TenantStatus,
};
use serde_json::json;

use crate::Home;

/// Declares each test once over SQLite and once over PostgreSQL.
macro_rules! over_both {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(&super::Home::file()).await;
            })+
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(&super::Home::server()).await;
            })+
        }
    };
}

over_both! {
    tenants_and_models_refer_to_each_other,
    conversations_are_filtered_and_paged,
    a_repeated_run_is_added_once_with_exact_values,
    messages_are_numbered_and_a_repeated_one_is_added_once,
    servers_that_start_at_the_same_time_migrate_the_schema_once,
}

fn model(id: &str) -> NewModel {
    NewModel {
        model_id: id.into(),
        display_name: "長屋 'quoted' \"too\"".into(),
        bedrock_model_id: "b".into(),
        model_region: None,
        context_window: i64::MAX,
        max_output_tokens: 1,
        input_token_price: "0.0030".parse().expect("a price"),
        output_token_price: "9999.000000000000000001".parse().expect("a price"),
    }
}

fn tenant(id: &str, model: Option<&str>) -> NewTenant {
    NewTenant { tenant_id: id.into(), system_prompt: Some("two\nlines".into()), model_id: model.map(Into::into) }
}

/// Creates a model, a tenant and a conversation; returns the conversation's id.
async fn populate(store: &Store) -> String {
    store.create_model(model("m")).await.expect("creates");
    store.create_tenant(tenant("t", Some("m"))).await.expect("creates");
    conversation(store, "u").await
}

async fn conversation(store: &Store, user: &str) -> String {
    let new = NewConversation {
        tenant_id: "t".into(),
        user_id: user.into(),
        model_id: "m".into(),
        workspace_enabled: user != "without",
    };
    store.create_conversation(new).await.expect("creates").conversation_id
}

async fn tenants_and_models_refer_to_each_other(home: &Home) {
    let store = home.open().await;
    assert!(matches!(store.create_tenant(tenant("t", Some("m"))).await, Err(StoreError::NotFound("model"))));
    let made = store.create_model(model("m")).await.expect("creates");
    assert_eq!(String::from(made.input_token_price), "0.0030");
    assert_eq!(String::from(made.output_token_price), "9999.000000000000000001");
    assert_eq!((made.context_window, made.model_region), (i64::MAX, None));
    assert!(matches!(store.create_model(model("m")).await, Err(StoreError::Conflict(_))));
    let made = store.create_tenant(tenant("t", Some("m"))).await.expect("creates");
    assert_eq!((made.status, made.system_prompt.as_deref()), (TenantStatus::Active, Some("two\nlines")));
    assert!(matches!(store.delete_model("m").await, Err(StoreError::Conflict(_))));
    let change = TenantChange { status: Some(TenantStatus::Inactive), ..TenantChange::default() };
    let changed = store.update_tenant("t", change).await.expect("changes");
    assert_eq!((changed.status, changed.model_id.as_deref()), (TenantStatus::Inactive, Some("m")));
    assert!(changed.updated_at >= changed.created_at && changed.created_at == made.created_at);
    let change = ModelChange { status: Some(ModelStatus::Deprecated), ..ModelChange::default() };
    assert_eq!(store.update_model("m", change).await.expect("changes").status, ModelStatus::Deprecated);
    assert_eq!((store.models().await.expect("lists").len(), store.tenants().await.expect("lists").len()), (1, 1));
    store.delete_tenant("t").await.expect("deletes");
    store.delete_model("m").await.expect("deletes");
    assert!(matches!(store.tenant("t").await, Err(StoreError::NotFound("tenant"))));
    store.ping().await.expect("answers");
    store.close().await;
}

async fn conversations_are_filtered_and_paged(home: &Home) {
    let store = home.open().await;
    let first = populate(&store).await;
    let second = conversation(&store, "without").await;
    for _ in 0..5 {
        conversation(&store, "other").await;
    }
    let archive = ConversationChange { status: Some(ConversationStatus::Archived), title: Some("%_'".into()) };
    let archived = store.update_conversation("t", &first, archive).await.expect("changes");
    assert_eq!((archived.title.as_deref(), archived.workspace_enabled), (Some("%_'"), true));
    assert!(!store.conversation("t", &second).await.expect("reads").workspace_enabled);
    assert!(matches!(store.conversation("x", &first).await, Err(StoreError::NotFound(_))));
    let all = ConversationFilter { limit: 3, offset: 6, ..ConversationFilter::default() };
    let page = store.conversations("t", &all).await.expect("lists");
    assert_eq!((page.total, page.items.len(), page.items[0].conversation_id.as_str()), (7, 1, first.as_str()));
    let of = |user: Option<&str>, status, from, to| ConversationFilter {
        user_id: user.map(Into::into),
        status,
        from,
        to,
        limit: 100,
        offset: 0,
    };
    let count = async |filter| store.conversations("t", &filter).await.expect("lists").total;
    assert_eq!(count(of(Some("other"), None, None, None)).await, 5);
    assert_eq!(count(of(None, Some(ConversationStatus::Archived), None, None)).await, 1);
    assert_eq!(count(of(Some("other"), Some(ConversationStatus::Archived), None, None)).await, 0);
    assert_eq!(count(of(None, None, Some(archived.created_at), Some(archived.created_at))).await, 1);
    assert_eq!(count(of(None, None, None, Some(Timestamp::UNIX_EPOCH))).await, 0);
    assert_eq!(store.conversations("x", &of(None, None, None, None)).await.expect("lists").total, 0);
    store.close().await;
}

async fn a_repeated_run_is_added_once_with_exact_values(home: &Home) {
    let store = home.open().await;
    let id = populate(&store).await;
    let totals = RunTotals {
        session_id: Some("s".into()),
        title: Some("T".into()),
        input_tokens: 5,
        output_tokens: 7,
        context_tokens: Some(9),
        context_full: true,
    };
    let done = json!({"result": "長\u{1F600}"});
    let run = |run_id, conversation| EndedRun {
        id: run_id,
        conversation,
        model: "m",
        status: "success",
        began: Timestamp::UNIX_EPOCH,
        usage: Usage::default(),
        cost_usd: "0.000000000000000001",
        turns: 1,
        duration_ms: 1,
        totals: &totals,
        done: &done,
    };
    for (run_id, conversation) in [("r1", id.as_str()), ("r1", &id), ("r2", &id), ("r3", "deleted meanwhile")] {
        store.add_run(run(run_id, conversation)).await.expect("adds");
    }
    let now = store.conversation("t", &id).await.expect("reads");
    assert_eq!((now.total_input_tokens, now.total_output_tokens, now.estimated_context_tokens), (10, 14, 9));
    assert_eq!((now.session_id.as_str(), now.title.as_deref(), now.context_limit_reached), ("s", Some("T"), true));
    let messages = store.messages(&id).await.expect("reads");
    assert_eq!(messages.iter().map(|m| m.message_id.as_str()).collect::<Vec<_>>(), ["r1:done", "r2:done"]);
    assert_eq!((&messages[0].content, messages[0].message_subtype.as_deref()), (&done, Some("success")));
    store.delete_conversation("t", &id).await.expect("deletes, with messages and runs");
    assert!(store.messages(&id).await.expect("reads").is_empty());
    store.close().await;
}

async fn messages_are_numbered_and_a_repeated_one_is_added_once(home: &Home) {
    let store = home.open().await;
    let id = populate(&store).await;
    let content = json!({"text": "'; DROP TABLE messages; -- \\ \u{10FFFF}"});
    for n in [0, 1, 1, 0, 2] {
        let message_id = format!("r:{n}");
        let new = NewMessage { id: &message_id, conversation: &id, kind: "user", subtype: None, content: &content };
        store.add_message(new).await.expect("adds");
    }
    let messages = store.messages(&id).await.expect("reads");
    assert_eq!(messages.iter().map(|m| m.message_seq).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(messages.iter().all(|m| m.content == content));
    store.close().await;
}

async fn servers_that_start_at_the_same_time_migrate_the_schema_once(home: &Home) {
    let database = home.database();
    let together = (0..4).map(|_| Store::open(&database));
    let stores = futures::future::try_join_all(together).await.expect("all open");
    populate(&stores[0]).await;
    assert_eq!(stores[3].tenants().await.expect("lists").len(), 1);
    futures::future::join_all(stores.iter().map(Store::close)).await;
    // A later start has nothing to migrate.
    home.open().await.close().await;
}
