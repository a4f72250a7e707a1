//! The warm pool: its cost, its behaviour under faults, resizing; and the limit on the number of rooms.

use std::time::Duration;

use nagaya_workspace::engine::memory::{Call, Fault};
use nagaya_workspace::state::PoolSize;
use nagaya_workspace::{AcquireError, BuildError, Origin};

use crate::support::{Host, NO_POOL, Server, occupant};

const TWO: PoolSize = PoolSize { min: 2, max: 4 };

fn metric(server: &Server, name: &str) -> u64 {
    let reality = nagaya_telemetry::metrics::Counts::default();
    let page = String::from_utf8(server.metrics.render(reality, &[]).expect("renders")).expect("text");
    let line = page.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap_or_else(|| panic!("no {name}"));
    line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
}

fn pooled(server: &Server) -> usize {
    server.runtime.block_on(server.workspaces.counts()).warm_pool_size
}

fn start_with_full_pool(host: &Host, size: PoolSize) -> Server {
    let server = Server::start(host, size);
    server.until("a full pool", || server.pooled() == size.min);
    server
}

#[test]
fn a_warm_room_costs_no_call_to_the_engine() {
    let host = Host::new();
    let server = start_with_full_pool(&host, TWO);
    // Makes the refill that follows hang in its first call, so that it makes no others.
    host.engine.fail_always(Call::Run, Fault::Hang(Duration::from_secs(600)));
    drop(host.engine.take_calls());
    let lease = server.runtime.block_on(server.cluster.acquire(occupant("c"))).expect("a room");
    assert_eq!(lease.origin(), Origin::Warm);
    let calls = host.engine.take_calls();
    assert!(calls.iter().all(|call| *call == Call::Run), "{calls:?}");
    drop(lease);
    let again = server.runtime.block_on(server.cluster.acquire(occupant("c"))).expect("a room");
    assert_eq!(again.origin(), Origin::Reused);
    let calls = host.engine.take_calls();
    assert!(calls.iter().all(|call| *call == Call::Run), "{calls:?}");
}

#[test]
fn a_pooled_room_with_a_silent_agent_is_never_handed_out() {
    let host = Host::new();
    let server = start_with_full_pool(&host, TWO);
    let names: Vec<String> = host.containers().into_iter().map(|(name, _)| name).collect();
    names.iter().for_each(|name| host.engine.silence(name));
    let lease = server.runtime.block_on(server.cluster.acquire(occupant("c"))).expect("a room");
    assert!(!names.iter().any(|name| name.ends_with(lease.workspace_id())), "{} of {names:?}", lease.workspace_id());
    server.until("a full pool of other rooms", || {
        let there = host.containers();
        server.pooled() == 2 && !names.iter().any(|name| there.iter().any(|(other, _)| other == name))
    });
}

#[test]
fn collection_removes_a_pooled_room_with_a_silent_agent() {
    let host = Host::new();
    let server = start_with_full_pool(&host, TWO);
    let silent = host.containers()[0].0.clone();
    host.engine.silence(&silent);
    let report = server.runtime.block_on(server.cluster.collect());
    let reclaimed: Vec<_> = report.reclaimed.iter().map(|(id, why)| (id.container(), why.name())).collect();
    assert_eq!(reclaimed, [(silent, "unhealthy")]);
}

#[test]
fn a_pool_that_cannot_be_filled_reports_the_reason_and_recovers() {
    let host = Host::new();
    host.engine.lose_images();
    let server = Server::start(&host, TWO);
    server.until("two failures", || metric(&server, "workspace_warm_pool_refill_failures_total") >= 2);
    let trouble = server.workspaces.pool_problem().expect("a reason");
    assert!(trouble.contains("No such image"), "{trouble}");
    let tried = host.engine.take_calls().iter().filter(|call| **call == Call::Run).count();
    assert!(tried <= 8, "{tried} attempts without a pause");
    host.engine.clear_faults();
    server.until("a full pool", || server.pooled() == 2);
    server.until("no trouble", || server.workspaces.pool_problem().is_none());
}

#[test]
fn a_pool_that_cannot_be_filled_can_still_be_resized_and_drained() {
    let host = Host::new();
    let server = start_with_full_pool(&host, TWO);
    server.workspaces.set_pool_size(PoolSize { min: 5, max: 5 });
    server.until("five", || server.pooled() == 5);
    server.workspaces.set_pool_size(PoolSize { min: 0, max: 3 });
    server.until("three, the new maximum", || server.pooled() == 3 && host.containers().len() == 3);
    host.engine.lose_images();
    server.workspaces.set_pool_size(PoolSize { min: 9, max: 9 });
    let failures = metric(&server, "workspace_warm_pool_refill_failures_total");
    server.until("a failure", || metric(&server, "workspace_warm_pool_refill_failures_total") > failures);
    server.workspaces.set_pool_size(NO_POOL);
    server.until("an empty pool", || host.containers().is_empty() && server.entries().is_empty());
    assert_eq!(pooled(&server), 0);
    server.until("no trouble", || server.workspaces.pool_problem().is_none());
}

