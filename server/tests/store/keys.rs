//! Keys and idempotent requests in the store.

use std::time::Duration;

use jiff::Timestamp;
use nagaya_server::conversation::store::{
    Attempt, Claimed, Database, KeptAnswer, KeyChange, MOST_KEYS, NewKey, NewTenant, Scope, Store, StoreError,
};
use sqlx::{Connection, Executor};

use crate::Home;

over_both! {
    keys_belong_to_their_owner_and_every_change_is_noticed,
    a_rotated_key_ends_after_the_overlap_and_a_revoked_one_at_once,
    an_owner_has_a_limited_number_of_keys,
    the_last_operators_key_stays,
    keys_go_with_their_tenant,
    of_many_claims_one_wins_and_the_answer_is_kept,
    a_claim_that_is_not_confirmed_is_taken_over,
}

fn key(owner: Option<&str>, hash: &str, scopes: &[Scope], expires_at: Option<Timestamp>) -> NewKey {
    NewKey {
        tenant_id: owner.map(Into::into),
        name: "a 'name'".into(),
        prefix: "nag_abc".into(),
        hash: hash.into(),
        scopes: scopes.to_vec(),
        expires_at,
    }
}

/// A second connection to the database.
async fn beside(home: &Home) -> sqlx::AnyConnection {
    let url = match home.database() {
        Database::Sqlite(path) => format!("sqlite://{}", url::Url::from_file_path(path).expect("a path").path()),
        Database::Postgres(url) => url.into(),
    };
    sqlx::AnyConnection::connect(&url).await.expect("connects")
}

async fn with_tenant(home: &Home) -> Store {
    let store = home.open().await;
    let tenant = NewTenant { tenant_id: "acme".into(), system_prompt: None, model_id: None };
    store.create_tenant(tenant).await.expect("created");
    store
}

fn in_an_hour() -> Timestamp {
    Timestamp::now() + Duration::from_secs(3600)
}

async fn keys_belong_to_their_owner_and_every_change_is_noticed(home: &Home) {
    let store = with_tenant(home).await;
    let first = store.key_changes(None).await.expect("read");
    assert!(first.all && first.keys.is_empty() && !first.required);
    let mut seen = Some((first.changes, first.deletions));

    let end = in_an_hour();
    let theirs =
        store.create_key(key(Some("acme"), "h1", &[Scope::Run, Scope::Read], Some(end))).await.expect("created");
    assert_eq!((theirs.scopes.as_slice(), theirs.tenant_id.as_deref()), (&[Scope::Run, Scope::Read][..], Some("acme")));
    let ours = store.create_key(key(None, "h2", &[Scope::Admin], None)).await.expect("created");
    assert!(matches!(store.key(None, &theirs.key_id).await, Err(StoreError::NotFound("key"))));
    assert!(matches!(store.key(Some("other"), &theirs.key_id).await, Err(StoreError::NotFound("key"))));
    assert_eq!(store.key(Some("acme"), &theirs.key_id).await.expect("found"), theirs);
    assert_eq!(store.keys(None).await.expect("listed"), std::slice::from_ref(&ours));
    let taken = store.create_key(key(None, "h1", &[Scope::Read], None)).await;
    assert!(matches!(taken, Err(StoreError::Conflict(_))), "{taken:?}");
    let nobody = store.create_key(key(Some("nobody"), "h3", &[Scope::Read], None)).await;
    assert!(matches!(nobody, Err(StoreError::NotFound("tenant"))), "{nobody:?}");

    let news = store.key_changes(seen).await.expect("read");
    assert!(!news.all && news.required && news.keys.len() == 2, "{news:?}");
    seen = Some((news.changes, news.deletions));
    assert!(store.key_changes(seen).await.expect("read").keys.is_empty());
    let change = KeyChange { name: Some("new".into()), scopes: Some(vec![Scope::Files]), expires_at: Some(None) };
    let changed = store.update_key(Some("acme"), &theirs.key_id, change, false).await.expect("changed");
    assert_eq!((changed.name.as_str(), changed.expires_at), ("new", None));
    let news = store.key_changes(seen).await.expect("read");
    assert_eq!(news.keys.iter().map(|known| (&known.key, known.hash.as_str())).collect::<Vec<_>>(), [(&changed, "h1")]);

    // A use is no change.
    let used = Timestamp::from_microsecond(1_700_000_000_000_000).expect("a time");
    let uses = [(theirs.key_id.clone(), used), (theirs.key_id.clone(), used - Duration::from_secs(9))];
    store.keys_used(&uses).await.expect("written");
    assert_eq!(store.key(Some("acme"), &theirs.key_id).await.expect("found").last_used_at, Some(used));
    assert!(store.key_changes(Some((news.changes, news.deletions))).await.expect("read").keys.is_empty());
}

