//! Conversations whose containers have an image or a size of their own.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use nagaya_egress::Policy;
use nagaya_server::cluster::policies::Changed;
use nagaya_workspace::engine::Engine;
use nagaya_workspace::rooms::Occupant;
use nagaya_workspace::state::PoolSize;
use nagaya_workspace::{LABEL_WORKSPACE, Lease, Origin, Policies, Variant, VariantUnknown};
use parking_lot::Mutex;

use crate::support::{Host, Server, occupant};

const POOL: PoolSize = PoolSize { min: 1, max: 1 };

/// What every conversation wants at present, and which policies were asked for together: a tenant's, and of how many conversations.
#[derive(Debug)]
struct Wanted(Mutex<Result<Variant, String>>, Mutex<Vec<usize>>);

impl Wanted {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Ok(Variant::default())), Mutex::default()))
    }
}

impl Policies for Wanted {
    fn of<'a>(&'a self, occupants: &'a [Occupant]) -> BoxFuture<'a, Vec<Arc<Policy>>> {
        self.1.lock().push(occupants.len());
        let policy = Arc::new(Policy::operator());
        ready(vec![policy; occupants.len()]).boxed()
    }

    fn variant<'a>(&'a self, _: &'a Occupant) -> BoxFuture<'a, Result<Variant, VariantUnknown>> {
        ready(self.0.lock().clone().map_err(VariantUnknown)).boxed()
    }
}

fn start(host: &Host, wanted: &Arc<Wanted>) -> Server {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut parts = runtime.block_on(host.parts(POOL));
    parts.policies = wanted.clone();
    let server = Server::with(runtime, parts);
    server.until("a full pool", || server.pooled() == 1);
    server
}

fn acquire(server: &Server) -> Lease {
    server.runtime.block_on(server.cluster.acquire(occupant("c"))).expect("a room")
}

/// The labels of a room's container that say what it is.
fn labels(host: &Host, server: &Server, lease: &Lease) -> (Option<String>, Option<String>) {
    let listed = server.runtime.block_on(host.engine.list(LABEL_WORKSPACE, lease.workspace_id())).expect("listed");
    let label = |name: &str| listed[0].labels.get(name).cloned();
    (label("nagaya.image"), label("nagaya.disk"))
}

#[test]
fn a_room_is_replaced_once_its_conversation_wants_another_one() {
    let (host, wanted) = (Host::new(), Wanted::new());
    let server = start(&host, &wanted);
    let first = acquire(&server);
    assert_eq!((first.origin(), labels(&host, &server, &first)), (Origin::Warm, (Some("default".into()), None)));
    let first_id = first.workspace_id().to_owned();
    drop(first);
    server.until("a full pool", || server.pooled() == 1);

    *wanted.0.lock() = Ok(Variant { image: Some("tools".into()), disk: Some(1 << 20) });
    let second = acquire(&server);
    assert_eq!(second.origin(), Origin::Cold, "the pool has none of that kind");
    let own = (Some("tools".to_owned()), Some((1_u64 << 20).to_string()));
    assert_eq!(labels(&host, &server, &second), own);
    assert!(!host.directories().contains(&first_id) && server.pooled() == 1);
    let second_id = second.workspace_id().to_owned();
    drop(second);
    assert_eq!(acquire(&server).workspace_id(), second_id, "it is what it is to be");
    *wanted.0.lock() = Err("away".into());
    let error = server.runtime.block_on(server.cluster.acquire(occupant("c"))).expect_err("nobody knows");
    assert!(error.is_unavailable() && error.to_string().contains("away"), "{error}");

    // A server that adopts the room knows by its labels what it is.
    server.kill();
    *wanted.0.lock() = Ok(Variant { image: Some("tools".into()), disk: Some(1 << 20) });
    let server = start(&host, &wanted);
    server.until("reconciliation", || server.workspaces.is_reconciled());
    let adopted = acquire(&server);
    assert_eq!((adopted.origin(), adopted.workspace_id()), (Origin::Reused, second_id.as_str()));
    drop(adopted);
    server.kill();
    *wanted.0.lock() = Ok(Variant::default());
    let server = start(&host, &wanted);
    server.until("reconciliation", || server.workspaces.is_reconciled());
    let last = acquire(&server);
    assert_eq!((last.origin(), labels(&host, &server, &last).0.as_deref()), (Origin::Warm, Some("default")));
    assert!(!host.directories().contains(&second_id));
}

#[test]
fn a_change_is_asked_about_once_for_all_rooms_that_it_concerns() {
    let (host, wanted) = (Host::new(), Wanted::new());
    let server = start(&host, &wanted);
    for (conversation, tenant) in [("a", "one"), ("b", "one"), ("c", "two"), ("d", "one")] {
        let occupant = Occupant { conversation: conversation.into(), tenant: tenant.into() };
        drop(server.runtime.block_on(server.cluster.acquire(occupant)).expect("a room"));
    }
    let asked = |changed: Changed| {
        wanted.1.lock().clear();
        server.runtime.block_on(server.cluster.renew_policies(changed));
        wanted.1.lock().clone()
    };
    assert_eq!(asked(Changed::default()), [4]);
    let ones = Changed { tenant: Some("one".into()), ..Changed::default() };
    assert_eq!(asked(ones.clone()), [3]);
    let single = Changed { conversation: Some("b".into()), ..ones };
    assert_eq!(asked(single), [1], "and nobody else's");
}
