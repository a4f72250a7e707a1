//! Configurations and vaults, over both databases.

use jiff::Timestamp;
use nagaya_server::conversation::store::{ConfigurationOf, NewTenant, Store, StoreError, StoredCredential};

use crate::Home;

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
        let all = store.credentials(tenant, &["v2".into(), "v1".into()]).await.expect("read");
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
    async fn versions_keep_writers_apart() {
        super::versions_keep_writers_apart(&super::Home::server()).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn vaults_belong_to_their_tenants() {
        super::vaults_belong_to_their_tenants(&super::Home::server()).await;
    }
}
