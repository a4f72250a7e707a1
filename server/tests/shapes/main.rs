//! Snapshots of output that programs parse: the printed configuration, health, and errors. A change of a snapshot belongs in the
//! changelog. `INSTA_UPDATE=always cargo nextest run -E 'binary(shapes)'` updates them; review the difference.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Time limit for the server to listen and to check its container engine.
const LIMIT: Duration = Duration::from_secs(20);
/// The operator's key.
const KEY: &str = "an-operators-key-of-the-test";

fn nagaya(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nagaya"));
    command.env_clear().env("HOME", home).env("NO_COLOR", "1").env("DEPLOYMENT_ID", "shapes");
    // The snapshots must not depend on the machine's container engine.
    command.env("DOCKER_SOCKET_PATH", "/nonexistent/docker.sock");
    command
}

fn printed(args: &[&str], settings: &[(&str, &str)]) -> String {
    let output = nagaya(Path::new("/home/user")).args(args).envs(settings.iter().copied()).output().expect("runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn printed_configuration() {
    insta::assert_snapshot!("config", printed(&["config"], &[("STATE_DIR", "/var/lib/nagaya")]));
    let set = [
        ("STATE_DIR", "/var/lib/nagaya"),
        ("API_KEYS", "a-key-that-is-a-secret"),
        ("DATABASE_URL", "postgres://user:a-secret@db.example/nagaya"),
        ("PROXY_ALLOWED_DOMAINS", "packages.example.org,*.example.com"),
        ("CONTAINER_MEMORY", "2g"),
    ];
    let json = printed(&["config", "--json"], &set);
    insta::assert_json_snapshot!("config-json", serde_json::from_str::<Value>(&json).expect("JSON"));
}

/// A running server, which is killed when the test ends.
struct Server {
    child: Child,
    address: String,
    _home: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails if the server has already exited, which the test itself notices.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start() -> Self {
        let home = tempfile::tempdir().expect("a directory");
        let addr_file = home.path().join("addr");
        let mut command = nagaya(home.path());
        command.arg("serve").arg(format!("--addr-file={}", addr_file.display())).env("BIND_ADDR", "127.0.0.1:0");
        command.env("API_KEYS", KEY).env("WORKSPACE_SOCKET_BASE_PATH", home.path().join("ws"));
        let log = std::fs::File::create(home.path().join("log")).expect("made");
        let child = command.stdout(log.try_clone().expect("a copy")).stderr(log).spawn().expect("starts");
        let mut server = Self { child, address: String::new(), _home: home };
        wait("an address", || {
            server.address = std::fs::read_to_string(&addr_file).unwrap_or_default().trim().to_owned();
            server.address.contains(':')
        });
        server
    }

    /// Sends a request and returns status and JSON body of the response.
    fn send(&self, request: &str, key: &str, body: &str) -> (u16, Value) {
        let mut client = TcpStream::connect(&self.address).expect("connects");
        client.set_read_timeout(Some(LIMIT)).expect("a limit");
        let length = body.len();
        write!(
            client,
            "{request} HTTP/1.1\r\nHost: nagaya\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n\
             X-Request-ID: shapes\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        )
        .expect("sent");
        let mut response = String::new();
        client.read_to_string(&mut response).expect("a response");
        let status = response.split(' ').nth(1).and_then(|status| status.parse().ok());
        let (_, body) = response.split_once("\r\n\r\n").expect("a head");
        (status.expect("a status"), serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {response}")))
    }
}

fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "timed out waiting for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Replaces values that differ from run to run by placeholders, after checking their types.
fn redact(mut value: Value) -> Value {
    fn walk(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                for (name, field) in fields.iter_mut() {
                    match (name.as_str(), &*field) {
                        ("timestamp", Value::String(text)) => {
                            assert!(text.parse::<jiff::Timestamp>().is_ok(), "{text} is not a timestamp");
                            *field = "[timestamp]".into();
                        }
                        ("latency_ms", Value::Number(_)) => *field = "[milliseconds]".into(),
                        ("version", Value::String(_)) => *field = "[version]".into(),
                        _ => walk(field),
                    }
                }
            }
            Value::Array(items) => items.iter_mut().for_each(walk),
            _ => {}
        }
    }
    walk(&mut value);
    value
}

#[test]
fn health_and_errors() {
    let server = Server::start();
    // /health reports the missing container engine only after the first check.
    wait("the check of the container engine", || {
        let (_, health) = server.send("GET /health", KEY, "");
        health["checks"]["docker"]["message"].as_str().is_some_and(|message| message.contains("does not answer"))
    });
    for (name, request) in
        [("health", "GET /health"), ("health-live", "GET /health/live"), ("health-ready", "GET /health/ready")]
    {
        let (status, body) = server.send(request, KEY, "");
        insta::assert_json_snapshot!(name, serde_json::json!({"status": status, "body": redact(body)}));
    }
    for (name, request, key, body) in [
        ("error-no-such-route", "GET /no/such/route", KEY, ""),
        ("error-method", "PATCH /api/tenants", KEY, ""),
        ("error-key", "GET /api/tenants", "another-key-altogether", ""),
        ("error-no-json", "POST /api/tenants", KEY, "{"),
        ("error-field", "POST /api/tenants", KEY, r#"{"tenant_id": 7}"#),
        ("error-not-found", "GET /api/tenants/nobody", KEY, ""),
    ] {
        let (status, body) = server.send(request, key, body);
        insta::assert_json_snapshot!(name, serde_json::json!({"status": status, "body": redact(body)}));
    }
}