async fn a_rotated_key_ends_after_the_overlap_and_a_revoked_one_at_once(home: &Home) {
    let store = with_tenant(home).await;
    let old = store.create_key(key(Some("acme"), "h1", &[Scope::Run], None)).await.expect("created");
    let overlap = in_an_hour();
    let new =
        store.rotate_key(&old.key_id, key(Some("acme"), "h2", &[Scope::Run], None), overlap).await.expect("rotated");
    let end = store.key(Some("acme"), &old.key_id).await.expect("found").expires_at.expect("an end");
    assert_eq!(end.as_microsecond(), overlap.as_microsecond());
    // An end that is nearer stays.
    store
        .rotate_key(&old.key_id, key(Some("acme"), "h3", &[Scope::Run], None), overlap + Duration::from_secs(9))
        .await
        .expect("rotated");
    assert_eq!(store.key(Some("acme"), &old.key_id).await.expect("found").expires_at, Some(end));

    assert!(store.revoke_key(Some("acme"), &new.key_id, false).await.expect("revoked"));
    assert!(!store.revoke_key(Some("acme"), &new.key_id, false).await.expect("again"));
    let revoked = store.key(Some("acme"), &new.key_id).await.expect("found");
    assert!(revoked.revoked_at.is_some() && !revoked.is_live(Timestamp::now()));
    let late = store.update_key(Some("acme"), &new.key_id, KeyChange::default(), false).await;
    assert!(matches!(late, Err(StoreError::Conflict(_))), "{late:?}");
    let late = store.rotate_key(&new.key_id, key(Some("acme"), "h4", &[Scope::Run], None), overlap).await;
    assert!(matches!(late, Err(StoreError::Conflict(_))), "{late:?}");
}

async fn an_owner_has_a_limited_number_of_keys(home: &Home) {
    let store = with_tenant(home).await;
    let mut last = String::new();
    for number in 0..MOST_KEYS {
        last = store
            .create_key(key(Some("acme"), &format!("h{number}"), &[Scope::Run], None))
            .await
            .expect("created")
            .key_id;
    }
    let more = store.create_key(key(Some("acme"), "more", &[Scope::Run], None)).await;
    assert!(matches!(more, Err(StoreError::Conflict(_))), "{more:?}");
    // Rotation replaces one of them.
    store.rotate_key(&last, key(Some("acme"), "new", &[Scope::Run], None), in_an_hour()).await.expect("rotated");
    store.create_key(key(None, "operators", &[Scope::Admin], None)).await.expect("of another owner");
    for key in store.keys(Some("acme")).await.expect("listed") {
        store.revoke_key(Some("acme"), &key.key_id, false).await.expect("revoked");
    }
    // Of those that are revoked, the latest hundred are kept.
    store.create_key(key(Some("acme"), "after", &[Scope::Run], None)).await.expect("created");
    assert_eq!(store.keys(Some("acme")).await.expect("listed").len(), 101);
}

async fn the_last_operators_key_stays(home: &Home) {
    let store = with_tenant(home).await;
    let one = store.create_key(key(None, "h1", &[Scope::Admin, Scope::Run], None)).await.expect("created");
    store.create_key(key(None, "h2", &[Scope::Read], None)).await.expect("created");
    store.create_key(key(None, "h3", &[Scope::Admin], Some(in_an_hour()))).await.expect("created");
    store.create_key(key(Some("acme"), "h4", &[Scope::Admin], None)).await.expect("created");
    let refused = store.revoke_key(None, &one.key_id, true).await;
    assert!(matches!(refused, Err(StoreError::Conflict(_))), "{refused:?}");
    for change in [
        KeyChange { scopes: Some(vec![Scope::Run]), ..KeyChange::default() },
        KeyChange { expires_at: Some(Some(in_an_hour())), ..KeyChange::default() },
    ] {
        let refused = store.update_key(None, &one.key_id, change, true).await;
        assert!(matches!(refused, Err(StoreError::Conflict(_))), "{refused:?}");
    }
    let named = KeyChange { name: Some("named".into()), ..KeyChange::default() };
    store.update_key(None, &one.key_id, named, true).await.expect("a name may change");
    let other = store.create_key(key(None, "h5", &[Scope::Admin], None)).await.expect("created");
    assert!(store.revoke_key(None, &one.key_id, true).await.expect("another one is left"));
    assert!(store.revoke_key(None, &other.key_id, false).await.expect("API_KEYS lead back"));
}

