//! Start-up and configuration: BUG-01, BUG-02, BUG-05.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::time::Duration;

use serde_json::Value;

use crate::client::http::Api;
use crate::context::Context;
use crate::failure::{Failure, check, check_eq};
use crate::poll::eventually;
use crate::scenario::{Capability, Profile, Scenario, Severity};
use crate::target::deployment::READY_LIMIT;
use crate::target::launch::Launch;
use crate::target::process::{Process, Program};
use crate::target::relay::Relay;

/// How long a program that does not serve may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(10);
/// What an operator expects of a start.
const LIVE_LIMIT: Duration = Duration::from_secs(5);
/// How long a server may take to stop that takes rooms down which another left.
const SWEEP_LIMIT: Duration = Duration::from_secs(18);
/// How long another suite may have the default port before this one gives up: longer than two of them need it.
const TURN_LIMIT: Duration = Duration::from_secs(45);
/// Status of a command that was refused for its configuration.
const EX_USAGE: i32 = 64;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        id: "BUG-01",
        title: "an empty environment is enough to be live within 5 s, and the GC interval is then 60 s",
        severity: Severity::Critical,
        requirement: "starts with an empty environment; CONTAINER_GC_INTERVAL defaults to 60 s",
        requires: &[Capability::Launch],
        profile: Profile::Full,
        destructive: false,
        limit: Duration::from_secs(90),
        body: body!(empty_environment),
    },
    Scenario {
        id: "BUG-01-INTERVAL",
        title: "a GC interval of 1 s is honoured: two cycles within 4 s",
        severity: Severity::Critical,
        requirement: "the garbage collector runs every CONTAINER_GC_INTERVAL seconds",
        requires: &[Capability::Launch, Capability::Docker],
        profile: Profile::Full,
        destructive: false,
        limit: Duration::from_secs(45),
        body: body!(interval_is_honoured),
    },
    Scenario {
        id: "BUG-01-REFUSED",
        title: "a GC interval of 0, -1 or abc is refused with status 64, naming the variable",
        severity: Severity::Medium,
        requirement: "a bad value: exit 64, one line per fault naming the variable, the value and what is accepted",
        requires: &[Capability::Launch],
        profile: Profile::Full,
        destructive: false,
        limit: Duration::from_secs(45),
        body: body!(bad_interval),
    },
    Scenario {
        id: "BUG-02",
        title: "the default Docker address works, so does every other form of it, and junk is refused",
        severity: Severity::Critical,
        requirement: "DOCKER_SOCKET_PATH: default unix:///var/run/docker.sock; unix://, bare path, tcp://, http://",
        requires: &[Capability::Launch, Capability::Docker, Capability::Image],
        profile: Profile::Full,
        destructive: false,
        limit: Duration::from_secs(90),
        body: body!(docker_addresses),
    },
    Scenario {
        id: "BUG-02-LATE",
        title: "Docker absent at start: live, not ready, and ready without a restart once Docker is there",
        severity: Severity::Critical,
        requirement: "Docker not running: the server starts, says so on /health and /health/ready, and recovers by itself",
        requires: &[Capability::Launch, Capability::Docker, Capability::Image],
        profile: Profile::Full,
        destructive: false,
        limit: Duration::from_secs(60),
        body: body!(docker_comes_late),
    },
    Scenario {
        id: "BUG-05",
        title: "one default for the socket directory, in the configuration and in the image",
        severity: Severity::High,
        requirement: "WORKSPACE_SOCKET_BASE_PATH: /var/run/workspace-sockets in code, Compose file, image and docs",
        requires: &[Capability::Launch, Capability::Docker, Capability::Image],
        profile: Profile::Full,
        destructive: false,
        limit: Duration::from_secs(30),
        body: body!(one_socket_path),
    },
];

