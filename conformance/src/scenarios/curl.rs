//! curl in a room: EGR-101 to EGR-105.

use std::time::Duration;

use super::outside::{CA, DENIED, HOST, NEEDS, Outside, PORT, check_agent, check_clean, json};
use crate::context::Context;
use crate::failure::{Failure, check, check_eq};
use crate::scenario::{Profile, Scenario, Severity};

/// Bytes of a large upload.
const UPLOAD: u64 = 100 << 20;
/// A room that could not hold the upload, not even once.
const SMALL_ROOM: u64 = 96 << 20;
/// How much a server may grow by while it carries uploads, in KiB: a part of one.
const GROWTH: u64 = 48 << 10;
/// Prints as many bytes, which are no two lines the same.
const MAKE: &str = "{ seq 1 100000000 2>/dev/null; true; } | head -c 104857600";
/// SHA-256 of what [`MAKE`] prints.
const MADE: &str = "f1effcdc719ae92bfcaa3a62091c8df924677a8d658ed819f9521df45b83e487";

/// What does not differ between these scenarios.
const SCENARIO: Scenario = Scenario {
    id: "EGR",
    title: "",
    severity: Severity::High,
    requirement: "plain HTTP and HTTPS CONNECT succeed for domains on the list, for the clients that rooms have",
    requires: NEEDS,
    profile: Profile::Full,
    destructive: false,
    limit: Duration::from_secs(60),
    body: body!(plain_and_tls),
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario { id: "EGR-101", title: "curl reaches an allowed name by HTTP, and by HTTPS with its certificate verified", ..SCENARIO },
    Scenario {
        id: "EGR-102",
        title: "curl --proxytunnel reaches the port that the list names, and no other",
        requirement: "allow-list: host, optional :port; without a port 80 and 443",
        body: body!(named_port),
        ..SCENARIO
    },
    Scenario {
        id: "EGR-103",
        title: "100 MiB go out of a room that could not hold them, unchanged, through a server that does not either",
        requirement: "body streamed; tunnel bytes exact",
        body: body!(upload),
        ..SCENARIO
    },
    Scenario {
        id: "EGR-104",
        title: "a client that waits for 100 Continue gets it, and gets a refusal before it has sent anything",
        requirement: "Expect: 100-continue works",
        body: body!(expectation),
        ..SCENARIO
    },
    Scenario {
        id: "EGR-105",
        title: "a redirect from an allowed name to another is judged like any request: 403",
        severity: Severity::Critical,
        requirement: "redirect from an allowed to a denied host: the second request is denied",
        body: body!(redirect),
        ..SCENARIO
    },
];

async fn plain_and_tls(context: &Context) -> Result<(), Failure> {
    let outside = Outside::start(context).await?;
    for (scheme, args) in [("http", ""), ("https", "--cacert /workspace/ca.pem")] {
        let path = format!("/echo?by={scheme}");
        let printed = outside.shell(&format!("curl -sS --max-time 10 {args} '{scheme}://{HOST}{path}'")).await?;
        let told = json(&printed)?;
        check_eq(format!("query in {told}"), told["query"].as_str(), Some(format!("by={scheme}").as_str()))?;
        let seen = outside.seen_once(&path).await?;
        check_eq("how it arrived", seen.scheme.as_str(), scheme)?;
        check_eq("Host", seen.header("host"), Some(HOST))?;
        check_agent(&seen, "curl/")?;
        check_clean(&seen)?;
    }
    // The certificate was verified: without its authority curl gives up (60), and asks nothing.
    let stranger = outside.attempt(&format!("curl -sS --max-time 10 https://{HOST}/echo?unverified")).await?;
    check_eq(format!("curl without the authority ({})", stranger.printed), stranger.status, 60)?;
    outside.never_seen("/echo?unverified").await
}

async fn named_port(context: &Context) -> Result<(), Failure> {
    let outside = Outside::start(context).await?;
    let curl = "curl -sS --max-time 10 --proxytunnel";
    let told = json(&outside.shell(&format!("{curl} 'http://{HOST}:{PORT}/echo?in=tunnel'")).await?)?;
    check_eq(format!("query in {told}"), told["query"].as_str(), Some("in=tunnel"))?;
    let seen = outside.seen_once("/echo?in=tunnel").await?;
    check_eq("how it arrived", seen.scheme.as_str(), "http")?;
    check_eq("Host", seen.header("host"), Some(format!("{HOST}:{PORT}").as_str()))?;
    // The same port in the form of a request, and ports next to it.
    let told = json(&outside.shell(&format!("curl -sS --max-time 10 'http://{HOST}:{PORT}/echo?as=request'")).await?)?;
    check_eq(format!("query in {told}"), told["query"].as_str(), Some("as=request"))?;
    for port in [PORT - 1, PORT + 1, 22] {
        let refused = outside.attempt(&format!("{curl} -o /dev/null -w '%{{http_connect}}' http://{HOST}:{port}/ 2>/dev/null")).await?;
        check_eq(format!("CONNECT {HOST}:{port}"), refused.printed.trim(), "403")?;
    }
    Ok(())
}

