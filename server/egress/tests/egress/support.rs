//! A proxy on its own socket, and a client that sends raw bytes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nagaya_egress::{
    Egress, Identity, LayerSpec, Limits, Listener, Policy, PolicySpec, RequestRecord, RuleSpec, Settings, Trail,
};
use nagaya_fixtures::origin::{Kind, Origin};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

/// Time limit of every wait in these tests.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

#[derive(Default)]
pub(crate) struct Records(Mutex<Vec<RequestRecord>>);

impl Trail for Records {
    fn request(&self, record: &RequestRecord) {
        self.0.lock().expect("a lock").push(record.clone());
    }
}

impl Records {
    pub(crate) fn all(&self) -> Vec<RequestRecord> {
        self.0.lock().expect("a lock").clone()
    }

    pub(crate) fn clear(&self) {
        *self.0.lock().expect("a lock") = Vec::new();
    }
}

pub(crate) struct Proxy {
    pub(crate) egress: Arc<Egress>,
    pub(crate) listener: Option<Listener>,
    pub(crate) records: Arc<Records>,
    dir: tempfile::TempDir,
}

pub(crate) fn any() -> SocketAddr {
    "127.0.0.1:0".parse().expect("an address")
}

pub(crate) async fn origin(kind: Kind) -> Origin {
    Origin::start(any(), kind).await.expect("starts")
}

pub(crate) fn identity(workspace: &str) -> Identity {
    Identity { workspace: workspace.into(), conversation: None, tenant: None }
}

/// Settings that allow some hosts, each pinned to a peer: pairs of a `host:port` on the allow-list and the peer's address.
pub(crate) fn settings(hosts: &[(&str, SocketAddr)]) -> Settings {
    let allowed: Vec<&str> = hosts.iter().map(|(host, _)| *host).collect();
    let pins: Vec<String> = hosts.iter().map(|(host, to)| format!("{host}:{}:{}", to.ip(), to.port())).collect();
    Settings {
        allowed: allowed.join(",").parse().expect("a list"),
        pins: pins.join(",").parse().expect("pins"),
        limits: Limits::default(),
        ..Settings::default()
    }
}

impl Proxy {
    pub(crate) fn start(settings: Settings) -> Self {
        Self::with_credentials(settings, None)
    }

    pub(crate) fn with_credentials(
        settings: Settings,
        aws: Option<aws_credential_types::provider::SharedCredentialsProvider>,
    ) -> Self {
        raise_descriptors();
        let dir = tempfile::tempdir().expect("a directory");
        let records = Arc::new(Records::default());
        let egress = Egress::new(settings, aws, records.clone()).expect("settings that make sense");
        let socket = UnixListener::bind(dir.path().join("proxy.sock")).expect("binds");
        let listener = egress.open(socket, identity("w"));
        Self { egress, listener: Some(listener), records, dir }
    }

    /// Adds a listener for another workspace to the same proxy.
    pub(crate) fn another(&self) -> (tempfile::TempDir, Listener, PathBuf) {
        self.another_as(identity("another"))
    }

    pub(crate) fn another_as(&self, identity: Identity) -> (tempfile::TempDir, Listener, PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("proxy.sock");
        let listener = self.egress.open(UnixListener::bind(&path).expect("binds"), identity);
        (dir, listener, path)
    }

    /// The proxy's own listener.
    pub(crate) fn own(&self) -> &Listener {
        self.listener.as_ref().expect("open")
    }

