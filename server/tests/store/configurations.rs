//! Configurations and vaults, over both databases.

use jiff::Timestamp;
use nagaya_server::conversation::store::{
    ConfigurationOf, ConfiguredConversation, ConversationChange, NewTenant, Store, StoreError, StoredCredential,
};

use crate::Home;
use crate::same::{conversation, model, populate};

async fn store(home: &Home) -> Store {
    let store = home.open().await;
    for tenant in ["one", "two"] {
        let new = NewTenant { tenant_id: tenant.into(), system_prompt: None, model_id: None };
        store.create_tenant(new).await.expect("created");
    }
    store
}

fn credential(vault: &str, id: &str, name: &str) -> StoredCredential {
    StoredCredential {
        credential_id: id.into(),
        vault_id: vault.into(),
        name: name.into(),
        purpose: "{}".into(),
        sealed: format!("sealed {id}"),
        key_id: "old".into(),
        created_at: Timestamp::now(),
        updated_at: Timestamp::now(),
    }
}

async fn versions_keep_writers_apart(home: &Home) {
    let store = store(home).await;
    let of = ConfigurationOf::Tenant("one");
    assert_eq!(store.configuration(of).await.expect("read"), None);
    let before = store.configuration_changes().await.expect("a number");
    assert_eq!(store.write_configuration(of, 0, "{}").await.expect("written").version, 1);
    assert_eq!(store.write_configuration(of, 1, "[]").await.expect("written").version, 2);
    for late in [0, 1, 3] {
        let error = store.write_configuration(of, late, "lost").await.expect_err("too late");
        assert!(matches!(&error, StoreError::Conflict(why) if why.contains("version 2")), "{error}");
    }
    assert_eq!(store.configuration(of).await.expect("read").expect("one").document, "[]");
    assert!(store.configuration_changes().await.expect("a number") >= before + 2);
    let nobody = store.write_configuration(ConfigurationOf::Tenant("nobody"), 0, "{}").await;
    assert!(matches!(nobody, Err(StoreError::NotFound(_))), "{nobody:?}");
    let at_once = (0..6).map(|_| store.write_configuration(ConfigurationOf::Tenant("two"), 0, "{}"));
    let written = futures::future::join_all(at_once).await;
    assert_eq!(written.iter().filter(|written| written.is_ok()).count(), 1, "{written:?}");
    store.close().await;
}

async fn conversations_are_read_together_with_their_configurations(home: &Home) {
    let store = home.open().await;
    let first = populate(&store).await;
    let second = conversation(&store, "second").await;
    let many: Vec<String> = (0..1_200).map(|number| format!("none-{number}")).collect();
    let mut asked: Vec<&str> = many.iter().map(String::as_str).collect();
    asked.extend([first.as_str(), second.as_str()]);
    store.write_configuration(ConfigurationOf::Conversation(&second), 0, "[2]").await.expect("written");
    let read = async || {
        let mut found = store.configured_conversations(&asked).await.expect("read");
        assert!(found.iter().all(|of| of.tenant_id == "t"), "{found:?}");
        found.sort_by(|one, other| one.conversation_id.cmp(&other.conversation_id));
        let document = |of: &ConfiguredConversation| of.configuration.as_ref().map(|of| of.document.clone());
        found.iter().map(|of| (of.conversation_id.clone(), of.model_id.clone(), document(of))).collect::<Vec<_>>()
    };
    let expected = [(first.clone(), "m".to_owned(), None), (second.clone(), "m".to_owned(), Some("[2]".to_owned()))];
    assert_eq!(read().await, expected, "each once, however many are asked for");
    let mut asked = asked.clone();
    asked.push("t");
    let tenants = store.configured_tenants(&asked).await.expect("read");
    let [(tenant, None)] = tenants.as_slice() else { panic!("{tenants:?}") };
    assert_eq!(tenant.tenant_id, "t");
    store.write_configuration(ConfigurationOf::Tenant("t"), 0, "[3]").await.expect("written");
    let tenants = store.configured_tenants(&["t"]).await.expect("read");
    let [(_, Some(configuration))] = tenants.as_slice() else { panic!("{tenants:?}") };
    assert_eq!((configuration.version, configuration.document.as_str()), (1, "[3]"));
    let before = store.configuration_changes().await.expect("a number");
    let renamed = ConversationChange { title: Some("T".into()), ..ConversationChange::default() };
    assert_eq!(store.update_conversation("t", &second, renamed).await.expect("changed").model_id, "m");
    assert_eq!(store.configuration_changes().await.expect("a number"), before);
    let unknown = ConversationChange { model_id: Some("none".into()), ..ConversationChange::default() };
    let refused = store.update_conversation("t", &second, unknown).await;
    assert!(matches!(refused, Err(StoreError::NotFound("model"))), "{refused:?}");
    store.create_model(model("n")).await.expect("created");
    let other = ConversationChange { model_id: Some("n".into()), ..ConversationChange::default() };
    assert_eq!(store.update_conversation("t", &second, other).await.expect("changed").model_id, "n");
    assert_eq!(store.configuration_changes().await.expect("a number"), before + 1, "other servers notice it");
    store.close().await;
}

