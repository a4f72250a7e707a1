//! curl in a workspace.

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::outside::{CA, DENIED, HOST, NEEDS, Outside, PORT, check_agent, check_clean, json};

/// Size of a large upload in bytes.
const UPLOAD: u64 = 100 << 20;
/// Memory of a workspace that cannot hold the upload.
const SMALL_ROOM: u64 = 96 << 20;
/// How much the server's memory may grow while it forwards uploads, in KiB: a fraction of one upload.
const GROWTH: u64 = 48 << 10;
/// Prints as many bytes, in lines that all differ.
const MAKE: &str = "{ seq 1 100000000 2>/dev/null; true; } | head -c 104857600";
/// SHA-256 of the output of [`MAKE`].
const MADE: &str = "f1effcdc719ae92bfcaa3a62091c8df924677a8d658ed819f9521df45b83e487";

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "EGR-101",
        "curl reaches an allowed host by HTTP, and by HTTPS with the certificate verified",
        "plain HTTP and HTTPS CONNECT succeed for domains on the list, for the clients that workspaces have",
        body!(plain_and_tls),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(NEEDS),
    Scenario::new(
        "EGR-102",
        "curl --proxytunnel reaches the port that the allow-list names, and no other",
        "allow-list: host, optional :port; without a port 80 and 443",
        body!(named_port),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(NEEDS),
    Scenario::new(
        "EGR-103",
        "An upload of 100 MiB leaves a workspace with less memory unchanged, through a server that does not buffer it",
        "body streamed; tunnel bytes exact",
        body!(upload),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(NEEDS),
    Scenario::new(
        "EGR-104",
        "A client that expects 100 Continue receives it, or a refusal before it has sent the body",
        "Expect: 100-continue works",
        body!(expectation),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(NEEDS),
    Scenario::new(
        "EGR-105",
        "A redirect from an allowed host to a forbidden one is refused with 403, like any other request",
        "redirect from an allowed to a denied host: the second request is denied",
        body!(redirect),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(NEEDS),
];

async fn plain_and_tls(context: &Context) -> Result<(), Failure> {
    let outside = Outside::start(context).await?;
    for (scheme, args) in [("http", ""), ("https", "--cacert /workspace/ca.pem")] {
        let path = format!("/echo?by={scheme}");
        let printed = outside.shell(&format!("curl -sS --max-time 10 {args} '{scheme}://{HOST}{path}'")).await?;
        let echoed = json(&printed)?;
        check_eq(format!("query in {echoed}"), echoed["query"].as_str(), Some(format!("by={scheme}").as_str()))?;
        let seen = outside.seen_once(&path).await?;
        check_eq("the request as it arrived", seen.scheme.as_str(), scheme)?;
        check_eq("Host", seen.header("host"), Some(HOST))?;
        check_agent(&seen, "curl/")?;
        check_clean(&seen)?;
    }
    // The certificate is verified: without its authority curl fails (60) and sends no request.
    let stranger = outside.attempt(&format!("curl -sS --max-time 10 https://{HOST}/echo?unverified")).await?;
    check_eq(format!("curl without the authority ({})", stranger.printed), stranger.status, 60)?;
    outside.never_seen("/echo?unverified").await
}

async fn named_port(context: &Context) -> Result<(), Failure> {
    let outside = Outside::start(context).await?;
    let curl = "curl -sS --max-time 10 --proxytunnel";
    let echoed = json(&outside.shell(&format!("{curl} 'http://{HOST}:{PORT}/echo?in=tunnel'")).await?)?;
    check_eq(format!("query in {echoed}"), echoed["query"].as_str(), Some("in=tunnel"))?;
    let seen = outside.seen_once("/echo?in=tunnel").await?;
    check_eq("the request as it arrived", seen.scheme.as_str(), "http")?;
    check_eq("Host", seen.header("host"), Some(format!("{HOST}:{PORT}").as_str()))?;
    // The same port in a plain request, and the ports next to it.
    let echoed =
        json(&outside.shell(&format!("curl -sS --max-time 10 'http://{HOST}:{PORT}/echo?as=request'")).await?)?;
    check_eq(format!("query in {echoed}"), echoed["query"].as_str(), Some("as=request"))?;
    for port in [PORT - 1, PORT + 1, 22] {
        let refused = outside
            .attempt(&format!("{curl} -o /dev/null -w '%{{http_connect}}' http://{HOST}:{port}/ 2>/dev/null"))
            .await?;
        check_eq(format!("CONNECT {HOST}:{port}"), refused.printed.trim(), "403")?;
    }
    Ok(())
}

async fn upload(context: &Context) -> Result<(), Failure> {
    let outside = Outside::with(context, |launch| launch.without_model().set("CONTAINER_MEMORY", SMALL_ROOM)).await?;
    let memory = outside.room.inspect_json().await?["HostConfig"]["Memory"].as_u64();
    check_eq("the workspace's memory", memory, Some(SMALL_ROOM))?;
    let server = outside.deployment.server()?.pid();
    let before = peak(server)?;
    for (url, args) in [
        (format!("http://{HOST}/echo?upload=forwarded"), ""),
        (format!("https://{HOST}/echo?upload=tunnelled"), "--cacert /workspace/ca.pem"),
    ] {
        let line = format!("{MAKE} | curl -sS --max-time 28 {args} -T - '{url}'");
        let echoed = json(&outside.shell(&line).await?)?;
        check_eq(format!("bytes that arrived at {url}"), echoed["body_bytes"].as_u64(), Some(UPLOAD))?;
        check_eq(format!("SHA-256 of what arrived at {url}"), echoed["body_sha256"].as_str(), Some(MADE))?;
    }
    let (forwarded, tunnelled) =
        (outside.seen("/echo?upload=forwarded").await?, outside.seen("/echo?upload=tunnelled").await?);
    check_eq("requests that the services saw", (forwarded.len(), tunnelled.len()), (1, 1))?;
    let grown = peak(server)?.saturating_sub(before);
    context.note(format!("the server's peak memory grew by {grown} KiB over two uploads of {} MiB", UPLOAD >> 20));
    check(grown < GROWTH, format!("the server grew by {grown} KiB while it carried uploads"))
}

/// The peak memory of a process, in KiB.
fn peak(pid: u32) -> Result<u64, Failure> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let size = line.and_then(|line| line.trim().split(' ').next()).and_then(|size| size.parse().ok());
    size.ok_or_else(|| Failure::harness(format!("no VmHWM in {status}")))
}

async fn expectation(context: &Context) -> Result<(), Failure> {
    let outside = Outside::start(context).await?;
    // Without a 100 response curl would wait longer than its time limit.
    let curl = "curl -sS -v --max-time 15 --expect100-timeout 60 -H 'Expect: 100-continue' --data-binary hello";
    let printed = outside.shell(&format!("{curl} 'http://{HOST}/echo?expected'")).await?;
    check(printed.contains("HTTP/1.1 100 Continue"), format!("no 100 Continue: {printed}"))?;
    check(printed.contains("> Expect: 100-continue"), format!("curl did not ask: {printed}"))?;
    check(printed.contains("\"body_bytes\":5"), format!("the body did not arrive: {printed}"))?;
    check_clean(&outside.seen_once("/echo?expected").await?)?;

    let refused = outside
        .attempt(&format!(
            "{curl} -w '\\nend: %{{http_code}} %{{size_upload}};\\n' -o /dev/null 'http://{DENIED}/echo?refused'"
        ))
        .await?;
    check(
        !refused.printed.contains("100 Continue"),
        format!("a refused request received 100 Continue: {}", refused.printed),
    )?;
    check(
        refused.printed.contains("end: 403 0;"),
        format!("status and bytes sent of a refused request: {}", refused.printed),
    )?;
    outside.never_seen("/echo?refused").await
}

async fn redirect(context: &Context) -> Result<(), Failure> {
    let outside = Outside::start(context).await?;
    let follow = async |way: &str, to: &str| {
        // For a tunnel curl prints an error of its own, so the format covers tunnels, too.
        let format = "tunnel %{http_connect}; %{http_code} %{num_redirects} %{url_effective}";
        let line = format!(
            "curl -sS --max-time 10 -L --cacert {CA} -w '\\n{format}' 'http://{HOST}/redirect?to={to}' -H 'X-Way: {way}'"
        );
        outside.attempt(&line).await.map(|done| done.printed)
    };
    // The control: curl follows allowed redirects, also from HTTP to HTTPS.
    let to = format!("https://{HOST}/echo?after=redirect");
    let followed = follow("allowed", &to).await?;
    check(followed.ends_with(&format!("200 1 {to}")), format!("a redirect to an allowed name: {followed}"))?;
    outside.seen_once("/echo?after=redirect").await?;

    let to = format!("http://{DENIED}/echo?after=denied");
    let denied = follow("denied", &to).await?;
    check(denied.ends_with(&format!("403 1 {to}")), format!("a redirect to a name off the list: {denied}"))?;
    check(denied.contains("EGRESS_DENIED"), format!("the header of the refusal: {denied}"))?;
    let tls = follow("denied-tls", &format!("https://{DENIED}/echo?after=denied")).await?;
    check(tls.contains("tunnel 403;"), format!("a redirect to HTTPS off the list: {tls}"))?;
    let ways: Vec<_> =
        outside.seen("/redirect?").await?.iter().map(|seen| seen.header("x-way").map(str::to_owned)).collect();
    check_eq("redirects that were asked for", ways.len(), 3)?;
    outside.never_seen("/echo?after=denied").await
}
