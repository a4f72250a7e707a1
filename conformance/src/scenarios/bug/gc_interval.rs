//! BUG-01: the interval of garbage collection, by default and as configured.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::time::Duration;

use crate::client::http::Api;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::command::{effective, is_refused, setting_text};
use crate::target::deployment::READY_LIMIT;
use crate::target::launch::Launch;
use crate::target::process::{Process, Program};

/// How long a start may take.
const LIVE_LIMIT: Duration = Duration::from_secs(5);
/// How long a server may take to stop that removes workspaces which another server left.
const SWEEP_LIMIT: Duration = Duration::from_secs(18);
/// How long to wait for other suites on this host that use the default port: longer than two of them need it.
const TURN_LIMIT: Duration = Duration::from_secs(45);

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "BUG-01",
        "With an empty environment the server is live within 5 s, and the GC interval is 60 s",
        "starts with an empty environment; CONTAINER_GC_INTERVAL defaults to 60 s",
        body!(empty_environment),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(&[Capability::Launch])
    .limit(90),
    Scenario::new(
        "BUG-01-INTERVAL",
        "A GC interval of 1 s is honoured: two cycles within 4 s",
        "the garbage collector runs every CONTAINER_GC_INTERVAL seconds",
        body!(interval_is_honoured),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(&[Capability::Launch, Capability::Docker])
    .limit(45),
    Scenario::new(
        "BUG-01-REFUSED",
        "A GC interval of 0, -1 or abc is refused with exit status 64 and a message that names the setting",
        "a bad value: exit 64, one line per fault naming the variable, the value and what is accepted",
        body!(bad_interval),
    )
    .profile(Profile::Full)
    .requires(&[Capability::Launch])
    .limit(45),
];

async fn empty_environment(context: &Context) -> Result<(), Failure> {
    let config = effective(context, &[]).await?;
    check_eq("CONTAINER_GC_INTERVAL with nothing set", setting_text(&config, "CONTAINER_GC_INTERVAL")?.as_str(), "60")?;

    lock_default_port(context).await?;
    // Empty except for a home directory of the scenario's own, and an address if another process uses the default port.
    let addr_file = context.dir().join("addr");
    let mut program = context.serving(&addr_file)?;
    if !context.description().launch.writes_address() {
        return Err(Failure::could_not_run("the server does not write the address that it chooses to a file"));
    }
    let home = context.dir().display().to_string();
    program.env = BTreeMap::from([("HOME".to_owned(), home)]);
    let default_port_is_free = TcpListener::bind("127.0.0.1:8000").is_ok();
    if !default_port_is_free {
        context.note("port 8000 is taken by another process: BIND_ADDR=127.0.0.1:0 was set");
        program.env.insert("BIND_ADDR".to_owned(), "127.0.0.1:0".to_owned());
    }
    // The default is a system directory, which may need root to create.
    let default_sockets = std::path::Path::new("/var/run/workspace-sockets");
    if !rustix::process::geteuid().is_root() && tempfile::tempdir_in(default_sockets).is_err() {
        context.note("the default socket directory is not this user's to write to: WORKSPACE_SOCKET_BASE_PATH was set");
        let sockets = context.dir().join("ws");
        program.env.insert("WORKSPACE_SOCKET_BASE_PATH".to_owned(), sockets.display().to_string());
    }
    adopted_and_taken_down(context, &program, &addr_file);
    let server = Process::start(&program, &context.run.id, &context.dir().join("server.log"))?;
    context.register_server(&server);
    context.add_witness(crate::target::witnesses::Log(server.clone()));
    let address = crate::target::fixtures::address(&server, &addr_file, LIVE_LIMIT).await?;
    if default_port_is_free {
        check_eq("the address", address.as_str(), "127.0.0.1:8000")?;
    }
    let api = Api::new(&format!("http://{address}"), None, context.exchanges().clone())?;
    let live = api.get("/health/live").await?.expect(200)?.json()?;
    check_eq("/health/live", live["status"].as_str(), Some("alive"))?;
    server.stop(Duration::from_secs(60)).await.map(|_| ())
}

/// A server without settings uses the host's default port and directory, so that only one suite on a host at a time can run such a
/// server. The lock is released once everything that the scenario makes from here on has been removed.
async fn lock_default_port(context: &Context) -> Result<(), Failure> {
    // The kernel releases the name, however its holder ends.
    let name = SocketAddr::from_abstract_name("conformance: a server with nothing set")?;
    let turn = eventually(TURN_LIMIT, "its turn", || std::future::ready(UnixListener::bind_addr(&name))).await;
    let turn = turn.map_err(|failure| {
        Failure::could_not_run(format!("other suites on this host keep the default port: {failure}"))
    })?;
    context.resources.add("its turn with the default port", move || async move {
        drop(turn);
        Ok(())
    });
    Ok(())
}

/// By default workspaces of the warm pool outlive the server. However the scenario ends, another start of the same deployment
/// adopts and removes them; otherwise the scenario fails.
fn adopted_and_taken_down(context: &Context, program: &Program, addr_file: &std::path::Path) {
    let mut program = program.clone();
    for (name, value) in [
        ("WARM_POOL_MIN_SIZE", "0"),
        ("BIND_ADDR", "127.0.0.1:0"),
        ("SHUTDOWN_WORKSPACES", "destroy"),
        ("CONTAINER_GRACE_PERIOD", "1"),
    ] {
        program.env.insert(name.to_owned(), value.to_owned());
    }
    // With Docker and an image, it is ready only once it has adopted them.
    let gets_ready = context.run.capabilities.check(&[Capability::Docker, Capability::Image]).is_ok();
    let (run, exchanges, log) = (context.run.id.clone(), context.exchanges().clone(), context.dir().join("server.log"));
    let addr_file = addr_file.to_owned();
    context.resources.add("workspaces of a server with nothing set", move || async move {
        match std::fs::remove_file(&addr_file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let server = Process::start(&program, &run, &log)?;
        let address = crate::target::fixtures::address(&server, &addr_file, LIVE_LIMIT).await?;
        let api = Api::new(&format!("http://{address}"), None, exchanges)?;
        if gets_ready {
            eventually(READY_LIMIT, "200 from /health/ready", async || {
                api.get("/health/ready").await?.expect(200).map(|_| ())
            })
            .await?;
        }
        server.stop(SWEEP_LIMIT).await.map(|_| ())
    });
}

async fn interval_is_honoured(context: &Context) -> Result<(), Failure> {
    let deployment = context.launch(Launch::new().without_model().set("CONTAINER_GC_INTERVAL", 1)).await?;
    let cycles = "workspace_gc_cycles_total";
    let first = deployment.metric(cycles, |_| true, Duration::from_secs(4)).await?;
    deployment.metric(cycles, |now| now >= first + 2.0, Duration::from_secs(4)).await.map(|_| ())
}

async fn bad_interval(context: &Context) -> Result<(), Failure> {
    // The control: the refusals below are due to the value alone.
    let good = effective(context, &[("CONTAINER_GC_INTERVAL", "7")]).await?;
    check_eq("CONTAINER_GC_INTERVAL=7", setting_text(&good, "CONTAINER_GC_INTERVAL")?.as_str(), "7")?;
    for value in ["0", "-1", "abc"] {
        is_refused(context, "CONTAINER_GC_INTERVAL", value).await?;
    }
    Ok(())
}
