//! Requests that two HTTP implementations could read differently.

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::outside::{DENIED, HOST, NEEDS};
use crate::scenarios::common::wire::{GONE, Wire};
use crate::target::outsider::PLAIN;

/// A text that a refusal must not echo.
const CANARY: &str = "canary-of-the-room";

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "EGR-202",
        "A request that two parsers could read differently ends its connection, and is never forwarded as two",
        "CL with TE, differing CLs, malformed chunk sizes, bare LF, obs-fold, Content-Length: +5: 400 and close",
        body!(framing),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(NEEDS)
    .limit(90),
    Scenario::new(
        "EGR-203",
        "A request with contradicting hosts is refused; a forwarded one names its target once, in canonical form",
        "Host rewritten from the target; a Host that contradicts the absolute URI: 400",
        body!(contradicting_hosts),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(NEEDS)
    .limit(90),
    Scenario::new(
        "EGR-204",
        "Proxy headers are not forwarded, a refusal echoes nothing, and bytes after a refused tunnel are dropped",
        "hop-by-hop headers and those named in Connection dropped, Proxy-* never forwarded; error pages echo nothing",
        body!(nothing_echoed),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(NEEDS)
    .limit(90),
];

/// Header lines and bodies of a first request. A target that ends this request at another byte than the proxy sees a second request.
const FRAMINGS: [&str; 23] = [
    "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\n",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding\r\n : chunked\r\n\r\n0\r\n\r\n",
    "X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "X: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "X: y\r\n folded\r\n\r\n",
    "Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "Content-Length: 1, 1\r\n\r\na",
    "Content-Length: +1\r\n\r\na",
    "Content-Length: 0x1\r\n\r\na",
    "Content-Length: -1\r\n\r\n",
    "Content-Length: 18446744073709551616\r\n\r\na",
    "Transfer-Encoding: chunked\r\n\r\n+1\r\na\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked\r\n\r\n10000000000000001\r\na\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked\r\n\r\n1;x\ny\r\na\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked\r\n\r\n1\r\naX0\r\n\r\n",
];

async fn framing(context: &Context) -> Result<(), Failure> {
    // It keeps the connection open, so that a second request could follow.
    let wire = Wire::start(context, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await?;
    let second = format!("GET http://{HOST}/second HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    // The control: after an unambiguous request, the next one is processed.
    let whole = format!("POST http://{HOST}/first HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 4\r\n\r\nbody{second}");
    let answer = wire.talk(whole.as_bytes(), "two requests, one after the other").await?;
    check_eq(format!("responses to two requests ({answer:?})"), answer.answers(), 2)?;
    let seen = wire.peer.seen().matches("/second").count();
    check_eq("requests for /second that arrived", seen, 1)?;
    for lines in FRAMINGS {
        let bytes = format!("POST http://{HOST}/first HTTP/1.1\r\nHost: {HOST}\r\n{lines}{second}");
        let answer = wire.talk(bytes.as_bytes(), &format!("a request with {lines:?}")).await?;
        check_eq(format!("responses to one request with {lines:?} ({answer:?})"), answer.answers(), 1)?;
        // A response that the target sends before it has the whole body may be forwarded; no other may follow.
        let ends = answer.has_line("Connection: close");
        check(ends, format!("a request with {lines:?} does not end its connection: {answer:?}"))?;
        check_eq(
            format!("requests for /second that arrived after {lines:?}"),
            wire.peer.seen().matches("/second").count(),
            1,
        )?;
    }
    Ok(())
}

async fn contradicting_hosts(context: &Context) -> Result<(), Failure> {
    let wire = Wire::start(context, PLAIN).await?;
    for (target, host, status) in [
        (format!("http://{HOST}/"), format!("{HOST}:80"), 200),
        (format!("http://{HOST}:8080/"), format!("{HOST}:8080"), 200),
        // Clients that omit the port.
        (format!("http://{HOST}:8080/"), HOST.to_owned(), 200),
        (format!("http://{HOST}/"), DENIED.to_owned(), 400),
        (format!("http://{HOST}/"), format!("{HOST}:8080"), 400),
        (format!("http://{HOST}/"), format!("{HOST}, {DENIED}"), 400),
        (format!("http://{HOST}/"), format!("{DENIED}@{HOST}"), 400),
        (format!("http://{HOST}/"), format!("{HOST}\r\nHost: {HOST}"), 400),
        (format!("http://{HOST}/"), String::new(), 400),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = wire.talk(request.as_bytes(), &request).await?;
        check_eq(format!("status of GET {target} with Host: {host:?} ({answer:?})"), answer.status(), Some(status))?;
    }
    for (target, host, status) in [
        (format!("{HOST}:80"), format!("{HOST}:80"), 200),
        (format!("{HOST}:80"), HOST.to_owned(), 200),
        (format!("{HOST}:80"), format!("{DENIED}:80"), 400),
        (format!("{HOST}:80"), format!("{HOST}:8080"), 400),
        (HOST.to_owned(), HOST.to_owned(), 400),
    ] {
        let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {host}\r\n\r\nGET / HTTP/1.1\r\n\r\n");
        let answer = wire.talk(request.as_bytes(), &request).await?;
        check_eq(
            format!("status of CONNECT {target} with Host: {host:?} ({answer:?})"),
            answer.status(),
            Some(status),
        )?;
    }
    let before = wire.peer.seen().len();
    let request = "GET http://SERVICES.conformance.test.:80/one HTTP/1.1\r\nHost: services.CONFORMANCE.test\r\nConnection: close\r\n\r\n";
    wire.talk(request.as_bytes(), request).await?;
    let seen = wire.peer.seen().split_off(before).to_ascii_lowercase();
    check(seen.contains(&format!("\r\nhost: {HOST}\r\n")), format!("the forwarded request has another host: {seen:?}"))
}

async fn nothing_echoed(context: &Context) -> Result<(), Failure> {
    let wire = Wire::start(context, PLAIN).await?;
    let secret =
        format!("Proxy-Authorization: Basic {CANARY}\r\nAuthorization: Bearer {CANARY}\r\nCookie: {CANARY}\r\n");
    for (target, host, status, code) in [
        (format!("http://{DENIED}/{CANARY}?{CANARY}"), DENIED, 403, "EGRESS_DENIED"),
        (format!("http://{GONE}/{CANARY}?{CANARY}"), GONE, 502, "error"),
        (format!("http://u:{CANARY}@{HOST}/"), HOST, 400, "error"),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n{secret}Connection: close\r\n\r\n");
        let answer = wire.talk(request.as_bytes(), &target).await?;
        check_eq(format!("status of a request that is refused ({answer:?})"), answer.status(), Some(status))?;
        check(answer.text.contains(code), format!("a refusal with {status} does not contain {code:?}: {answer:?}"))?;
        check(!answer.text.contains(CANARY), format!("a refusal with {status} echoes the request: {answer:?}"))?;
    }
    let request = format!(
        "GET http://{HOST}/kept HTTP/1.1\r\nHost: {HOST}\r\nProxy-Authorization: {CANARY}\r\nProxy-X: {CANARY}\r\n\
         Connection: close, x-private\r\nX-Private: {CANARY}\r\nKeep-Alive: {CANARY}\r\nTE: {CANARY}\r\nUpgrade: {CANARY}\r\nX-Public: yes\r\n\r\n"
    );
    wire.talk(request.as_bytes(), "a request with headers of all kinds").await?;
    let seen = wire.peer.seen();
    check(seen.to_ascii_lowercase().contains("x-public: yes"), format!("a header is lost: {seen:?}"))?;
    check(!seen.contains(CANARY), format!("a header meant for the proxy was forwarded: {seen:?}"))?;

    let reached = wire.peer.connections();
    for (target, status) in [(format!("{DENIED}:443"), 403), (format!("{HOST}:22"), 403), (HOST.to_owned(), 400)] {
        let bytes = format!(
            "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\nGET http://{HOST}/after HTTP/1.1\r\nHost: {HOST}\r\n\r\n"
        );
        let answer = wire.talk(bytes.as_bytes(), &target).await?;
        check_eq(format!("status of CONNECT {target}"), answer.status(), Some(status))?;
        check_eq(format!("responses after a refused CONNECT {target} ({answer:?})"), answer.answers(), 1)?;
    }
    check_eq("connections outside after refused tunnels", wire.peer.connections(), reached)
}
