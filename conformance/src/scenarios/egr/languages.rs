//! HTTP and WebSocket clients of Python and Node.js in a workspace.

use std::time::Duration;

use serde_json::Value;

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::outside::{CA, DENIED, HOST, NEEDS, Outside, PORT, check_agent, check_clean, json};
use crate::target::services::Conversation;

const PYTHON: &str = include_str!("programs/http.py");
const NODE: &str = include_str!("programs/http.mjs");
const WEBSOCKET: &str = include_str!("programs/websocket.py");

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "EGR-109",
        "Python's urllib uses the proxy for HTTP and HTTPS, and reports refusals",
        "proxy variables for the loopback bridge, upper and lower case, NO_PROXY, and what Node.js needs",
        body!(urllib),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(NEEDS),
    Scenario::new(
        "EGR-110",
        "Python's requests uses the proxy for HTTP and HTTPS, with chunked bodies and connection reuse",
        "proxy variables for the loopback bridge, upper and lower case, NO_PROXY, and what Node.js needs",
        body!(requests),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(NEEDS),
    Scenario::new(
        "EGR-111",
        "Node.js's fetch, http and https use the proxy without configuration, and reach loopback directly",
        "proxy variables for the loopback bridge, upper and lower case, NO_PROXY, and what Node.js needs",
        body!(node),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(NEEDS),
    Scenario::new(
        "EGR-112",
        "A WebSocket works through a tunnel, with TLS and on a listed port: text, binary, ping, clean close",
        "Upgrade: only by CONNECT; tunnel bytes exact",
        body!(websocket),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(NEEDS),
    Scenario::new(
        "EGR-113",
        "A request that asks for a protocol upgrade is forwarded without the upgrade",
        "Upgrade: only by CONNECT; hop-by-hop headers dropped",
        body!(upgrade),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(NEEDS),
];

/// The result of a client program under this name.
fn results<'a>(all: &'a Value, name: &str) -> &'a Value {
    all.get(name).unwrap_or(&Value::Null)
}

fn check_told(all: &Value, expected: &[(&str, Value)]) -> Result<(), Failure> {
    expected.iter().try_for_each(|(name, value)| check_eq(format!("{name} in {all}"), results(all, name), value))
}

fn check_refused(all: &Value, name: &str) -> Result<(), Failure> {
    let text = results(all, name).as_str().unwrap_or_default();
    check(text.contains("403"), format!("{name}: {text:?}"))
}

/// The requests with this parameter that the services received, after checking their User-Agent and headers.
async fn check_seen(outside: &Outside, parameter: &str, agent: &str, values: &[(&str, &str)]) -> Result<(), Failure> {
    for (value, scheme) in values {
        let seen = outside.seen_once(&format!("/echo?{parameter}={value}")).await?;
        check_eq(format!("how the request for {} arrived", seen.path), seen.scheme.as_str(), *scheme)?;
        check_agent(&seen, agent)?;
        check_clean(&seen)?;
    }
    outside.never_seen(&format!("/echo?{parameter}=refused")).await
}

async fn python(outside: &Outside) -> Result<Value, Failure> {
    let (http, https) = (format!("http://{HOST}"), format!("https://{HOST}"));
    json(&outside.run(&["python3", "-c", PYTHON, &http, &https, CA, DENIED]).await?)
}

async fn urllib(context: &Context) -> Result<(), Failure> {
    let outside = Outside::start(context).await?;
    let results = python(&outside).await?;
    check_told(
        &results,
        &[
            ("urllib http", "urllib=http".into()),
            ("urllib https", "urllib=https".into()),
            ("urllib refused http", "403 EGRESS_DENIED".into()),
        ],
    )?;
    check_refused(&results, "urllib refused https")?;
    check_seen(&outside, "urllib", "Python-urllib/", &[("http", "http"), ("https", "https")]).await
}

async fn requests(context: &Context) -> Result<(), Failure> {
    let outside = Outside::start(context).await?;
    let results = python(&outside).await?;
    for name in ["requests http 1", "requests http 2", "requests https 1", "requests https 2"] {
        check_told(&results, &[(name, 9.into())])?;
    }
    check_told(&results, &[("requests refused http", "403 EGRESS_DENIED".into())])?;
    check_refused(&results, "requests refused https")?;
    let values = [("http1", "http"), ("http2", "http"), ("https1", "https"), ("https2", "https")];
    check_seen(&outside, "requests", "python-requests/", &values).await
}

async fn node(context: &Context) -> Result<(), Failure> {
    let outside = Outside::start(context).await?;
    let script = |env: &str| {
        let env = format!("{env} NODE_EXTRA_CA_CERTS={CA}");
        format!(
            "cat > /workspace/http.mjs <<'END'\n{NODE}\nEND\n{env} node /workspace/http.mjs http://{HOST} https://{HOST} {DENIED}"
        )
    };
    // The control: Node.js without NODE_USE_ENV_PROXY reaches nothing.
    let lost = outside.attempt(&script("env -u NODE_USE_ENV_PROXY")).await?;
    check(lost.status != 0, format!("there is another way out than the proxy: {}", lost.printed))?;
    check_eq("requests without the proxy", outside.seen("/echo?").await?.len(), 0)?;

    let results = json(&outside.shell(&script("")).await?)?;
    for name in ["http", "https"] {
        check_told(
            &results,
            &[
                (&format!("fetch {name}"), format!("fetch={name}").into()),
                (&format!("fetch {name} post"), 9.into()),
                (&format!("request {name}"), format!("request={name}").into()),
                (&format!("request {name} listed"), format!("request={name}-listed").into()),
            ],
        )?;
    }
    check_told(
        &results,
        &[
            ("request expecting", 5.into()),
            ("fetch redirected", "fetch=redirected".into()),
            ("fetch refused http", "403 EGRESS_DENIED".into()),
            ("request refused http", 403.into()),
            ("fetch here", "/fetched".into()),
            ("request here", "/requested".into()),
        ],
    )?;
    check_refused(&results, "fetch refused https")?;
    check_refused(&results, "request refused https")?;
    let schemes = [("http", "http"), ("https", "https")];
    check_seen(
        &outside,
        "request",
        "",
        &[&schemes[..], &[("http-listed", "http"), ("https-listed", "https"), ("expecting", "http")]].concat(),
    )
    .await?;
    let posts = [("http-post", "http"), ("https-post", "https"), ("redirected", "https")];
    check_seen(&outside, "fetch", "", &[&schemes[..], &posts].concat()).await?;
    let sent = outside.seen_once("/echo?fetch=http").await?;
    check_eq("a header that fetch was given", sent.header("x-sent"), Some("by fetch"))
}

/// Runs a WebSocket client in the workspace, and returns its results.
async fn speak(outside: &Outside, url: &str) -> Result<Value, Failure> {
    json(&outside.run(&["python3", "-c", WEBSOCKET, url, CA]).await?)
}

/// Waits until this many WebSocket connections have ended at the services.
async fn ended(outside: &Outside, count: usize) -> Result<Vec<Conversation>, Failure> {
    eventually(Duration::from_secs(10), format!("{count} conversations that have ended"), async || {
        match outside.services.conversations().await {
            Ok(all) if all.len() == count => Ok(all),
            Ok(all) => Err(format!("{all:?}")),
            Err(failure) => Err(failure.to_string()),
        }
    })
    .await
}

fn check_spoken(results: &Value) -> Result<(), Failure> {
    for name in ["accepted", "text", "binary", "pong"] {
        check_told(results, &[(name, true.into())])?;
    }
    check_told(
        results,
        &[("connect", "200".into()), ("status", "101".into()), ("closed", vec![0x88, 1000].into()), ("rest", 0.into())],
    )
}

async fn websocket(context: &Context) -> Result<(), Failure> {
    let outside = Outside::start(context).await?;
    let said = Conversation { texts: vec!["一軒 one roof".to_owned()], binaries: vec![70_000], closed: Some(1000) };
    for (number, url) in [format!("wss://{HOST}/websocket"), format!("ws://{HOST}:{PORT}/websocket")].iter().enumerate()
    {
        check_spoken(&speak(&outside, url).await?).map_err(|failure| failure.during(url))?;
        let conversations = ended(&outside, number + 1).await?;
        check_eq(format!("last message at {url}"), conversations.last(), Some(&said))?;
    }
    let schemes: Vec<_> =
        outside.seen("/websocket").await?.into_iter().map(|seen| (seen.scheme, seen.status)).collect();
    check_eq("how the upgrades arrived", schemes, vec![("https".to_owned(), 101), ("http".to_owned(), 101)])?;
    check_told(
        &speak(&outside, &format!("wss://{DENIED}/websocket")).await?,
        &[("connect", "403".into()), ("status", Value::Null)],
    )
}

async fn upgrade(context: &Context) -> Result<(), Failure> {
    let outside = Outside::start(context).await?;
    // The control: through a tunnel the same request is upgraded.
    check_spoken(&speak(&outside, &format!("ws://{HOST}:{PORT}/websocket")).await?)?;
    ended(&outside, 1).await?;

    let asking = "-H 'Connection: Upgrade, X-Between' -H 'Upgrade: websocket' -H 'X-Between: hops' -H 'Sec-WebSocket-Version: 13' -H 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=='";
    let printed =
        outside.shell(&format!("curl -sSi --max-time 10 {asking} 'http://{HOST}/websocket?forwarded'")).await?;
    check(printed.starts_with("HTTP/1.1 426"), format!("the answer to a forwarded upgrade: {printed}"))?;
    let head = printed.to_lowercase();
    check(!head.contains("\nupgrade:"), format!("a header between two hops came back: {printed}"))?;
    let seen = outside.seen_once("/websocket?forwarded").await?;
    check_clean(&seen)?;
    check_eq("X-Between, which Connection names", seen.header("x-between"), None)?;
    check_eq("Sec-WebSocket-Version, which goes on", seen.header("sec-websocket-version"), Some("13"))?;
    ended(&outside, 1).await.map(|_| ())
}