/// The value of a setting in what `config --json` prints, wherever it stands: under its name, or in an object that names it.
fn setting<'v>(config: &'v Value, name: &str) -> Option<&'v Value> {
    match config {
        Value::Object(fields) if fields.get("name").and_then(Value::as_str) == Some(name) => fields.get("value"),
        Value::Object(fields) => fields
            .iter()
            .find_map(|(key, value)| if key == name { Some(value.get("value").unwrap_or(value)) } else { setting(value, name) }),
        Value::Array(items) => items.iter().find_map(|item| setting(item, name)),
        _ => None,
    }
}

/// A setting's value as text, numbers included.
fn setting_text(config: &Value, name: &str) -> Result<String, Failure> {
    match setting(config, name) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Ok(other.to_string()),
        None => Err(Failure::assertion(format!("`config --json` does not show {name}: {config}"))),
    }
}

/// What `nagaya config --json` prints with these variables and no other.
async fn effective(context: &Context, env: &[(&str, &str)]) -> Result<Value, Failure> {
    let mut program = context.bare_server(["config", "--json"]);
    program.env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let output = program.output(&context.run.id, COMMAND_LIMIT).await?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    check_eq(format!("status of `config --json` ({stderr})"), output.status.code(), Some(0))?;
    serde_json::from_slice(&output.stdout)
        .map_err(|error| Failure::mismatch("`config --json`", "JSON", format!("{error}: {:?}", output.stdout)))
}

async fn empty_environment(context: &Context) -> Result<(), Failure> {
    let config = effective(context, &[]).await?;
    check_eq("CONTAINER_GC_INTERVAL with nothing set", setting_text(&config, "CONTAINER_GC_INTERVAL")?.as_str(), "60")?;

    its_turn(context).await?;
    // Truly empty but for a home directory of the scenario's own; where another process has the default port, also an address.
    let mut program = context.bare_server(["serve"]);
    let home = context.dir().display().to_string();
    program.env = BTreeMap::from([("HOME".to_owned(), home)]);
    let addr_file = context.dir().join("addr");
    let default_port_is_free = TcpListener::bind("127.0.0.1:8000").is_ok();
    program.args.push(format!("--addr-file={}", addr_file.display()).into());
    if !default_port_is_free {
        context.note("port 8000 is taken by another process: BIND_ADDR=127.0.0.1:0 was set");
        program.env.insert("BIND_ADDR".to_owned(), "127.0.0.1:0".to_owned());
    }
    // The default is a system's directory, which is not everybody's to make.
    let default_sockets = std::path::Path::new("/var/run/workspace-sockets");
    if !rustix::process::geteuid().is_root() && tempfile::tempdir_in(default_sockets).is_err() {
        context.note("the default socket directory is not this user's to write to: WORKSPACE_SOCKET_BASE_PATH was set");
        let sockets = context.dir().join("ws");
        program.env.insert("WORKSPACE_SOCKET_BASE_PATH".to_owned(), sockets.display().to_string());
    }
    adopted_and_taken_down(context, &program, &addr_file);
    let server = Process::start(&program, &context.run.id, &context.dir().join("server.log"))?;
    context.now_runs(&server);
    context.add_witness(crate::evidence::Witness::Log(server.clone()));
    let address = crate::target::fixtures::address(&server, &addr_file, LIVE_LIMIT).await?;
    if default_port_is_free {
        check_eq("the address", address.as_str(), "127.0.0.1:8000")?;
    }
    let api = Api::new(&format!("http://{address}"), None, context.exchanges().clone())?;
    let live = api.get("/health/live").await?.expect(200)?.json()?;
    check_eq("/health/live", live["status"].as_str(), Some("alive"))?;
    server.stop(Duration::from_secs(60)).await.map(|_| ())
}

/// A server with nothing set takes the host's one default port and directory: of all suites on a host one at a time has such a
/// server. The turn ends once everything is gone that the scenario makes from here on.
async fn its_turn(context: &Context) -> Result<(), Failure> {
    // The kernel gives the name back, however its holder ends.
    let name = SocketAddr::from_abstract_name("nagaya-conformance: a server with nothing set")?;
    let turn = eventually(TURN_LIMIT, "its turn", || std::future::ready(UnixListener::bind_addr(&name))).await;
    let turn = turn.map_err(|failure| Failure::could_not_run(format!("other suites on this host keep the default port: {failure}")))?;
    context.resources.add("its turn with the default port", move || async move {
        drop(turn);
        Ok(())
    });
    Ok(())
}

