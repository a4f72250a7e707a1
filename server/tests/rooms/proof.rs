//! A server whose socket directories have another path on the engine's host is not ready until a room has proven that path.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use nagaya_workspace::directory::SocketBase;
use nagaya_workspace::engine::memory::Call;
use nagaya_workspace::state::PoolSize;

use crate::support::{Host, NO_POOL, Server};

/// A server for which the host's path of the base is `elsewhere`.
fn server_with(host: &Host, elsewhere: &Path, pool: PoolSize) -> Server {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut parts = runtime.block_on(host.parts(pool));
    parts.sockets = SocketBase::prepare(host.base(), elsewhere.to_owned()).expect("a base");
    Server::with(runtime, parts)
}

fn ready(server: &Server) -> bool {
    server.workspaces.is_reconciled() && server.workspaces.host_path_problem().is_none()
}

#[test]
fn a_wrong_host_path_is_reported_and_its_correction_needs_no_restart() {
    let host = Host::new();
    let folder = tempfile::tempdir().expect("a folder");
    let elsewhere = folder.path().join("elsewhere");
    let server = server_with(&host, &elsewhere, PoolSize { min: 1, max: 1 });
    server.until("a reason", || server.workspaces.host_path_problem().is_some_and(|why| why.contains("does not have")));
    let why = server.workspaces.host_path_problem().expect("a reason");
    assert!(why.contains("WORKSPACE_SOCKET_HOST_PATH") && why.contains("elsewhere"), "{why}");
    assert_eq!(server.workspaces.pool_problem(), Some(why), "the pool reports the same reason");
    // As if the directory were mounted there now.
    symlink(host.base(), &elsewhere).expect("links");
    server.until("proof", || ready(&server));
    server.until("a full pool", || server.pooled() == 1 && server.workspaces.pool_problem().is_none());
    assert_eq!(host.containers().len(), 1, "the room that proved the path joins the pool");
}

#[test]
fn without_a_pool_the_room_that_proved_the_path_is_removed() {
    let host = Host::new();
    let folder = tempfile::tempdir().expect("a folder");
    let elsewhere = folder.path().join("elsewhere");
    symlink(host.base(), &elsewhere).expect("links");
    drop(host.engine.take_calls());
    let server = server_with(&host, &elsewhere, NO_POOL);
    server.until("proof", || ready(&server));
    assert!(host.engine.take_calls().contains(&Call::Run), "ready without a proof");
    // One directory stays: the other deployment's.
    let directories = || fs::read_dir(host.base()).expect("reads").count();
    server.until("no room and no directory", || host.containers().is_empty() && directories() == 1);
}

#[test]
fn an_identical_host_path_needs_no_proof() {
    let host = Host::new();
    drop(host.engine.take_calls());
    let server = Server::start(&host, NO_POOL);
    server.until("readiness", || ready(&server));
    assert!(!host.engine.take_calls().contains(&Call::Run), "a room was made without need");
}