async fn upload(context: &Context) -> Result<(), Failure> {
    let outside = Outside::with(context, |launch| launch.without_model().set("CONTAINER_MEMORY", SMALL_ROOM)).await?;
    let memory = outside.room.inspect_json().await?["HostConfig"]["Memory"].as_u64();
    check_eq("the room's memory", memory, Some(SMALL_ROOM))?;
    let server = outside.deployment.server()?.pid();
    let before = peak(server)?;
    for (url, args) in [
        (format!("http://{HOST}/echo?upload=forwarded"), ""),
        (format!("https://{HOST}/echo?upload=tunnelled"), "--cacert /workspace/ca.pem"),
    ] {
        let line = format!("{MAKE} | curl -sS --max-time 28 {args} -T - '{url}'");
        let told = json(&outside.shell(&line).await?)?;
        check_eq(format!("bytes that arrived at {url}"), told["body_bytes"].as_u64(), Some(UPLOAD))?;
        check_eq(format!("SHA-256 of what arrived at {url}"), told["body_sha256"].as_str(), Some(MADE))?;
    }
    let (forwarded, tunnelled) = (outside.seen("/echo?upload=forwarded").await?, outside.seen("/echo?upload=tunnelled").await?);
    check_eq("requests that the services saw", (forwarded.len(), tunnelled.len()), (1, 1))?;
    let grown = peak(server)?.saturating_sub(before);
    context.note(format!("the server's peak memory grew by {grown} KiB over two uploads of {} MiB", UPLOAD >> 20));
    check(grown < GROWTH, format!("the server grew by {grown} KiB while it carried uploads"))
}

/// The most memory a process has had so far, in KiB.
fn peak(pid: u32) -> Result<u64, Failure> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let size = line.and_then(|line| line.trim().split(' ').next()).and_then(|size| size.parse().ok());
    size.ok_or_else(|| Failure::harness(format!("no VmHWM in {status}")))
}

async fn expectation(context: &Context) -> Result<(), Failure> {
    let outside = Outside::start(context).await?;
    // Without an answer to its question curl would wait longer than it may take in all.
    let curl = "curl -sS -v --max-time 15 --expect100-timeout 60 -H 'Expect: 100-continue' --data-binary hello";
    let printed = outside.shell(&format!("{curl} 'http://{HOST}/echo?expected'")).await?;
    check(printed.contains("HTTP/1.1 100 Continue"), format!("no 100 Continue: {printed}"))?;
    check(printed.contains("> Expect: 100-continue"), format!("curl did not ask: {printed}"))?;
    check(printed.contains("\"body_bytes\":5"), format!("the body did not arrive: {printed}"))?;
    check_clean(&outside.seen_once("/echo?expected").await?)?;

    let refused = outside.attempt(&format!("{curl} -w '\\nend: %{{http_code}} %{{size_upload}};\\n' -o /dev/null 'http://{DENIED}/echo?refused'")).await?;
    check(!refused.printed.contains("100 Continue"), format!("a refused request was told to go on: {}", refused.printed))?;
    check(refused.printed.contains("end: 403 0;"), format!("status and bytes sent of a refused request: {}", refused.printed))?;
    outside.never_seen("/echo?refused").await
}

async fn redirect(context: &Context) -> Result<(), Failure> {
    let outside = Outside::start(context).await?;
    let follow = async |way: &str, to: &str| {
        // Of a tunnel it is curl itself that complains, in words of its own; so this tells of tunnels, too.
        let format = "tunnel %{http_connect}; %{http_code} %{num_redirects} %{url_effective}";
        let line = format!("curl -sS --max-time 10 -L --cacert {CA} -w '\\n{format}' 'http://{HOST}/redirect?to={to}' -H 'X-Way: {way}'");
        outside.attempt(&line).await.map(|done| done.printed)
    };
    // The control: curl does follow, also from HTTP to HTTPS, where it may.
    let to = format!("https://{HOST}/echo?after=redirect");
    let followed = follow("allowed", &to).await?;
    check(followed.ends_with(&format!("200 1 {to}")), format!("a redirect to an allowed name: {followed}"))?;
    outside.seen_once("/echo?after=redirect").await?;

    let to = format!("http://{DENIED}/echo?after=denied");
    let denied = follow("denied", &to).await?;
    check(denied.ends_with(&format!("403 1 {to}")), format!("a redirect to a name off the list: {denied}"))?;
    check(denied.contains("EGRESS_DENIED"), format!("who refused it: {denied}"))?;
    let tls = follow("denied-tls", &format!("https://{DENIED}/echo?after=denied")).await?;
    check(tls.contains("tunnel 403;"), format!("a redirect to HTTPS off the list: {tls}"))?;
    let ways: Vec<_> = outside.seen("/redirect?").await?.iter().map(|seen| seen.header("x-way").map(str::to_owned)).collect();
    check_eq("redirects that were asked for", ways.len(), 3)?;
    outside.never_seen("/echo?after=denied").await
}