/// With nothing set, rooms of the warm pool outlive the server. However the scenario ends, another start of the same deployment
/// adopts them and takes them down; where it does not, the scenario fails.
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
    // Where there is a Docker and an image, it is ready once it has adopted them, and not before.
    let gets_ready = context.run.capabilities.check(&[Capability::Docker, Capability::Image]).is_ok();
    let (run, exchanges, log) = (context.run.id.clone(), context.exchanges().clone(), context.dir().join("server.log"));
    let addr_file = addr_file.to_owned();
    context.resources.add("rooms of a server with nothing set", move || async move {
        match std::fs::remove_file(&addr_file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let server = Process::start(&program, &run, &log)?;
        let address = crate::target::fixtures::address(&server, &addr_file, LIVE_LIMIT).await?;
        let api = Api::new(&format!("http://{address}"), None, exchanges)?;
        if gets_ready {
            eventually(READY_LIMIT, "200 from /health/ready", async || api.get("/health/ready").await?.expect(200).map(|_| ())).await?;
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

/// `serve` with one variable set to something bad ends with status 64 and says which variable, and what it had.
async fn is_refused(context: &Context, name: &str, value: &str) -> Result<(), Failure> {
    let mut program = context.bare_server(["serve"]);
    // One that is not refused must not do anything that outlives it.
    for (name, value) in [("BIND_ADDR", "127.0.0.1:0"), ("WARM_POOL_MIN_SIZE", "0"), (name, value)] {
        program.env.insert(name.to_owned(), value.to_owned());
    }
    let output = program.output(&context.run.id, COMMAND_LIMIT).await?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    check_eq(format!("status of `serve` with {name}={value} ({stderr})"), output.status.code(), Some(EX_USAGE))?;
    let told = stderr.lines().any(|line| line.contains(name) && line.contains(value));
    check(told, format!("with {name}={value} no line names the variable and its value: {stderr}"))
}

async fn bad_interval(context: &Context) -> Result<(), Failure> {
    // The control: what is refused below is refused for its value, not for anything else.
    let good = effective(context, &[("CONTAINER_GC_INTERVAL", "7")]).await?;
    check_eq("CONTAINER_GC_INTERVAL=7", setting_text(&good, "CONTAINER_GC_INTERVAL")?.as_str(), "7")?;
    for value in ["0", "-1", "abc"] {
        is_refused(context, "CONTAINER_GC_INTERVAL", value).await?;
    }
    Ok(())
}

async fn docker_addresses(context: &Context) -> Result<(), Failure> {
    let config = effective(context, &[]).await?;
    let default = setting_text(&config, "DOCKER_SOCKET_PATH")?;
    check_eq("DOCKER_SOCKET_PATH with nothing set", default.as_str(), "unix:///var/run/docker.sock")?;

    let socket = context.engine()?.socket();
    let tcp = Relay::tcp(socket).await?;
    let (plain, http) = (socket.display().to_string(), tcp.address().replace("tcp://", "http://"));
    let forms = [format!("unix://{plain}"), plain, tcp.address().to_owned(), http];
    for form in forms {
        let launch = Launch::new().without_model().set("DOCKER_SOCKET_PATH", &form);
        let deployment = context.launch(launch).await.map_err(|failure| failure.during(format!("DOCKER_SOCKET_PATH={form}")))?;
        let health = deployment.api.get("/health").await?.expect(200)?.json()?;
        check_eq(format!("docker in /health with {form}"), health["checks"]["docker"]["status"].as_str(), Some("healthy"))?;
        deployment.stop().await?;
    }
    tcp.stop().await?;
    for junk in ["ftp://somewhere", "var/run/docker.sock"] {
        is_refused(context, "DOCKER_SOCKET_PATH", junk).await?;
    }
    Ok(())
}

async fn docker_comes_late(context: &Context) -> Result<(), Failure> {
    let path = context.socket_dir()?.join("docker.sock");
    let launch = Launch::new().without_model().not_waiting().set("DOCKER_SOCKET_PATH", path.display());
    let deployment = context.launch(launch).await?;
    let docker = async || {
        let health = deployment.api.get("/health").await?.expect(200)?.json()?;
        let check = &health["checks"]["docker"];
        Ok::<_, Failure>((
            health["status"].as_str().unwrap_or("none").to_owned(),
            check["status"].as_str().unwrap_or("none").to_owned(),
            check["message"].as_str().unwrap_or_default().to_owned(),
        ))
    };
    deployment.api.get("/health/live").await?.expect(200)?;
    let not_ready = deployment.api.get("/health/ready").await?;
    not_ready.expect_error(503, "SERVICE_UNAVAILABLE")?;
    check(not_ready.header("retry-after").is_some(), "503 from /health/ready without Retry-After")?;
    check(not_ready.text().to_lowercase().contains("docker"), format!("the reason does not name Docker: {}", not_ready.text()))?;
    let (status, component, message) = docker().await?;
    check_eq("status and docker in /health without Docker", (status.as_str(), component.as_str()), ("unhealthy", "unhealthy"))?;
    check(!message.is_empty(), "docker in /health is unhealthy and does not say why")?;

    let relay = Relay::unix(&path, context.engine()?.socket())?;
    deployment.ready(READY_LIMIT).await?;
    eventually(READY_LIMIT, "healthy in /health", async || match docker().await {
        Ok((status, component, _)) if status == "healthy" && component == "healthy" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await?;
    deployment.stop().await?;
    relay.stop().await
}

async fn one_socket_path(context: &Context) -> Result<(), Failure> {
    const PATH: &str = "/var/run/workspace-sockets";
    let config = effective(context, &[]).await?;
    check_eq("WORKSPACE_SOCKET_BASE_PATH", setting_text(&config, "WORKSPACE_SOCKET_BASE_PATH")?.as_str(), PATH)?;
    check_eq("WORKSPACE_SOCKET_HOST_PATH", setting_text(&config, "WORKSPACE_SOCKET_HOST_PATH")?.as_str(), PATH)?;
    // The control: what is printed follows the variable, and the host's path follows the base path.
    let other = effective(context, &[("WORKSPACE_SOCKET_BASE_PATH", "/srv/rooms")]).await?;
    check_eq("base path, when set", setting_text(&other, "WORKSPACE_SOCKET_BASE_PATH")?.as_str(), "/srv/rooms")?;
    check_eq("host path, when only the base is set", setting_text(&other, "WORKSPACE_SOCKET_HOST_PATH")?.as_str(), "/srv/rooms")?;

    let image = context.engine()?.docker().inspect_image(&context.run.options.image).await?;
    let env = image.config.and_then(|config| config.env).unwrap_or_default();
    check(!env.is_empty(), "the image has no environment at all: nothing was looked at")?;
    for entry in env.iter().filter(|entry| entry.contains("SOCKET")) {
        let holds = entry.ends_with(PATH) || entry.contains("=/var/run/ws");
        check(holds, format!("the image's environment has another idea of where sockets are: {entry}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_setting_is_found_in_any_reasonable_print() {
        for print in [
            json!({"settings": [{"name": "X", "value": "1"}, {"name": "A", "value": "60", "source": "default"}]}),
            json!({"A": "60"}),
            json!({"A": {"value": "60", "source": "default"}}),
            json!([{"name": "A", "value": 60}]),
        ] {
            assert_eq!(setting_text(&print, "A").expect("found"), "60", "{print}");
        }
        assert!(setting_text(&json!({"B": 1}), "A").is_err());
    }
}
