//! The suite that every implementation of the state must pass.

use std::time::Duration;

use nagaya_workspace::state::{PoolSize, WriteOutcome};

use crate::support::{Backend, record};

const LONG: Duration = Duration::from_secs(100);

/// Declares each test once over a file and once over Redis.
macro_rules! over_both {
    ($($test:ident)*) => {
        mod file { $(#[tokio::test] async fn $test() { super::$test(super::Backend::file()).await; })* }
        mod redis { $(#[tokio::test] async fn $test() { super::$test(super::Backend::redis()).await; })* }
    };
}

over_both! {
    another_server_reads_a_written_record
    a_swap_needs_the_current_record
    of_many_claims_of_a_room_one_succeeds
    a_conversation_cannot_have_two_rooms
    another_owners_record_is_neither_overwritten_nor_deleted
    a_corrupt_record_is_reported_and_affects_no_other
    a_corrupt_record_can_be_written_again
    a_room_with_a_corrupt_record_does_not_block_its_conversation
    any_text_is_read_back_unchanged
    a_lock_has_one_holder
    a_lock_expires
    every_server_sees_the_pool_size
    all_servers_see_one_epoch
}

async fn another_server_reads_a_written_record(backend: Backend) {
    let state = backend.open().await;
    assert_eq!(state.put_owned(&record("a", None, "me")).await.expect("writes"), WriteOutcome::Written);
    assert_eq!(state.put_owned(&record("a", Some("c"), "me")).await.expect("overwrites"), WriteOutcome::Written);
    state.put_owned(&record("b", None, "me")).await.expect("writes");
    state.delete_owned("b", "me").await.expect("deletes");
    state.delete_owned("b", "me").await.expect("deletes again");
    state.close().await;
    let again = backend.open().await;
    assert_eq!(again.records().await.expect("reads"), [record("a", Some("c"), "me")]);
    assert_eq!(again.record("a").await.expect("reads"), Some(record("a", Some("c"), "me")));
    assert_eq!(again.record_by_conversation("c").await.expect("reads"), Some(record("a", Some("c"), "me")));
    assert_eq!(again.record_by_conversation("d").await.expect("reads"), None);
    again.refresh(&[record("a", Some("c"), "me")]).await.expect("refreshes");
    again.close().await;
}

async fn a_swap_needs_the_current_record(backend: Backend) {
    let state = backend.open().await;
    let (first, second) = (record("a", Some("c"), "one"), record("a", Some("c"), "two"));
    assert_eq!(state.compare_and_set("a", Some(&first), Some(&second)).await.expect("answers"), WriteOutcome::Conflict);
    assert_eq!(state.compare_and_set("a", None, Some(&first)).await.expect("answers"), WriteOutcome::Written);
    assert_eq!(state.compare_and_set("a", None, Some(&second)).await.expect("answers"), WriteOutcome::Conflict);
    assert_eq!(state.compare_and_set("a", Some(&second), None).await.expect("answers"), WriteOutcome::Conflict);
    assert_eq!(state.compare_and_set("a", Some(&first), Some(&second)).await.expect("answers"), WriteOutcome::Written);
    assert_eq!(state.record_by_conversation("c").await.expect("reads"), Some(second.clone()));
    // Without its occupant, the room can no longer be found by the conversation.
    let empty = record("a", None, "two");
    assert_eq!(state.compare_and_set("a", Some(&second), Some(&empty)).await.expect("answers"), WriteOutcome::Written);
    assert_eq!(state.record_by_conversation("c").await.expect("reads"), None);
    assert_eq!(state.compare_and_set("a", Some(&empty), None).await.expect("answers"), WriteOutcome::Written);
    assert_eq!(state.records().await.expect("reads"), []);
    state.close().await;
}

async fn of_many_claims_of_a_room_one_succeeds(backend: Backend) {
    let dead = record("a", Some("c"), "dead");
    let first = backend.open().await;
    first.put_owned(&dead).await.expect("writes");
    let claims = futures::future::join_all((0..8).map(|n| {
        let (backend, dead) = (&backend, dead.clone());
        async move {
            let state = backend.open().await;
            let swap = state.compare_and_set("a", Some(&dead), Some(&record("a", Some("c"), &format!("{n}")))).await;
            state.close().await;
            swap.expect("answers")
        }
    }));
    let done = claims.await.into_iter().filter(|swap| *swap == WriteOutcome::Written).count();
    assert_eq!(done, 1);
    first.close().await;
}

async fn a_conversation_cannot_have_two_rooms(backend: Backend) {
    let state = backend.open().await;
    state.put_owned(&record("a", Some("c"), "one")).await.expect("writes");
    state.put_owned(&record("b", None, "two")).await.expect("writes");
    assert_eq!(
        state.put_owned(&record("b", Some("c"), "two")).await.expect("answers"),
        WriteOutcome::ConversationTaken
    );
    assert_eq!(state.record("b").await.expect("reads"), Some(record("b", None, "two")), "nothing was changed");
    state.delete_owned("a", "one").await.expect("deletes");
    assert_eq!(state.put_owned(&record("b", Some("c"), "two")).await.expect("answers"), WriteOutcome::Written);
    state.close().await;
}

async fn another_owners_record_is_neither_overwritten_nor_deleted(backend: Backend) {
    let state = backend.open().await;
    state.put_owned(&record("a", Some("c"), "one")).await.expect("writes");
    assert_eq!(state.put_owned(&record("a", Some("d"), "two")).await.expect("answers"), WriteOutcome::Conflict);
    state.delete_owned("a", "two").await.expect("answers");
    assert_eq!(state.record("a").await.expect("reads"), Some(record("a", Some("c"), "one")));
    state.close().await;
}

async fn a_corrupt_record_is_reported_and_affects_no_other(backend: Backend) {
    let state = backend.open().await;
    for (workspace, conversation) in [("a", "c"), ("b", "d"), ("e", "f")] {
        state.put_owned(&record(workspace, Some(conversation), "me")).await.expect("writes");
    }
    assert_eq!(state.quarantined(), None);
    backend.corrupt("a").await;
    assert_eq!(state.record_by_conversation("c").await.expect("reads"), None);
    assert!(state.quarantined().is_some_and(|report| report.contains("1, the last of a")), "{:?}", state.quarantined());
    backend.corrupt("b").await;
    assert_eq!(state.records().await.expect("reads"), [record("e", Some("f"), "me")]);
    assert_eq!(state.record("b").await.expect("reads"), None);
    assert!(state.quarantined().is_some_and(|report| report.contains("2, the last of b")), "{:?}", state.quarantined());
    assert_eq!(state.record_by_conversation("f").await.expect("reads"), Some(record("e", Some("f"), "me")));
    state.close().await;
}

async fn a_corrupt_record_can_be_written_again(backend: Backend) {
    let state = backend.open().await;
    state.put_owned(&record("a", Some("c"), "me")).await.expect("writes");
    backend.corrupt("a").await;
    assert_eq!(state.put_owned(&record("a", Some("c"), "me")).await.expect("writes"), WriteOutcome::Written);
    assert_eq!(state.record_by_conversation("c").await.expect("reads"), Some(record("a", Some("c"), "me")));
    backend.corrupt("a").await;
    // Its conversation can get another room.
    assert_eq!(state.record("a").await.expect("reads"), None);
    assert_eq!(state.put_owned(&record("b", Some("c"), "me")).await.expect("writes"), WriteOutcome::Written);
    state.close().await;
}

async fn a_room_with_a_corrupt_record_does_not_block_its_conversation(backend: Backend) {
    let state = backend.open().await;
    state.put_owned(&record("a", Some("c"), "me")).await.expect("writes");
    backend.corrupt("a").await;
    assert_eq!(state.records().await.expect("reads"), []);
    // The collector claims the remains of the room while the conversation gets another one.
    assert_eq!(
        state.compare_and_set("a", None, Some(&record("a", None, "me"))).await.expect("answers"),
        WriteOutcome::Written
    );
    assert_eq!(state.record_by_conversation("c").await.expect("reads"), None, "the remains are nobody's");
    assert_eq!(state.put_owned(&record("b", Some("c"), "me")).await.expect("writes"), WriteOutcome::Written);
    assert_eq!(state.record_by_conversation("c").await.expect("reads"), Some(record("b", Some("c"), "me")));
    state.delete_owned("a", "me").await.expect("deletes");
    assert_eq!(state.record_by_conversation("c").await.expect("reads"), Some(record("b", Some("c"), "me")));
    state.close().await;
}

async fn any_text_is_read_back_unchanged(backend: Backend) {
    let state = backend.open().await;
    for (n, text) in ["", " ", "\"", "\\", "\n\r\t", "長屋 🏠", "a:b{c}", "' OR 1=1", "*"].into_iter().enumerate() {
        let kept = record(&format!("{n:016x}"), Some(text), text);
        assert_eq!(state.put_owned(&kept).await.expect("writes"), WriteOutcome::Written, "{text:?}");
        assert_eq!(state.record_by_conversation(text).await.expect("reads"), Some(kept), "{text:?}");
    }
    assert_eq!(state.records().await.expect("reads").len(), 9);
    state.close().await;
}

async fn a_lock_has_one_holder(backend: Backend) {
    let (one, two) = (backend.open().await, backend.open().await);
    assert_eq!(one.lock("c", "1", None, LONG).await.expect("answers"), None);
    assert_eq!(one.lock("c", "1", None, LONG).await.expect("answers"), None, "the holder may lock again");
    assert_eq!(two.lock("c", "2", None, LONG).await.expect("answers"), Some("1".into()));
    assert_eq!(two.lock("c", "2", Some("3"), LONG).await.expect("answers"), Some("1".into()));
    assert_eq!(two.lock("d", "2", None, LONG).await.expect("answers"), None, "another conversation");
    two.unlock("c", "2").await.expect("answers");
    assert_eq!(two.lock("c", "2", None, LONG).await.expect("answers"), Some("1".into()), "only the holder can unlock");
    assert_eq!(two.lock("c", "2", Some("1"), LONG).await.expect("answers"), None, "the holder is dead");
    assert_eq!(one.lock("c", "1", None, LONG).await.expect("answers"), Some("2".into()));
    two.unlock("c", "2").await.expect("answers");
    assert_eq!(one.lock("c", "1", None, LONG).await.expect("answers"), None);
    one.close().await;
    two.close().await;
}

async fn a_lock_expires(backend: Backend) {
    let state = backend.open().await;
    assert_eq!(state.lock("c", "1", None, Duration::from_millis(20)).await.expect("answers"), None);
    let free = async {
        while state.lock("c", "2", None, LONG).await.expect("answers").is_some() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), free).await.expect("the lock ends");
    state.close().await;
}

async fn every_server_sees_the_pool_size(backend: Backend) {
    let (one, two) = (backend.open().await, backend.open().await);
    assert_eq!(one.pool().await.expect("reads"), None);
    for size in [PoolSize { min: 3, max: 5 }, PoolSize { min: 0, max: 0 }] {
        one.set_pool(size).await.expect("sets");
        assert_eq!(two.pool().await.expect("reads"), Some(size));
    }
    one.close().await;
    two.close().await;
}

async fn all_servers_see_one_epoch(backend: Backend) {
    let (one, two) = (backend.open().await, backend.open().await);
    let epoch = one.epoch().await.expect("answers");
    assert!(!epoch.is_empty());
    assert_eq!(two.epoch().await.expect("answers"), epoch);
    one.close().await;
    two.close().await;
}