async fn keys_go_with_their_tenant(home: &Home) {
    let store = with_tenant(home).await;
    store.create_key(key(Some("acme"), "h1", &[Scope::Run], None)).await.expect("created");
    let before = store.key_changes(None).await.expect("read");
    assert!(store.delete_tenant("nobody").await.is_err());
    let unchanged = store.key_changes(Some((before.changes, before.deletions))).await.expect("read");
    assert_eq!((unchanged.changes, unchanged.all), (before.changes, false));
    store.delete_tenant("acme").await.expect("deleted");
    let after = store.key_changes(Some((before.changes, before.deletions))).await.expect("read");
    assert!(after.all && after.keys.is_empty() && !after.required, "{after:?}");
}

fn attempt(slot: &str, tenant: Option<&str>, body: Option<&str>) -> Attempt {
    Attempt { slot: slot.into(), tenant_id: tenant.map(Into::into), route: "r".into(), body: body.map(Into::into) }
}

async fn of_many_claims_one_wins_and_the_answer_is_kept(home: &Home) {
    let store = with_tenant(home).await;
    let nobody = store.claim(&attempt("s0", Some("nobody"), None)).await;
    assert!(matches!(nobody, Err(StoreError::NotFound("tenant"))), "{nobody:?}");
    let request = attempt("s1", Some("acme"), None);
    let claims = futures::future::join_all((0..8).map(|_| store.claim(&request))).await;
    let mut won = Vec::new();
    for claim in claims {
        match claim.expect("claimed or not") {
            Claimed::Yes(claim) => won.push(claim),
            Claimed::No(earlier) => assert!(earlier.answer.is_none() && earlier.body.is_none(), "{earlier:?}"),
        }
    }
    let [claim] = won.as_slice() else { panic!("{won:?}") };
    assert!(store.confirm(claim, Some("b"), Some("run")).await.expect("confirmed"));
    let answer = KeptAnswer { status: 201, headers: "{}".into(), body: Some("{\"é\": 1}".into()) };
    assert!(store.keep_answer(claim, None, &answer).await.expect("kept"));
    let Claimed::No(earlier) = store.claim(&request).await.expect("looked up") else { panic!("claimed again") };
    assert_eq!((earlier.body.as_deref(), earlier.run_id.as_deref()), (Some("b"), Some("run")));
    assert_eq!(earlier.answer, Some(answer));

    // After a day the key can be used again.
    let mut other = beside(home).await;
    other.execute("UPDATE idempotency SET expires_at = 5").await.expect("aged");
    let Claimed::Yes(again) = store.claim(&request).await.expect("claimed") else {
        panic!("kept for longer than a day")
    };
    assert_eq!(again.run_id, None);
    store.forget(&again).await.expect("forgotten");
    assert!(matches!(store.claim(&request).await.expect("claimed"), Claimed::Yes(_)));
    other.execute("UPDATE idempotency SET expires_at = 5").await.expect("aged");
    assert!(store.sweep_answers().await.expect("swept").is_empty());
    let left: i64 =
        sqlx::query_scalar("SELECT COUNT(*) FROM idempotency").fetch_one(&mut other).await.expect("counted");
    assert_eq!(left, 0);
    store.claim(&attempt("s2", None, Some("b"))).await.expect("claimed");
    store.claim(&attempt("s3", Some("acme"), Some("b"))).await.expect("claimed");
    other.execute("UPDATE idempotency SET bytes = 100000000").await.expect("grown");
    let mut full = store.sweep_answers().await.expect("swept");
    full.sort();
    assert_eq!(full, ["", "acme"]);
    store.delete_tenant("acme").await.expect("deleted with its answers");
}

async fn a_claim_that_is_not_confirmed_is_taken_over(home: &Home) {
    let store = with_tenant(home).await;
    let request = attempt("s1", None, Some("b"));
    let Claimed::Yes(dead) = store.claim(&request).await.expect("claimed") else { panic!("not claimed") };
    assert!(store.confirm(&dead, None, Some("run")).await.expect("confirmed"));
    let mut other = beside(home).await;
    other.execute("UPDATE idempotency SET claimed_at = claimed_at - 61000000").await.expect("aged");
    // Another request never takes it over.
    let another = Attempt { route: "another".into(), ..request.clone() };
    assert!(matches!(store.claim(&another).await.expect("looked up"), Claimed::No(_)));
    let another = Attempt { body: Some("another".into()), ..request.clone() };
    assert!(matches!(store.claim(&another).await.expect("looked up"), Claimed::No(_)));
    let Claimed::Yes(next) = store.claim(&request).await.expect("claimed") else { panic!("not taken over") };
    assert_eq!(next.run_id.as_deref(), Some("run"), "what the dead server may have started is known");
    let answer = KeptAnswer { status: 201, headers: "{}".into(), body: None };
    assert!(!store.keep_answer(&dead, None, &answer).await.expect("refused"));
    assert!(!store.confirm(&dead, None, None).await.expect("refused"));
    store.forget(&dead).await.expect("nothing to forget");
    assert!(store.keep_answer(&next, None, &answer).await.expect("kept"));
}