    /// The reason of the answer to a request on a connection of its own; `None` if it was not the proxy's.
    pub(crate) async fn reason(&self, request: impl AsRef<[u8]>) -> Option<String> {
        let answer = self.talk(request).await;
        let (_, reason) = answer.split_once(r#""reason":""#)?;
        answer.contains("x-nagaya-egress").then(|| reason.split('"').next().unwrap_or_default().to_owned())
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("proxy.sock")
    }

    pub(crate) async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.socket()).await.expect("connects")
    }

    /// Sends bytes, shuts down the sending half, and reads to the end.
    pub(crate) async fn talk(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes.as_ref()).await.expect("writes");
        stream.shutdown().await.expect("closes");
        read_all(&mut stream).await
    }

    /// Repeats a request until it is answered with 200. A proxy at its limit answers 429 or resets the connection.
    pub(crate) async fn serves_again(&self, request: &str) {
        let served = async {
            loop {
                let mut stream = self.connect().await;
                let mut answer = Vec::new();
                let talked = async {
                    stream.write_all(request.as_bytes()).await?;
                    stream.shutdown().await?;
                    stream.read_to_end(&mut answer).await
                };
                if talked.await.is_ok() && answer.starts_with(b"HTTP/1.1 200 ") {
                    break;
                }
            }
        };
        tokio::time::timeout(DEADLINE, served).await.expect("the proxy serves again");
    }

    /// The only record of a proxy that has had one request.
    pub(crate) async fn record(&self) -> RequestRecord {
        eventually("a record", || self.records.all().len() == 1).await;
        self.records.all().remove(0)
    }
}

pub(crate) async fn read_all(stream: &mut UnixStream) -> String {
    let mut all = Vec::new();
    tokio::time::timeout(DEADLINE, stream.read_to_end(&mut all)).await.expect("in time").expect("reads");
    String::from_utf8_lossy(&all).into_owned()
}

/// Reads up to and including the end of a head.
pub(crate) async fn read_head(stream: &mut UnixStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = tokio::time::timeout(DEADLINE, stream.read_u8()).await.expect("in time").expect("a head");
        head.push(byte);
    }
    String::from_utf8(head).expect("text")
}

/// Sends a request and returns the head and body of its answer.
pub(crate) async fn ask(stream: &mut UnixStream, request: &str) -> (String, String) {
    stream.write_all(request.as_bytes()).await.expect("writes");
    let head = read_head(stream).await;
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split('\r').next()?.parse().ok());
    let bodiless =
        request.starts_with("HEAD ") || head.starts_with("HTTP/1.1 204 ") || head.starts_with("HTTP/1.1 304 ");
    let mut body = vec![0; if bodiless { 0 } else { length.unwrap_or(0) }];
    tokio::time::timeout(DEADLINE, stream.read_exact(&mut body)).await.expect("in time").expect("a body");
    (head, String::from_utf8(body).expect("text"))
}

/// A layer of a policy: rules, each a host with methods and paths, separated by spaces: `a.example GET,POST /v1`.
pub(crate) fn layer(name: &str, rules: &[&str]) -> LayerSpec {
    let rule = |text: &&str| {
        let mut words = text.split(' ');
        let mut rule = RuleSpec::host(words.next().unwrap_or_default());
        for word in words {
            if word.starts_with('/') {
                rule.paths.push(word.to_owned());
            } else {
                rule.methods.extend(word.split(',').map(str::to_owned));
            }
        }
        rule
    };
    LayerSpec { name: name.into(), rules: rules.iter().map(rule).collect(), ..LayerSpec::default() }
}

/// A policy with one layer, named as the policy.
pub(crate) fn policy(name: &str, rules: &[&str]) -> Arc<Policy> {
    built(PolicySpec { name: name.into(), layers: vec![layer(name, rules)], ..PolicySpec::default() })
}

pub(crate) fn built(spec: PolicySpec) -> Arc<Policy> {
    Arc::new(Policy::new(spec).expect("a policy"))
}

/// The identity of a tenant.
pub(crate) fn tenant(tenant: &str) -> Identity {
    Identity { tenant: Some(tenant.into()), ..identity("w") }
}

pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < DEADLINE, "not in time: {what}");
        tokio::task::yield_now().await;
    }
}

/// Raises the limit of descriptors: both ends of all connections are in this process, which is too much for the usual 1024.
fn raise_descriptors() {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).expect("a soft limit may be raised");
}

/// Number of descriptors this process has open.
pub(crate) fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("reads").count()
}
