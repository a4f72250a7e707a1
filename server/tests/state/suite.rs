//! What holds wherever state is kept.

use std::time::Duration;

use nagaya_workspace::state::{PoolSize, WriteOutcome};

use crate::support::{Place, record};

const LONG: Duration = Duration::from_secs(100);

/// Each of these once over a file, once over Redis.
macro_rules! over_both {
    ($($test:ident)*) => {
        mod file { $(#[tokio::test] async fn $test() { super::$test(super::Place::file()).await; })* }
        mod redis { $(#[tokio::test] async fn $test() { super::$test(super::Place::redis()).await; })* }
    };
}

over_both! {
    a_record_comes_back_to_another_server
    a_change_needs_to_know_what_it_changes
    of_many_that_claim_a_room_one_gets_it
    a_conversation_has_one_room
    an_owner_is_not_written_over
    a_corrupt_record_harms_no_other_and_is_told_of
    a_corrupt_record_can_be_written_anew
    a_room_whose_record_was_corrupt_keeps_its_conversation_from_nothing
    any_text_comes_back
    a_lock_has_one_holder
    a_lock_ends_by_itself
    the_pool_is_everybodys
    an_epoch_stays
}

async fn a_record_comes_back_to_another_server(place: Place) {
    let state = place.open().await;
    assert_eq!(state.put_owned(&record("a", None, "me")).await.expect("writes"), WriteOutcome::Written);
    assert_eq!(state.put_owned(&record("a", Some("c"), "me")).await.expect("overwrites"), WriteOutcome::Written);
    state.put_owned(&record("b", None, "me")).await.expect("writes");
    state.delete_owned("b", "me").await.expect("deletes");
    state.delete_owned("b", "me").await.expect("once more");
    state.close().await;
    let again = place.open().await;
    assert_eq!(again.records().await.expect("reads"), [record("a", Some("c"), "me")]);
    assert_eq!(again.record("a").await.expect("reads"), Some(record("a", Some("c"), "me")));
    assert_eq!(again.record_by_conversation("c").await.expect("reads"), Some(record("a", Some("c"), "me")));
    assert_eq!(again.record_by_conversation("d").await.expect("reads"), None);
    again.refresh(&[record("a", Some("c"), "me")]).await.expect("refreshes");
    again.close().await;
}

async fn a_change_needs_to_know_what_it_changes(place: Place) {
    let state = place.open().await;
    let (first, second) = (record("a", Some("c"), "one"), record("a", Some("c"), "two"));
    assert_eq!(state.compare_and_set("a", Some(&first), Some(&second)).await.expect("answers"), WriteOutcome::Conflict);
    assert_eq!(state.compare_and_set("a", None, Some(&first)).await.expect("answers"), WriteOutcome::Written);
    assert_eq!(state.compare_and_set("a", None, Some(&second)).await.expect("answers"), WriteOutcome::Conflict);
    assert_eq!(state.compare_and_set("a", Some(&second), None).await.expect("answers"), WriteOutcome::Conflict);
    assert_eq!(state.compare_and_set("a", Some(&first), Some(&second)).await.expect("answers"), WriteOutcome::Written);
    assert_eq!(state.record_by_conversation("c").await.expect("reads"), Some(second.clone()));
    // The occupant goes: the conversation's way to the room goes with it.
    let empty = record("a", None, "two");
    assert_eq!(state.compare_and_set("a", Some(&second), Some(&empty)).await.expect("answers"), WriteOutcome::Written);
    assert_eq!(state.record_by_conversation("c").await.expect("reads"), None);
    assert_eq!(state.compare_and_set("a", Some(&empty), None).await.expect("answers"), WriteOutcome::Written);
    assert_eq!(state.records().await.expect("reads"), []);
    state.close().await;
}

async fn of_many_that_claim_a_room_one_gets_it(place: Place) {
    let dead = record("a", Some("c"), "dead");
    let first = place.open().await;
    first.put_owned(&dead).await.expect("writes");
    let claims = futures::future::join_all((0..8).map(|n| {
        let (place, dead) = (&place, dead.clone());
        async move {
            let state = place.open().await;
            let swap = state.compare_and_set("a", Some(&dead), Some(&record("a", Some("c"), &format!("{n}")))).await;
            state.close().await;
            swap.expect("answers")
        }
    }));
    let done = claims.await.into_iter().filter(|swap| *swap == WriteOutcome::Written).count();
    assert_eq!(done, 1);
    first.close().await;
}

async fn a_conversation_has_one_room(place: Place) {
    let state = place.open().await;
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

async fn an_owner_is_not_written_over(place: Place) {
    let state = place.open().await;
    state.put_owned(&record("a", Some("c"), "one")).await.expect("writes");
    assert_eq!(state.put_owned(&record("a", Some("d"), "two")).await.expect("answers"), WriteOutcome::Conflict);
    state.delete_owned("a", "two").await.expect("answers");
    assert_eq!(state.record("a").await.expect("reads"), Some(record("a", Some("c"), "one")));
    state.close().await;
}

async fn a_corrupt_record_harms_no_other_and_is_told_of(place: Place) {
    let state = place.open().await;
    for (workspace, conversation) in [("a", "c"), ("b", "d"), ("e", "f")] {
        state.put_owned(&record(workspace, Some(conversation), "me")).await.expect("writes");
    }
    assert_eq!(state.quarantined(), None);
    place.corrupt("a").await;
    assert_eq!(state.record_by_conversation("c").await.expect("reads"), None);
    assert!(state.quarantined().is_some_and(|told| told.contains("1, the last of a")), "{:?}", state.quarantined());
    place.corrupt("b").await;
    assert_eq!(state.records().await.expect("reads"), [record("e", Some("f"), "me")]);
    assert_eq!(state.record("b").await.expect("reads"), None);
    assert!(state.quarantined().is_some_and(|told| told.contains("2, the last of b")), "{:?}", state.quarantined());
    assert_eq!(state.record_by_conversation("f").await.expect("reads"), Some(record("e", Some("f"), "me")));
    state.close().await;
}

async fn a_corrupt_record_can_be_written_anew(place: Place) {
    let state = place.open().await;
    state.put_owned(&record("a", Some("c"), "me")).await.expect("writes");
    place.corrupt("a").await;
    assert_eq!(state.put_owned(&record("a", Some("c"), "me")).await.expect("writes"), WriteOutcome::Written);
    assert_eq!(state.record_by_conversation("c").await.expect("reads"), Some(record("a", Some("c"), "me")));
    place.corrupt("a").await;
    // Its conversation is not kept from having another.
    assert_eq!(state.record("a").await.expect("reads"), None);
    assert_eq!(state.put_owned(&record("b", Some("c"), "me")).await.expect("writes"), WriteOutcome::Written);
    state.close().await;
}

async fn a_room_whose_record_was_corrupt_keeps_its_conversation_from_nothing(place: Place) {
    let state = place.open().await;
    state.put_owned(&record("a", Some("c"), "me")).await.expect("writes");
    place.corrupt("a").await;
    assert_eq!(state.records().await.expect("reads"), []);
    // The collector claims what is left of the room, while the conversation already gets another.
    assert_eq!(
        state.compare_and_set("a", None, Some(&record("a", None, "me"))).await.expect("answers"),
        WriteOutcome::Written
    );
    assert_eq!(state.put_owned(&record("b", Some("c"), "me")).await.expect("writes"), WriteOutcome::Written);
    assert_eq!(state.record_by_conversation("c").await.expect("reads"), Some(record("b", Some("c"), "me")));
    state.delete_owned("a", "me").await.expect("deletes");
    assert_eq!(state.record_by_conversation("c").await.expect("reads"), Some(record("b", Some("c"), "me")));
    state.close().await;
}

async fn any_text_comes_back(place: Place) {
    let state = place.open().await;
    for (n, text) in ["", " ", "\"", "\\", "\n\r\t", "長屋 🏠", "a:b{c}", "' OR 1=1", "*"].into_iter().enumerate() {
        let kept = record(&format!("{n:016x}"), Some(text), text);
        assert_eq!(state.put_owned(&kept).await.expect("writes"), WriteOutcome::Written, "{text:?}");
        assert_eq!(state.record_by_conversation(text).await.expect("reads"), Some(kept), "{text:?}");
    }
    assert_eq!(state.records().await.expect("reads").len(), 9);
    state.close().await;
}

async fn a_lock_has_one_holder(place: Place) {
    let (one, two) = (place.open().await, place.open().await);
    assert_eq!(one.lock("c", "1", None, LONG).await.expect("answers"), None);
    assert_eq!(one.lock("c", "1", None, LONG).await.expect("answers"), None, "the holder may have it again");
    assert_eq!(two.lock("c", "2", None, LONG).await.expect("answers"), Some("1".into()));
    assert_eq!(two.lock("c", "2", Some("3"), LONG).await.expect("answers"), Some("1".into()));
    assert_eq!(two.lock("d", "2", None, LONG).await.expect("answers"), None, "another conversation");
    two.unlock("c", "2").await.expect("answers");
    assert_eq!(two.lock("c", "2", None, LONG).await.expect("answers"), Some("1".into()), "not its to give up");
    assert_eq!(two.lock("c", "2", Some("1"), LONG).await.expect("answers"), None, "the holder is dead");
    assert_eq!(one.lock("c", "1", None, LONG).await.expect("answers"), Some("2".into()));
    two.unlock("c", "2").await.expect("answers");
    assert_eq!(one.lock("c", "1", None, LONG).await.expect("answers"), None);
    one.close().await;
    two.close().await;
}

async fn a_lock_ends_by_itself(place: Place) {
    let state = place.open().await;
    assert_eq!(state.lock("c", "1", None, Duration::from_millis(20)).await.expect("answers"), None);
    let free = async {
        while state.lock("c", "2", None, LONG).await.expect("answers").is_some() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), free).await.expect("the lock ends");
    state.close().await;
}

async fn the_pool_is_everybodys(place: Place) {
    let (one, two) = (place.open().await, place.open().await);
    assert_eq!(one.pool().await.expect("reads"), None);
    for size in [PoolSize { min: 3, max: 5 }, PoolSize { min: 0, max: 0 }] {
        one.set_pool(size).await.expect("sets");
        assert_eq!(two.pool().await.expect("reads"), Some(size));
    }
    one.close().await;
    two.close().await;
}

async fn an_epoch_stays(place: Place) {
    let (one, two) = (place.open().await, place.open().await);
    let epoch = one.epoch().await.expect("answers");
    assert!(!epoch.is_empty());
    assert_eq!(two.epoch().await.expect("answers"), epoch);
    one.close().await;
    two.close().await;
}
