//! Redis that is down, paused, flushed, restarted, full or protected by another password: the error, its delay, and the recovery.

use std::time::{Duration, Instant};

use nagaya_fixtures::redis::RedisServer;
use nagaya_workspace::state::{Redis, State, StateError};

use crate::support::{DEPLOYMENT, record, redis};

/// Deadline for a call: longer than the client's own, because the machine may be busy.
const ANSWERED: Duration = Duration::from_secs(10);

async fn recovers(state: &Redis) {
    let recovery = async {
        while state.ping().await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(ANSWERED, recovery).await.expect("recovers without a restart");
}

#[tokio::test]
async fn a_stopped_redis_is_reported_as_unavailable_and_used_again_once_it_is_back() {
    let mut server = RedisServer::start().expect("a Redis");
    let state = redis(&server.url());
    server.kill().expect("ends");
    for _ in 0..20 {
        let error = state.ping().await.expect_err("Redis is down");
        assert!(matches!(&error, StateError::Unavailable { address, .. } if *address == format!("{}/0", server.url())));
    }
    server.start_again().expect("starts");
    recovers(&state).await;
    state.put_owned(&record("a", Some("c"), "me")).await.expect("writes");
    server.start_again().expect("starts");
    // The first call may find the old connection closed; no write is reported that was not made.
    recovers(&state).await;
    assert_eq!(state.records().await.expect("reads"), []);
    state.put_owned(&record("a", Some("c"), "me")).await.expect("writes, with scripts that are gone");
}

#[tokio::test]
async fn calls_to_a_paused_redis_time_out() {
    let server = RedisServer::start().expect("a Redis");
    let state = redis(&server.url());
    state.ping().await.expect("answers");
    server.pause().expect("pauses");
    let began = Instant::now();
    let calls = futures::future::join_all((0..50).map(|_| state.record_by_conversation("c"))).await;
    assert!(calls.iter().all(Result::is_err));
    assert!(began.elapsed() < ANSWERED, "{:?}", began.elapsed());
    assert!(calls.into_iter().any(|call| call.expect_err("fails").to_string().contains("no answer")));
    server.resume().expect("continues");
    recovers(&state).await;
}

#[tokio::test]
async fn a_flush_starts_a_new_epoch() {
    let server = RedisServer::start().expect("a Redis");
    let state = redis(&server.url());
    let epoch = state.epoch().await.expect("answers");
    server.flush().expect("flushes");
    let next = state.epoch().await.expect("answers");
    assert!(!next.is_empty() && next != epoch);
}

#[tokio::test]
async fn a_missing_or_wrong_password_is_reported_and_its_correction_needs_no_restart() {
    let server = RedisServer::start_with_password("hunter2").expect("a Redis");
    let state = redis(&server.url());
    let error = state.ping().await.expect_err("refused");
    assert!(matches!(error, StateError::Refused { .. }), "{error:?}");
    assert!(error.to_string().contains("REDIS_URL"), "{error}");
    // With a wrong password; once Redis accepts it, the same client gets in.
    let state = redis(&format!("{}?pass=other", server.url()));
    let error = state.ping().await.expect_err("refused");
    assert!(matches!(error, StateError::Refused { .. }), "{error:?}");
    assert!(!error.to_string().contains("other?") && !error.to_string().contains("pass=other"), "{error}");
    server.command("CONFIG SET requirepass other").expect("changes");
    recovers(&state).await;
}

#[tokio::test]
async fn a_full_redis_refuses_writes_until_it_has_room() {
    let server = RedisServer::start().expect("a Redis");
    let state = redis(&server.url());
    state.ping().await.expect("answers");
    server.command("CONFIG SET maxmemory 1").expect("changes");
    let error = state.put_owned(&record("a", None, "me")).await.expect_err("full");
    assert!(error.to_string().contains("OOM"), "{error}");
    server.command("CONFIG SET maxmemory 0").expect("changes");
    state.put_owned(&record("a", None, "me")).await.expect("writes");
}

#[tokio::test]
async fn a_key_of_another_type_is_moved_to_quarantine() {
    let server = RedisServer::start().expect("a Redis");
    let state = redis(&server.url());
    state.put_owned(&record("a", Some("c"), "me")).await.expect("writes");
    state.put_owned(&record("b", Some("d"), "me")).await.expect("writes");
    let key = |kind: &str| format!("nagaya:{{{DEPLOYMENT}}}:{kind}");
    for (kind, workspace) in [("room:a", "a"), ("conversation:d", "b")] {
        server.command(&format!("DEL {}", key(kind))).expect("deletes");
        server.command(&format!("LPUSH {} x", key(kind))).expect("pushes");
        assert!(state.record_by_conversation(if workspace == "a" { "c" } else { "d" }).await.expect("reads").is_none());
    }
    assert_eq!(state.records().await.expect("reads"), [record("b", Some("d"), "me")]);
    assert_eq!(server.command(&format!("TYPE {}", key("quarantine:a"))).expect("asks"), "list");
    state.put_owned(&record("b", Some("d"), "me")).await.expect("the conversation's key is written again");
    assert_eq!(state.record_by_conversation("d").await.expect("reads"), Some(record("b", Some("d"), "me")));
}

#[tokio::test]
async fn records_that_are_not_refreshed_expire() {
    let server = RedisServer::start().expect("a Redis");
    let state = redis(&server.url());
    let kept = record("a", Some("c"), "me");
    state.put_owned(&kept).await.expect("writes");
    let keys = ["room:a", "conversation:c", "rooms"].map(|kind| format!("nagaya:{{{DEPLOYMENT}}}:{kind}"));
    let left = |key: &str| server.command(&format!("PTTL {key}")).expect("asks").parse::<i64>().expect("a number");
    for key in &keys {
        assert!(left(key) > 0, "{key} does not expire");
        server.command(&format!("PEXPIRE {key} 50000")).expect("shortens");
    }
    state.refresh(&[kept]).await.expect("refreshes");
    for key in &keys {
        assert!(left(key) > 50_000, "{key} was not refreshed");
        server.command(&format!("PEXPIRE {key} 1")).expect("shortens");
    }
    let gone = async {
        while !state.records().await.expect("reads").is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(ANSWERED, gone).await.expect("expires");
    assert_eq!(state.record_by_conversation("c").await.expect("reads"), None);
}
