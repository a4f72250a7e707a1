//! The suite that every database must pass.

use jiff::Timestamp;
use nagaya_driver::Usage;
use nagaya_server::conversation::store::{
    ConversationChange, ConversationFilter, ConversationStatus, EndedRun, Held, Message, Model, ModelChange,
    ModelStatus, NewConversation, NewMessage, NewModel, NewTenant, RunTotals, Store, StoreError, TenantChange,
    TenantStatus,
};
use nagaya_server::providers::Provider;
use serde_json::{Value, json};

use crate::Home;

over_both! {
    tenants_and_models_refer_to_each_other,
    a_model_that_leaves_bedrock_has_no_region_any_more,
    conversations_are_filtered_and_paged,
    a_repeated_run_is_added_once_with_exact_values,
    messages_are_numbered_and_a_repeated_one_is_added_once,
    messages_are_paged_by_number_and_by_size,
    the_size_of_a_conversation_is_that_of_its_messages,
    totals_stop_at_the_largest_integer,
    the_usage_of_a_tenant_outlives_its_conversations,
    a_transcript_is_kept_in_order_until_it_is_too_long_or_broken,
    servers_that_start_at_the_same_time_migrate_the_schema_once,
}

pub(crate) fn model(id: &str) -> NewModel {
    NewModel {
        model_id: id.into(),
        display_name: "長屋 'quoted' \"too\"".into(),
        provider: Provider::Bedrock,
        provider_model_id: "b".into(),
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
pub(crate) async fn populate(store: &Store) -> String {
    store.create_model(model("m")).await.expect("creates");
    store.create_tenant(tenant("t", Some("m"))).await.expect("creates");
    conversation(store, "u").await
}

pub(crate) async fn conversation(store: &Store, user: &str) -> String {
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

async fn a_model_that_leaves_bedrock_has_no_region_any_more(home: &Home) {
    let store = home.open().await;
    let made = NewModel { model_region: Some("eu-west-1".into()), ..model("m") };
    assert_eq!(store.create_model(made).await.expect("creates").provider, Provider::Bedrock);
    let at = |model: Model| (model.provider, model.provider_model_id, model.model_region);
    let change = ModelChange { display_name: Some("another".into()), ..ModelChange::default() };
    let kept = at(store.update_model("m", change).await.expect("changes"));
    assert_eq!(kept, (Provider::Bedrock, "b".into(), Some("eu-west-1".into())));
    let change = ModelChange {
        provider: Some(Provider::Anthropic),
        provider_model_id: Some("a".into()),
        ..ModelChange::default()
    };
    let moved = at(store.update_model("m", change).await.expect("changes"));
    assert_eq!(moved, (Provider::Anthropic, "a".into(), None));
    assert_eq!(at(store.model("m").await.expect("reads")), moved);
    let change = ModelChange { display_name: Some("a third".into()), ..ModelChange::default() };
    assert_eq!(at(store.update_model("m", change).await.expect("changes")), moved);
    let new = NewModel { provider: Provider::Anthropic, ..model("n") };
    assert_eq!(store.create_model(new).await.expect("creates").provider, Provider::Anthropic);
    store.close().await;
}

async fn conversations_are_filtered_and_paged(home: &Home) {
    let store = home.open().await;
    let first = populate(&store).await;
    let second = conversation(&store, "without").await;
    for _ in 0..5 {
        conversation(&store, "other").await;
    }
    let (status, title) = (Some(ConversationStatus::Archived), Some("%_'".into()));
    let archive = ConversationChange { status, title, ..ConversationChange::default() };
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
    let messages = messages(&store, &id).await;
    assert_eq!(messages.iter().map(|m| m.message_id.as_str()).collect::<Vec<_>>(), ["r1:done", "r2:done"]);
    assert_eq!((content(&messages[0]), messages[0].message_subtype.as_deref()), (done, Some("success")));
    store.delete_conversation("t", &id).await.expect("deletes, with messages and runs");
    assert!(self::messages(&store, &id).await.is_empty());
    store.close().await;
}

/// A run that used these numbers of tokens.
pub(crate) fn totals(input_tokens: i64, output_tokens: i64) -> RunTotals {
    RunTotals {
        session_id: None,
        title: None,
        input_tokens,
        output_tokens,
        context_tokens: Some(input_tokens),
        context_full: false,
    }
}

pub(crate) fn run<'a>(id: &'a str, conversation: &'a str, totals: &'a RunTotals, done: &'a Value) -> EndedRun<'a> {
    EndedRun {
        id,
        conversation,
        model: "m",
        status: "success",
        began: Timestamp::UNIX_EPOCH,
        usage: Usage::default(),
        cost_usd: "0",
        turns: 1,
        duration_ms: 1,
        totals,
        done,
    }
}

async fn totals_stop_at_the_largest_integer(home: &Home) {
    let store = home.open().await;
    let id = populate(&store).await;
    let done = json!({});
    for (n, totals) in [totals(i64::MAX, 1), totals(i64::MAX, 2), totals(1, i64::MAX), totals(0, 0)].iter().enumerate()
    {
        store.add_run(run(&format!("r{n}"), &id, totals, &done)).await.expect("adds");
        let now = store.conversation("t", &id).await.expect("reads");
        assert_eq!((now.total_input_tokens, now.total_output_tokens), (i64::MAX, [1, 3, i64::MAX, i64::MAX][n]));
    }
    let all = ConversationFilter { limit: 10, ..ConversationFilter::default() };
    assert_eq!(store.conversations("t", &all).await.expect("lists").items[0].total_input_tokens, i64::MAX);
    store.update_conversation("t", &id, ConversationChange::default()).await.expect("changes");
    store.delete_conversation("t", &id).await.expect("deletes");
    store.close().await;
}

async fn the_usage_of_a_tenant_outlives_its_conversations(home: &Home) {
    let store = home.open().await;
    let (first, second) = (populate(&store).await, conversation(&store, "other").await);
    assert_eq!(store.usage("t").await.expect("reads"), []);
    let usage = Usage {
        input_tokens: 1,
        output_tokens: 2,
        cache_creation_5m_tokens: 3,
        cache_creation_1h_tokens: 4,
        cache_read_tokens: 5,
    };
    let (totals, done) = (totals(1, 1), json!({}));
    let next_day = Timestamp::from_second(86_400).expect("a time");
    for (id, of, began, cost_usd) in [
        ("a", &first, Timestamp::UNIX_EPOCH, "0.1"),
        ("b", &first, Timestamp::UNIX_EPOCH, "0.1"),
        ("c", &first, next_day, "0.000000000000001"),
        ("d", &second, Timestamp::UNIX_EPOCH, "0.2"),
    ] {
        store.add_run(EndedRun { began, usage, cost_usd, ..run(id, of, &totals, &done) }).await.expect("adds");
    }
    let before = store.usage("t").await.expect("reads");
    let of_day = |at: usize| {
        let day = &before[at];
        let tokens = [day.input_tokens, day.output_tokens, day.cache_creation_5m_tokens];
        let cached = [day.cache_creation_1h_tokens, day.cache_read_tokens];
        (day.day.to_string(), day.model_id.clone(), day.runs, tokens, cached, day.cost_usd.to_string())
    };
    assert_eq!(of_day(0), ("1970-01-01".into(), "m".into(), 3, [3, 6, 9], [12, 15], "0.4".into()));
    let next = ("1970-01-02".into(), "m".into(), 1, [1, 2, 3], [4, 5], "0.000000000000001".into());
    assert_eq!((of_day(1), before.len()), (next, 2));
    // Whatever is deleted, in whatever order, the sums stay; those of another tenant do not change.
    for gone in [&first, &second] {
        assert!(matches!(store.delete_conversation("other", gone).await, Err(StoreError::NotFound(_))));
        store.delete_conversation("t", gone).await.expect("deletes");
        assert_eq!(store.usage("t").await.expect("reads"), before);
    }
    assert_eq!(store.usage("other").await.expect("reads"), []);
    store.delete_tenant("t").await.expect("deletes");
    assert_eq!(store.usage("t").await.expect("reads"), []);
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
    let messages = messages(&store, &id).await;
    assert_eq!(messages.iter().map(|m| m.message_seq).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(messages.iter().all(|m| self::content(m) == content));
    store.close().await;
}

async fn messages_are_paged_by_number_and_by_size(home: &Home) {
    let store = home.open().await;
    let (id, other) = (populate(&store).await, conversation(&store, "other").await);
    let add = async |conversation: &str, n: usize, content: Value| {
        let message_id = format!("{conversation}:{n}");
        let new = NewMessage { id: &message_id, conversation, kind: "user", subtype: None, content: &content };
        store.add_message(new).await.expect("adds");
    };
    // Two-byte characters: sizes are bytes. The sixth message is larger than a page.
    for n in 1..=10 {
        let length = if n == 6 { 5 << 20 } else { 1 << 20 };
        add(&id, n, json!({"text": "é".repeat(length)})).await;
        add(&other, n, json!({})).await;
    }
    let page = async |after, limit| {
        let page = store.messages(&id, after, limit).await.expect("reads");
        (page.messages.iter().map(|m| m.message_seq).collect::<Vec<_>>(), page.more)
    };
    assert_eq!(page(0, 1_000).await, (vec![1, 2, 3], true));
    assert_eq!(page(3, 1_000).await, (vec![4, 5], true));
    assert_eq!(page(5, 1_000).await, (vec![6], true));
    assert_eq!(page(6, 1_000).await, (vec![7, 8, 9], true));
    assert_eq!(page(9, 1_000).await, (vec![10], false));
    assert_eq!(page(10, 1_000).await, (vec![], false));
    assert_eq!(page(0, 2).await, (vec![1, 2], true));
    assert_eq!(page(9, 1).await, (vec![10], false));
    assert_eq!(page(i64::MAX, i64::MAX).await, (vec![], false));
    assert_eq!(messages(&store, &other).await.len(), 10);
    store.close().await;
}

async fn the_size_of_a_conversation_is_that_of_its_messages(home: &Home) {
    let store = home.open().await;
    let (id, other) = (populate(&store).await, conversation(&store, "other").await);
    assert_eq!(store.held(&id).await.expect("reads"), Held { messages: 0, bytes: 0 });
    for (n, text) in ["é", "12"].into_iter().enumerate() {
        let (message_id, content) = (format!("r:{n}"), json!(text));
        let new = NewMessage { id: &message_id, conversation: &id, kind: "user", subtype: None, content: &content };
        store.add_message(new).await.expect("adds");
    }
    assert_eq!(store.held(&id).await.expect("reads"), Held { messages: 2, bytes: 8 });
    assert_eq!(store.held(&other).await.expect("reads"), Held { messages: 0, bytes: 0 });
    store.close().await;
}

/// A conversation's messages, which fit into one page.
pub(crate) async fn messages(store: &Store, conversation: &str) -> Vec<Message> {
    let page = store.messages(conversation, 0, 1_000).await.expect("reads");
    assert!(!page.more);
    page.messages
}

fn content(message: &Message) -> Value {
    serde_json::from_str(message.content.get()).expect("JSON")
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

async fn a_transcript_is_kept_in_order_until_it_is_too_long_or_broken(home: &Home) {
    let store = home.open().await;
    let id = populate(&store).await;
    let part = |file: &str, lines: &str| (file.to_owned(), lines.to_owned());
    let (one, two, three) = (part("a", "{\"\u{9577}\\u0000\":1}\n"), part("b", "2\n"), part("a", "3\n"));
    assert!(store.transcript(&id).await.expect("reads").is_empty());
    store.add_transcript(&id, &[one.clone(), two.clone()]).await.expect("added");
    store.add_transcript(&id, std::slice::from_ref(&three)).await.expect("added");
    assert_eq!(store.transcript(&id).await.expect("reads"), [one.clone(), two, three]);
    let long = part("a", &"x".repeat(8 << 20));
    for _ in 0..9 {
        store.add_transcript(&id, std::slice::from_ref(&long)).await.expect("added");
    }
    assert!(store.transcript(&id).await.expect("reads").is_empty(), "it is too long");
    store.add_transcript(&id, std::slice::from_ref(&one)).await.expect("not added");
    assert!(store.transcript(&id).await.expect("reads").is_empty(), "the rest is of no use");
    store.forget_transcript(&id).await.expect("forgotten");
    store.add_transcript(&id, std::slice::from_ref(&one)).await.expect("added");
    assert_eq!(store.transcript(&id).await.expect("reads").len(), 1);
    store.break_transcript(&id).await.expect("broken");
    store.add_transcript(&id, std::slice::from_ref(&one)).await.expect("not added");
    assert!(store.transcript(&id).await.expect("reads").is_empty());
    store.delete_conversation("t", &id).await.expect("deleted");
    store.add_transcript(&id, &[one]).await.expect("not added");
    store.close().await;
}
