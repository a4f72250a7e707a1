//! Skills, over both databases.

use nagaya_server::conversation::store::{NewSkill, NewTenant, Store, StoreError};

use crate::Home;

over_both!(versions_never_change, a_tenant_has_its_own_and_so_many, uploads_at_once_keep_the_limits);

async fn store(home: &Home) -> Store {
    let store = home.open().await;
    for tenant in ["one", "two"] {
        let new = NewTenant { tenant_id: tenant.into(), system_prompt: None, model_id: None };
        store.create_tenant(new).await.expect("created");
    }
    store
}

fn skill<'a>(tenant: &'a str, name: &'a str, content: &'a str) -> NewSkill<'a> {
    NewSkill { tenant, name, description: "d", digest: content, files: 1, bytes: 2, content }
}

async fn versions_never_change(home: &Home) {
    let store = store(home).await;
    for (content, version, is_new) in [("a", 1, true), ("a", 1, false), ("b", 2, true), ("a", 3, true)] {
        let (added, new) = store.add_skill(skill("one", "pricing", content)).await.expect("added");
        assert_eq!((added.version, new), (version, is_new), "{content}");
    }
    let versions = |skills: Vec<nagaya_server::conversation::store::Skill>| {
        skills.iter().map(|skill| skill.version).collect::<Vec<_>>()
    };
    assert_eq!(versions(store.skills("one").await.expect("read")), [3, 2, 1]);
    assert_eq!(store.skill_content("one", "pricing", 2).await.expect("read"), "b");
    store.delete_skill("one", "pricing", Some(2)).await.expect("deleted");
    assert!(matches!(store.delete_skill("one", "pricing", Some(2)).await, Err(StoreError::NotFound(_))));
    assert_eq!(versions(store.skills("one").await.expect("read")), [3, 1]);
    store.delete_skill("one", "pricing", None).await.expect("deleted");
    let gone = store.skill_content("one", "pricing", 1).await;
    assert!(matches!(gone, Err(StoreError::NotFound(_))), "{gone:?}");
    assert!(matches!(store.delete_skill("one", "pricing", None).await, Err(StoreError::NotFound(_))));
    let (again, _) = store.add_skill(skill("one", "pricing", "z")).await.expect("added");
    assert_eq!(again.version, 4, "a number never means two contents");
    store.delete_skill("one", "pricing", Some(4)).await.expect("deleted");
    let (again, _) = store.add_skill(skill("one", "pricing", "y")).await.expect("added");
    assert_eq!(again.version, 5);
    store.close().await;
}

async fn a_tenant_has_its_own_and_so_many(home: &Home) {
    let store = store(home).await;
    let large = "x".repeat(6 << 20);
    store.add_skill(skill("one", "large", &large)).await.expect("added");
    assert_eq!(store.skill_content("one", "large", 1).await.expect("read").len(), large.len());
    assert!(store.skills("two").await.expect("read").is_empty());
    assert!(matches!(store.skill_content("two", "large", 1).await, Err(StoreError::NotFound(_))));
    assert!(matches!(store.add_skill(skill("nobody", "a", "a")).await, Err(StoreError::NotFound(_))));
    for number in 0..100 {
        store.add_skill(skill("two", &format!("skill-{number}"), "a")).await.expect("added");
    }
    let more = store.add_skill(skill("two", "more", "a")).await;
    assert!(matches!(more, Err(StoreError::Conflict(_))), "{more:?}");
    for version in 2..=50 {
        let (added, _) = store.add_skill(skill("two", "skill-0", &version.to_string())).await.expect("added");
        assert_eq!(added.version, version);
    }
    assert!(matches!(store.add_skill(skill("two", "skill-0", "51")).await, Err(StoreError::Conflict(_))));
    let of_bytes = |bytes| NewSkill { bytes, ..skill("one", "huge", "h") };
    let too_much = store.add_skill(of_bytes((256 << 20) - 1)).await;
    assert!(matches!(too_much, Err(StoreError::Conflict(_))), "the versions of a tenant have a total: {too_much:?}");
    store.add_skill(of_bytes((256 << 20) - 2)).await.expect("all that is left");
    store.delete_tenant("one").await.expect("deleted");
    assert!(store.skills("one").await.expect("read").is_empty(), "they go with their tenant");
    store.close().await;
}

async fn uploads_at_once_keep_the_limits(home: &Home) {
    let store = store(home).await;
    for number in 1..=45 {
        store.add_skill(skill("one", "pricing", &number.to_string())).await.expect("added");
    }
    let more: Vec<String> = (46..=65).map(|number| number.to_string()).collect();
    let uploads = more.iter().map(|content| store.add_skill(skill("one", "pricing", content)));
    let uploads = futures::future::join_all(uploads).await;
    let added: Vec<i64> = uploads.iter().flatten().map(|(added, _)| added.version).collect();
    assert_eq!(added.len(), 5, "{uploads:?}");
    let refused = uploads.iter().filter(|upload| matches!(upload, Err(StoreError::Conflict(_)))).count();
    assert_eq!(refused, 15, "{uploads:?}");
    store.close().await;
}