async fn vaults_belong_to_their_tenants(home: &Home) {
    let store = store(home).await;
    let vault = store.create_vault("one", "v1", "main").await.expect("created");
    assert!(matches!(store.create_vault("one", "v2", "main").await, Err(StoreError::Conflict(_))));
    store.create_vault("two", "v2", "main").await.expect("another tenant's");
    assert!(matches!(store.vault("two", "v1").await, Err(StoreError::NotFound(_))));
    for (id, name) in [("c1", "first"), ("c2", "second")] {
        store.create_credential(credential("v1", id, name)).await.expect("created");
    }
    let twice = store.create_credential(credential("v1", "c3", "first")).await;
    assert!(matches!(twice, Err(StoreError::Conflict(_))), "{twice:?}");
    let names = async |tenant: &str| {
        let all = store.credentials(tenant, &[&"v2".to_owned(), &"v1".to_owned()]).await.expect("read");
        all.into_iter().map(|credential| credential.name).collect::<Vec<_>>()
    };
    assert_eq!(names("one").await, ["first", "second"]);
    assert_eq!(names("two").await, [""; 0], "another tenant's vault is none of its own");
    assert!(store.vault("one", "v1").await.expect("read").updated_at >= vault.updated_at);

    let old = store.sealed_otherwise("new", "").await.expect("read");
    assert_eq!(
        old.iter().map(|(tenant, of)| (tenant.as_str(), &*of.name)).collect::<Vec<_>>(),
        [("one", "first"), ("one", "second")]
    );
    let renewed = StoredCredential { sealed: "again".into(), key_id: "new".into(), ..old[0].1.clone() };
    assert!(!store.replace_credential(&renewed, Some("something else")).await.expect("asked"));
    assert!(store.replace_credential(&renewed, Some("sealed c1")).await.expect("asked"));
    assert_eq!(store.sealed_otherwise("new", "").await.expect("read").len(), 1);
    store.delete_credential("v1", "c2").await.expect("deleted");
    assert!(matches!(store.delete_credential("v1", "c2").await, Err(StoreError::NotFound(_))));
    assert!(matches!(store.delete_vault("two", "v1").await, Err(StoreError::NotFound(_))));
    store.delete_vault("one", "v1").await.expect("deleted");
    assert_eq!(names("one").await, [""; 0]);
    store.delete_tenant("two").await.expect("deleted, with its vault");
    store.close().await;
}

mod sqlite {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn conversations_are_read_together_with_their_configurations() {
        super::conversations_are_read_together_with_their_configurations(&super::Home::file()).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn versions_keep_writers_apart() {
        super::versions_keep_writers_apart(&super::Home::file()).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn vaults_belong_to_their_tenants() {
        super::vaults_belong_to_their_tenants(&super::Home::file()).await;
    }
}

mod postgres {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn conversations_are_read_together_with_their_configurations() {
        super::conversations_are_read_together_with_their_configurations(&super::Home::server()).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn versions_keep_writers_apart() {
        super::versions_keep_writers_apart(&super::Home::server()).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn vaults_belong_to_their_tenants() {
        super::vaults_belong_to_their_tenants(&super::Home::server()).await;
    }
}
