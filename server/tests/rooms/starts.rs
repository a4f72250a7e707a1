//! The queue for starts of containers.

use nagaya_workspace::engine::memory::{EXIT_CODE, LAST_OUTPUT};
use nagaya_workspace::{AcquireError, BuildError, Lease};
use tokio::task::JoinHandle;

use crate::support::{Host, NO_POOL, Server, occupant};

/// A server that starts two containers at a time, on an engine whose agents are silent for now, so that no start ends.
fn stuck(host: &Host, queue: usize) -> Server {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut parts = runtime.block_on(host.parts(NO_POOL));
    (parts.settings.starts, parts.settings.start_queue) = (2, queue);
    let server = Server::with(runtime, parts);
    server.until("reconciliation", || server.workspaces.is_reconciled());
    host.engine.mute_agents();
    server
}

fn acquire(server: &Server, conversation: &str) -> JoinHandle<Result<Lease, AcquireError>> {
    let (cluster, occupant) = (server.cluster.clone(), occupant(conversation));
    server.runtime.spawn(async move { cluster.acquire(occupant).await })
}

fn result(server: &Server, acquired: JoinHandle<Result<Lease, AcquireError>>) -> Result<Lease, AcquireError> {
    server.runtime.block_on(acquired).expect("does not panic")
}

#[test]
fn a_burst_starts_a_few_containers_at_a_time_in_order_and_whoever_leaves_is_passed_over() {
    let host = Host::new();
    let server = stuck(&host, 512);
    let position = |conversation: &str| server.workspaces.start_position(conversation);
    let mut waiting: Vec<_> =
        ["a", "b", "c", "d", "e", "f"].iter().map(|name| (*name, acquire(&server, name))).collect();
    server.until("everybody waits", || position("f") == Some(3) && host.containers().len() == 2);
    assert_eq!(["a", "b", "c", "d"].map(position), [None, None, Some(0), Some(1)]);
    // One caller goes away, and one run is cancelled.
    waiting.remove(2).1.abort();
    server.workspaces.leave_start_queue("d");
    let left = result(&server, waiting.remove(2).1);
    assert!(matches!(left, Err(AcquireError::Build(BuildError::Left))), "{left:?}");
    server.until("the others move up", || position("f") == Some(1));
    host.engine.unmute_agents();
    let leases: Vec<_> = waiting.into_iter().map(|(_, acquired)| result(&server, acquired).expect("a room")).collect();
    assert_eq!(leases.len(), 4);
    assert_eq!(host.containers().len(), 4, "those who left have none");
}

#[test]
fn beyond_its_length_the_queue_refuses_at_once() {
    let host = Host::new();
    let server = stuck(&host, 1);
    let waiting = ["a", "b", "c"].map(|name| acquire(&server, name));
    server.until("one waits", || server.workspaces.start_position("c").is_some());
    for refused in [
        server.runtime.block_on(server.workspaces.check_available("acme")).expect_err("the queue is full"),
        result(&server, acquire(&server, "d")).expect_err("the queue is full"),
    ] {
        assert!(matches!(refused, AcquireError::Build(BuildError::Crowded(1))), "{refused}");
        assert!(refused.is_unavailable());
    }
    host.engine.unmute_agents();
    for acquired in waiting {
        result(&server, acquired).expect("a room");
    }
}

#[test]
fn a_stop_ends_the_wait() {
    let host = Host::new();
    let server = stuck(&host, 512);
    let mut waiting: Vec<_> = ["a", "b", "c"].iter().map(|name| acquire(&server, name)).collect();
    server.until("one waits", || server.workspaces.start_position("c").is_some());
    let workspaces = server.workspaces.clone();
    let stopped = server.runtime.spawn(async move {
        workspaces.shut_down(nagaya_workspace::OnShutdown::Destroy, std::time::Duration::from_secs(20)).await;
    });
    let ended = result(&server, waiting.remove(2)).expect_err("the server stops");
    assert!(matches!(ended, AcquireError::Build(BuildError::Stopping)), "{ended}");
    host.engine.unmute_agents();
    server.runtime.block_on(stopped).expect("stops");
}

#[test]
fn a_container_that_exits_at_once_is_reported_with_image_exit_code_and_output() {
    let host = Host::new();
    let server = stuck(&host, 512);
    let acquired = acquire(&server, "a");
    server.until("a container", || host.containers().len() == 1);
    host.engine.crash(&host.containers()[0].0);
    let why = result(&server, acquired).expect_err("it has exited").to_string();
    for part in [format!("exited with code {EXIT_CODE}"), "image image".into(), format!("{LAST_OUTPUT:?}")] {
        assert!(why.contains(&part), "{part} is not in: {why}");
    }
    assert_eq!(server.workspaces.start_problem(), Some(why));
    host.engine.unmute_agents();
    result(&server, acquire(&server, "a")).expect("a room");
    assert_eq!(server.workspaces.start_problem(), None);
}