#[test]
fn a_conversation_gets_a_new_room_before_the_old_one_is_removed() {
    let host = Host::new();
    let server = start_with_full_pool(&host, TWO);
    let lease = server.runtime.block_on(server.cluster.acquire(occupant("c"))).expect("a room");
    let old = lease.workspace_id().to_owned();
    host.engine.fail_always(Call::Remove, Fault::Hang(Duration::from_secs(600)));
    let (_gone, lease) = server.runtime.block_on(server.cluster.replace(lease, nagaya_workspace::ReleaseReason::Dead));
    let lease = lease.expect("another room");
    assert_ne!(lease.workspace_id(), old);
    let bound = |records: Vec<nagaya_workspace::state::Record>| {
        records
            .into_iter()
            .filter(|record| record.occupant.is_some())
            .map(|record| record.workspace)
            .collect::<Vec<_>>()
    };
    assert_eq!(bound(server.runtime.block_on(host.records())), [lease.workspace_id()]);
}

#[test]
fn a_pool_size_set_by_an_operator_survives_a_restart() {
    let host = Host::new();
    let server = start_with_full_pool(&host, TWO);
    let size = PoolSize { min: 3, max: 5 };
    server.runtime.block_on(server.workspaces.resize_pool(size)).expect("resized");
    let shutdown = server.cluster.shutdown(nagaya_workspace::OnShutdown::Keep, crate::support::DEADLINE);
    server.runtime.block_on(shutdown);
    drop(server);
    let again = Server::start(&host, TWO);
    again.until("three", || again.pooled() == 3);
    assert_eq!(again.workspaces.pool_size(), size);
}

#[test]
fn the_limit_on_the_number_of_rooms_holds() {
    let host = Host::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut parts = runtime.block_on(host.parts(NO_POOL));
    parts.settings.max_rooms = 3;
    let server = Server::with(runtime, parts);
    let asked = (0..8).map(|n| server.cluster.acquire(occupant(&format!("c{n}")))).collect::<Vec<_>>();
    let (got, refused): (Vec<_>, Vec<_>) =
        server.runtime.block_on(futures::future::join_all(asked)).into_iter().partition(Result::is_ok);
    assert_eq!((got.len(), host.containers().len(), host.directories().len()), (3, 3, 3));
    for refusal in refused {
        let error = refusal.expect_err("refused");
        assert!(matches!(error, AcquireError::Build(BuildError::Full(3))), "{error}");
        assert!(error.is_unavailable(), "a client should try again");
    }
    assert!(server.runtime.block_on(server.cluster.admit(&occupant("c9"))).is_err());
    drop(got);
    let first = server.entries()[0].room.id.clone();
    let why = nagaya_workspace::ReleaseReason::Operator;
    server.runtime.block_on(server.workspaces.release(&first, why)).expect("released");
    server.runtime.block_on(server.cluster.admit(&occupant("c9"))).expect("admitted");
    server.runtime.block_on(server.cluster.acquire(occupant("c9"))).expect("a room");
}

#[test]
fn a_room_being_made_at_a_shutdown_is_kept_or_removed_like_the_others() {
    use nagaya_workspace::OnShutdown;
    // The shutdown comes a little later each time: before, during and after the start of the room's creation.
    for moment in 0..40 {
        for what in [OnShutdown::Keep, OnShutdown::Destroy] {
            let host = Host::new();
            let server = Server::start(&host, NO_POOL);
            let conversation = format!("{moment} {what:?}");
            let acquire = async { drop(server.cluster.acquire(occupant(&conversation)).await) };
            let stop = async {
                let began = std::time::Instant::now();
                while began.elapsed() < Duration::from_micros(20 * moment) {
                    tokio::task::yield_now().await;
                }
                server.cluster.shutdown(what, crate::support::DEADLINE).await;
            };
            server.runtime.block_on(async { tokio::join!(acquire, stop) });
            assert_eq!(server.egress.open_listeners(), 0, "open proxies after a shutdown ({conversation})");
            if what == OnShutdown::Destroy {
                assert!(
                    host.containers().is_empty() && host.directories().is_empty(),
                    "left over after a shutdown ({conversation})"
                );
            }
        }
    }
}
