//! Roles: this program started again as a separate process. All end with the process that started them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use nagaya_egress::{
    Credential, CredentialRules, CredentialSpec, Egress, Identity, LayerSpec, Limits, Policy, PolicyError, PolicySpec,
    RequestRecord, RuleSpec, SecretText, Settings, Source, Trail, When,
};
use rustix::process::Signal;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::net::UnixListener;

use crate::origin;
use crate::process::raise_descriptors;

/// The argument that starts this program in a role.
const WORD: &str = "play";

/// Another process in a role; ended when dropped.
#[derive(Debug)]
pub(crate) struct Player {
    child: Child,
    /// The process in the role ends when this is closed.
    stdin: Option<ChildStdin>,
}

impl Player {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Starts a role and waits for the line that it prints once it is ready.
    fn start<T: DeserializeOwned>(role: &str, script: &str) -> Result<(Self, T)> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([WORD, role, script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start the {role}"))?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take();
        let player = Self { child, stdin };
        let mut line = String::new();
        BufReader::new(stdout.context("no output")?).read_line(&mut line)?;
        let ready = serde_json::from_str(&line).with_context(|| format!("the {role} did not start: {line:?}"))?;
        Ok((player, ready))
    }

    /// Our proxy in a separate process.
    pub(crate) fn proxy(cast: &ProxyCast) -> Result<Self> {
        Ok(Self::start::<()>("proxy", &serde_json::to_string(cast)?)?.0)
    }

    /// All origins in a separate process.
    pub(crate) fn origin() -> Result<(Self, origin::Doors)> {
        Self::start("origin", "")
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        drop(self.stdin.take());
        if let Err(error) = self.child.wait() {
            eprintln!("a process of ours did not end: {error}");
        }
    }
}

/// A command whose process ends together with this one, even if this one is killed.
pub(crate) fn tied(program: &str) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args([WORD, "tied", program]);
    Ok(command)
}

/// Settings of our proxy.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ProxyCast {
    /// Sockets to listen on, one for each workspace.
    pub(crate) sockets: Vec<PathBuf>,
    pub(crate) allowed: String,
    pub(crate) pins: String,
    pub(crate) credentials: String,
    pub(crate) extra_ca_pem: String,
    /// Whether listeners get a policy with many rules.
    pub(crate) policies: bool,
}

/// Runs a role, if this process was started in one.
pub(crate) fn play() -> Option<ExitCode> {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() != Some(WORD) {
        return None;
    }
    let role = args.next().unwrap_or_default();
    let rest: Vec<String> = args.collect();
    let script = rest.first().map(String::as_str).unwrap_or_default();
    let played = raise_descriptors().and_then(|()| match role.as_str() {
        "proxy" => proxy(script),
        "origin" => origin::play(),
        "tied" => become_tied(script, &rest[1..]),
        _ => bail!("no such role: {role}"),
    });
    Some(match played {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{role}: {error:#}");
            ExitCode::FAILURE
        }
    })
}

fn become_tied(program: &str, args: &[String]) -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
    Err(Command::new(program).args(args).exec()).with_context(|| format!("cannot start {program}"))
}

/// Reports that a role is ready, and waits until it has to end.
pub(crate) fn ready(what: &impl Serialize) -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{}", serde_json::to_string(what)?)?;
    out.flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Counts records only, because their further processing is not part of the proxy's cost.
#[derive(Debug, Default)]
struct Count(AtomicU64);

impl Trail for Count {
    fn request(&self, _: &RequestRecord) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn proxy(script: &str) -> Result<()> {
    let cast: ProxyCast = serde_json::from_str(script)?;
    let credentials: CredentialRules = cast.credentials.parse().map_err(anyhow::Error::msg)?;
    let settings = Settings {
        allowed: cast.allowed.parse().map_err(anyhow::Error::msg)?,
        pins: cast.pins.parse().map_err(anyhow::Error::msg)?,
        credentials: credentials.with_header(origin::KEYED, origin::KEY_HEADER, origin::SECRET),
        extra_ca_pem: Some(cast.extra_ca_pem.into_bytes()).filter(|pem| !pem.is_empty()),
        // The same as in the server.
        limits: Limits::default(),
        ..Settings::default()
    };
    let aws = SharedCredentialsProvider::new(Credentials::new(
        origin::KEY_ID,
        origin::SECRET,
        Some(origin::TOKEN.to_owned()),
        None,
        "bench",
    ));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let _guard = runtime.enter();
    let egress = Egress::new(settings, Some(aws), Arc::new(Count::default()))?;
    let mut listeners = Vec::new();
    for socket in &cast.sockets {
        let name = socket.file_name().and_then(|name| name.to_str()).context("a socket's name")?;
        let identity = Identity { workspace: name.to_owned(), conversation: None, tenant: None };
        let listener = egress.open(UnixListener::bind(socket)?, identity);
        if cast.policies {
            listener.apply(Arc::new(policy(&cast.allowed)?));
        }
        listeners.push(listener);
    }
    ready(&())?;
    runtime.block_on(async {
        for listener in listeners {
            listener.stop(std::time::Duration::from_secs(5)).await;
        }
    });
    Ok(())
}

/// A policy with two layers of 50 rules, and 20 credentials for other hosts.
fn policy(allowed: &str) -> Result<Policy> {
    let mut rules: Vec<RuleSpec> = (0..50_usize.saturating_sub(allowed.split(',').count()))
        .map(|number| match number % 3 {
            0 => RuleSpec::host(format!("*.service-{number}.example.com")),
            1 => RuleSpec::host(format!("!secret-{number}.example.com")),
            _ => RuleSpec::host(format!("host-{number}.example.com")),
        })
        .collect();
    rules.extend(allowed.split(',').map(|host| RuleSpec {
        host: host.to_owned(),
        methods: vec!["GET".into(), "POST".into()],
        paths: vec!["/".into()],
    }));
    let layer = |name: &str| LayerSpec { name: name.into(), rules: rules.clone(), ..LayerSpec::default() };
    let credential = |number: usize| {
        let source = Source::header("authorization", "Bearer {}", &SecretText::new("secret".into()))?;
        let (name, host) = (format!("c{number}"), format!("api-{number}.example.com"));
        let (methods, paths, when) = (Vec::new(), vec!["/v1".into()], When::Always);
        let spec = CredentialSpec { name, host, methods, paths, when, operations: None, source };
        Ok(Arc::new(Credential::new(spec)?))
    };
    let credentials = (0..20).map(credential).collect::<Result<_, PolicyError>>()?;
    let layers = vec![layer("tenant"), layer("conversation")];
    Ok(Policy::new(PolicySpec { name: "bench".into(), layers, credentials, models: None })?)
}

/// A loopback address with a port that was free a moment ago.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
