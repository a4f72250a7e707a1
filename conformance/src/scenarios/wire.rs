//! Bytes that a room may send to its way out, and no client would: EGR.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::outside::{DENIED, HOST, NEEDS};
use crate::client::raw::{self, Answer};
use crate::context::Context;
use crate::failure::{Failure, check, check_eq};
use crate::poll::eventually;
use crate::scenario::{Profile, Scenario, Severity};
use crate::target::deployment::Deployment;
use crate::target::launch::Launch;
use crate::target::outsider::{Outsider, PLAIN};

/// A name on the list by a pattern.
const BELOW: &str = "a.below.conformance.test";
/// A name on the list that leads to where nobody listens.
const GONE: &str = "gone.conformance.test";
/// What must not be told again.
const CANARY: &str = "canary-of-the-room";

/// What the scenarios here have in common.
const SCENARIO: Scenario = Scenario {
    id: "EGR",
    title: "",
    severity: Severity::Critical,
    requirement: "hosts are read once; userinfo, NUL, control characters, %, empty labels, brackets without IPv6: 400; addresses never match names",
    requires: NEEDS,
    profile: Profile::Full,
    destructive: false,
    limit: Duration::from_secs(90),
    body: body!(spellings),
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario { id: "EGR-201", title: "no spelling of a host leads past the list, in a request or a tunnel", ..SCENARIO },
    Scenario {
        id: "EGR-202",
        title: "a request that two programs could read as different requests ends its connection, and no second one is made of it",
        requirement: "CL with TE, differing CLs, malformed chunk sizes, bare LF, obs-fold, Content-Length: +5: 400 and close",
        body: body!(framing),
        ..SCENARIO
    },
    Scenario {
        id: "EGR-203",
        title: "names that a request gives twice are the same, or it is refused; what goes on has the target's one spelling",
        requirement: "Host rewritten from the target; a Host that contradicts the absolute URI: 400",
        body: body!(said_twice),
        ..SCENARIO
    },
    Scenario {
        id: "EGR-204",
        title: "what is meant for a proxy stays there, a refusal echoes nothing, and what follows a refused tunnel is no request",
        requirement: "hop-by-hop headers and those named in Connection dropped, Proxy-* never forwarded; error pages never echo headers or queries",
        body: body!(nothing_echoed),
        ..SCENARIO
    },
    Scenario {
        id: "EGR-205",
        title: "a body is the target's, byte for byte, and a target that switches protocols is not believed",
        severity: Severity::High,
        requirement: "never decompressed or re-compressed; Upgrade: only by CONNECT",
        body: body!(bodies),
        ..SCENARIO
    },
    Scenario {
        id: "EGR-206",
        title: "a head of more than 16 KiB, or of more than 100 lines, is refused with a status of its own, and one below is not",
        severity: Severity::High,
        requirement: "head 16 KiB, 100 headers; each limit answers with its own status and reason",
        body: body!(heads),
        ..SCENARIO
    },
    Scenario {
        id: "EGR-211",
        title: "two hundred heads that never end and a hundred tunnels that say nothing hold nobody up, and such a head is answered",
        severity: Severity::High,
        requirement: "slowloris head, body, and upstream; idle tunnels",
        limit: Duration::from_secs(120),
        body: body!(slow),
        ..SCENARIO
    },
];

/// Heads that never end, and tunnels that say nothing: fewer than a proxy may refuse to have at once.
const SLOW: usize = 200;
const SILENT: usize = 100;
/// How long a proxy may wait for the end of a head.
const HEAD_LIMIT: Duration = Duration::from_secs(90);

/// A room's way out, and somebody outside.
struct Wire {
    deployment: Deployment,
    proxy: PathBuf,
    peer: Outsider,
}

impl Wire {
    /// All names lead to somebody who gives this answer, also the one that is not on the list.
    async fn start(context: &Context, answer: &str) -> Result<Self, Failure> {
        let peer = context.outsider(answer).await?;
        let nobody = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let mut launch = Launch::new()
            .set("PROXY_ALLOWED_DOMAINS", format!("{HOST},{HOST}:8080,*.below.conformance.test,{GONE}"))
            .pin_address(GONE, 80, &nobody)
            .without_model()
            .set("WARM_POOL_MIN_SIZE", 1);
        for (host, port) in [(HOST, 80), (HOST, 443), (HOST, 8080), (BELOW, 80), (DENIED, 80), (DENIED, 443)] {
            launch = launch.pin_address(host, port, &peer.address);
        }
        let deployment = context.launch(launch).await?;
        deployment.metric("workspace_warm_pool_size", |waiting| waiting == 1.0, Duration::from_secs(20)).await?;
        let proxy = deployment.only_room().await?.socket_dir().await?.join("proxy.sock");
        let wire = Self { deployment, proxy, peer };
        // The control of every scenario here: a plain request gets there, and its answer back.
        let request = format!("GET http://{HOST}/control HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
        let control = wire.talk(request.as_bytes(), "a plain request").await?;
        check_eq(format!("status of a plain request ({control:?})"), control.status(), Some(200))?;
        check(wire.peer.seen().contains("GET /control HTTP/1.1\r\n"), format!("what arrived: {:?}", wire.peer.seen()))?;
        Ok(wire)
    }

    async fn talk(&self, bytes: &[u8], what: &str) -> Result<Answer, Failure> {
        raw::talk(&self.proxy, bytes).await.map_err(|error| Failure::mismatch(what, "an answer, and an end", error))
    }

    /// A request for this host, in absolute form and as a tunnel.
    async fn both(&self, host: &[u8]) -> Result<[Answer; 2], Failure> {
        let absolute = [b"GET http://", host, b"/spelled HTTP/1.1\r\nHost: ", host, b"\r\nConnection: close\r\n\r\n"].concat();
        let tunnel = [b"CONNECT ", host, b":80 HTTP/1.1\r\nHost: ", host, b":80\r\n\r\nGET /spelled HTTP/1.1\r\n\r\n"].concat();
        let shown = String::from_utf8_lossy(host).into_owned();
        Ok([self.talk(&absolute, &format!("GET http://{shown}/")).await?, self.talk(&tunnel, &format!("CONNECT {shown}")).await?])
    }
}

/// Spellings that are refused; the status is the one of the rule, or 403 where the rule's would be 400: what looks like a path or a
/// port after all is one, of a host that is not on the list.
const SPELLINGS: [(&[u8], u16); 43] = [
    // What ends a string early for one program and not for another.
    (b"denied.conformance.test\0.below.conformance.test", 400),
    (b"denied.conformance.test%00.below.conformance.test", 400),
    (b"denied.conformance.test%2ebelow.conformance.test", 400),
    (b"denied.conformance.test\t.below.conformance.test", 400),
    (b"denied.conformance.test\x7f.below.conformance.test", 400),
    (b"denied.conformance.test/.below.conformance.test", 400),
    (b"denied.conformance.test?.below.conformance.test", 400),
    (b"denied.conformance.test#.below.conformance.test", 400),
    (b"denied.conformance.test\\.below.conformance.test", 400),
    // Dots, and what only ends or begins like a name on the list.
    (b"services.conformance.test..", 400),
    (b".services.conformance.test", 400),
    (b"services..conformance.test", 400),
    (b"below.conformance.test", 403),
    (b"xbelow.conformance.test", 403),
    (b"services.conformance.test.denied.conformance.test", 403),
    (b"xservices.conformance.test", 403),
    // Letters that look alike: a Cyrillic e, as it is and in its own encoding.
    (b"s\xd0\xb5rvices.conformance.test", 400),
    (b"xn--srvices-8fg.conformance.test", 403),
    // Brackets.
    (b"[services.conformance.test]", 400),
    (b"[services.conformance.test", 400),
    (b"services.conformance.test]", 400),
    (b"[::ffff:services.conformance.test]", 400),
    // Addresses, in every dress.
    (b"127.0.0.1", 403),
    (b"127.1", 400),
    (b"0x7f000001", 400),
    (b"0x7f.0.0.1", 400),
    (b"0177.0.0.1", 400),
    (b"2130706433", 400),
    (b"0", 400),
    (b"0.0.0.0", 403),
    (b"169.254.169.254", 403),
    (b"100.64.0.1", 403),
    (b"[::1]", 403),
    (b"[::]", 403),
    (b"[::ffff:127.0.0.1]", 403),
    (b"[::ffff:7f00:1]", 403),
    (b"[64:ff9b::7f00:1]", 403),
    (b"[2002:7f00:1::]", 403),
    (b"[fe80::1%25eth0]", 400),
    (b"\xef\xbc\x9127.0.0.1", 400),
    // Somebody in front of the host.
    (b"services.conformance.test@169.254.169.254", 400),
    (b"services.conformance.test:x@169.254.169.254", 400),
    (b"x@services.conformance.test", 400),
];

async fn spellings(context: &Context) -> Result<(), Failure> {
    let wire = Wire::start(context, PLAIN).await?;
    for good in [HOST, "SERVICES.Conformance.Test", "services.conformance.test.", BELOW] {
        for answer in wire.both(good.as_bytes()).await? {
            check_eq(format!("status for the host {good:?} ({answer:?})"), answer.status(), Some(200))?;
        }
    }
    let reached = wire.peer.connections();
    for (host, status) in SPELLINGS {
        let shown = String::from_utf8_lossy(host);
        for (form, answer) in ["a request", "a tunnel"].into_iter().zip(wire.both(host).await?) {
            let refused = answer.status() == Some(status) || (status == 400 && answer.status() == Some(403));
            check(refused, format!("{form} for the host {shown:?} must be answered with {status}: {answer:?}"))?;
            check(answer.has_line("X-Nagaya-Egress: denied"), format!("{form} for the host {shown:?} has no X-Nagaya-Egress: denied: {answer:?}"))?;
        }
        check_eq(format!("connections outside after the host {shown:?}"), wire.peer.connections(), reached)?;
    }
    for port in ["22", "0", "65536", "-1", "080x", "443443"] {
        let request = format!("GET http://{HOST}:{port}/ HTTP/1.1\r\nHost: {HOST}:{port}\r\nConnection: close\r\n\r\n");
        let answer = wire.talk(request.as_bytes(), port).await?;
        check(matches!(answer.status(), Some(400 | 403)), format!("a request for port {port}: {answer:?}"))?;
    }
    check_eq("connections outside in the end", wire.peer.connections(), reached)
}

/// Lines after a first request's, and bodies: whoever ends that request elsewhere than the proxy sees the second one.
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
    // It keeps its connection, so that a second request could come over it.
    let wire = Wire::start(context, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await?;
    let second = format!("GET http://{HOST}/second HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    // The control: where a request does end, the next is one.
    let whole = format!("POST http://{HOST}/first HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 4\r\n\r\nbody{second}");
    let answer = wire.talk(whole.as_bytes(), "two requests, one after the other").await?;
    check_eq(format!("answers to two requests ({answer:?})"), answer.answers(), 2)?;
    let seen = wire.peer.seen().matches("/second").count();
    check_eq("requests for /second that arrived", seen, 1)?;
    for lines in FRAMINGS {
        let bytes = format!("POST http://{HOST}/first HTTP/1.1\r\nHost: {HOST}\r\n{lines}{second}");
        let answer = wire.talk(bytes.as_bytes(), &format!("a request with {lines:?}")).await?;
        check_eq(format!("answers to one request with {lines:?} ({answer:?})"), answer.answers(), 1)?;
        // A target that answers before it has the whole body may be heard; it is the last that is.
        let ends = answer.has_line("Connection: close");
        check(ends, format!("a request with {lines:?} does not end its connection: {answer:?}"))?;
        check_eq(format!("requests for /second that arrived after {lines:?}"), wire.peer.seen().matches("/second").count(), 1)?;
    }
    Ok(())
}

async fn said_twice(context: &Context) -> Result<(), Failure> {
    let wire = Wire::start(context, PLAIN).await?;
    for (target, host, status) in [
        (format!("http://{HOST}/"), format!("{HOST}:80"), 200),
        (format!("http://{HOST}:8080/"), format!("{HOST}:8080"), 200),
        // Clients that leave the port out.
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
        check_eq(format!("status of CONNECT {target} with Host: {host:?} ({answer:?})"), answer.status(), Some(status))?;
    }
    let before = wire.peer.seen().len();
    let request = "GET http://SERVICES.conformance.test.:80/one HTTP/1.1\r\nHost: services.CONFORMANCE.test\r\nConnection: close\r\n\r\n";
    wire.talk(request.as_bytes(), request).await?;
    let seen = wire.peer.seen().split_off(before).to_ascii_lowercase();
    check(seen.contains(&format!("\r\nhost: {HOST}\r\n")), format!("what arrived has another host: {seen:?}"))
}

async fn nothing_echoed(context: &Context) -> Result<(), Failure> {
    let wire = Wire::start(context, PLAIN).await?;
    let secret = format!("Proxy-Authorization: Basic {CANARY}\r\nAuthorization: Bearer {CANARY}\r\nCookie: {CANARY}\r\n");
    for (target, host, status, code) in [
        (format!("http://{DENIED}/{CANARY}?{CANARY}"), DENIED, 403, "EGRESS_DENIED"),
        (format!("http://{GONE}/{CANARY}?{CANARY}"), GONE, 502, "error"),
        (format!("http://u:{CANARY}@{HOST}/"), HOST, 400, "error"),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n{secret}Connection: close\r\n\r\n");
        let answer = wire.talk(request.as_bytes(), &target).await?;
        check_eq(format!("status of a request that is refused ({answer:?})"), answer.status(), Some(status))?;
        check(answer.text.contains(code), format!("a refusal with {status} does not say {code:?}: {answer:?}"))?;
        check(!answer.text.contains(CANARY), format!("a refusal with {status} tells again what it was told: {answer:?}"))?;
    }
    let request = format!(
        "GET http://{HOST}/kept HTTP/1.1\r\nHost: {HOST}\r\nProxy-Authorization: {CANARY}\r\nProxy-X: {CANARY}\r\n\
         Connection: close, x-private\r\nX-Private: {CANARY}\r\nKeep-Alive: {CANARY}\r\nTE: {CANARY}\r\nUpgrade: {CANARY}\r\nX-Public: yes\r\n\r\n"
    );
    wire.talk(request.as_bytes(), "a request with headers of all kinds").await?;
    let seen = wire.peer.seen();
    check(seen.to_ascii_lowercase().contains("x-public: yes"), format!("a header is lost: {seen:?}"))?;
    check(!seen.contains(CANARY), format!("what is the proxy's alone got out: {seen:?}"))?;

    let reached = wire.peer.connections();
    for (target, status) in [(format!("{DENIED}:443"), 403), (format!("{HOST}:22"), 403), (HOST.to_owned(), 400)] {
        let bytes = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\nGET http://{HOST}/after HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
        let answer = wire.talk(bytes.as_bytes(), &target).await?;
        check_eq(format!("status of CONNECT {target}"), answer.status(), Some(status))?;
        check_eq(format!("answers after a refused CONNECT {target} ({answer:?})"), answer.answers(), 1)?;
    }
    check_eq("connections outside after refused tunnels", wire.peer.connections(), reached)
}

async fn bodies(context: &Context) -> Result<(), Failure> {
    let packed = "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Type: text/plain\r\nContent-Length: 6\r\nConnection: close\r\n\r\n\x1f\x08\x00abc";
    let wire = Wire::start(context, packed).await?;
    check(!wire.peer.seen().to_ascii_lowercase().contains("accept-encoding"), "a compression is asked for that the client did not ask for")?;
    let asks = format!("GET http://{HOST}/ HTTP/1.1\r\nHost: {HOST}\r\nAccept-Encoding: br;q=1\r\nConnection: close\r\n\r\n");
    let answer = wire.talk(asks.as_bytes(), "a request that accepts a compression").await?;
    check(answer.has_line("Content-Encoding: gzip"), format!("the answer's encoding is lost: {answer:?}"))?;
    check(answer.text.ends_with("\r\n\r\n\x1f\x08\x00abc"), format!("the answer's body is another: {answer:?}"))?;
    check(wire.peer.seen().to_ascii_lowercase().contains("accept-encoding: br;q=1"), format!("what arrived: {:?}", wire.peer.seen()))?;

    let switching = context.outsider("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\nraw").await?;
    let launch = Launch::new().set("PROXY_ALLOWED_DOMAINS", HOST).pin_address(HOST, 80, &switching.address);
    let deployment = context.launch(launch.without_model().set("WARM_POOL_MIN_SIZE", 1)).await?;
    deployment.metric("workspace_warm_pool_size", |waiting| waiting == 1.0, Duration::from_secs(20)).await?;
    let proxy = deployment.only_room().await?.socket_dir().await?.join("proxy.sock");
    let asks = format!("GET http://{HOST}/ HTTP/1.1\r\nHost: {HOST}\r\nConnection: upgrade, close\r\nUpgrade: websocket\r\n\r\n");
    let answer = raw::talk(&proxy, asks.as_bytes()).await.map_err(Failure::assertion)?;
    check_eq(format!("status when a target switches protocols ({answer:?})"), answer.status(), Some(502))?;
    check(!switching.seen().to_ascii_lowercase().contains("upgrade"), format!("an upgrade was asked for: {:?}", switching.seen()))
}

async fn heads(context: &Context) -> Result<(), Failure> {
    let wire = Wire::start(context, PLAIN).await?;
    let with = |count: usize, width: usize| {
        let lines: String = (0..count).map(|n| format!("X-{n}: {}\r\n", "v".repeat(width))).collect();
        format!("GET http://{HOST}/head HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n{lines}\r\n")
    };
    for (what, head, fits) in [
        ("of 90 lines", with(90, 8), true),
        ("of 14 KiB", with(1, 14 << 10), true),
        ("of 110 lines", with(110, 8), false),
        ("of 17 KiB in one line", with(1, 17 << 10), false),
        ("of 17 KiB in many lines", with(40, 440), false),
    ] {
        let reached = wire.peer.connections();
        let answer = wire.talk(head.as_bytes(), what).await?;
        if fits {
            check_eq(format!("status of a head {what} ({answer:?})"), answer.status(), Some(200))?;
        } else {
            check_eq(format!("status of a head {what} ({answer:?})"), answer.status(), Some(431))?;
            check_eq(format!("connections outside after a head {what}"), wire.peer.connections(), reached)?;
        }
    }
    Ok(())
}

/// Connects, and says this.
async fn holding(proxy: &Path, bytes: String) -> Result<UnixStream, Failure> {
    let mut stream = UnixStream::connect(proxy).await?;
    stream.write_all(bytes.as_bytes()).await?;
    Ok(stream)
}

async fn slow(context: &Context) -> Result<(), Failure> {
    let wire = Wire::start(context, PLAIN).await?;
    let descriptors = wire.deployment.server()?.descriptors()?;
    let (mut heads, mut tunnels) = (Vec::new(), Vec::new());
    for number in 0..SLOW {
        heads.push(holding(&wire.proxy, format!("GET http://{HOST}/slow{number} HTTP/1.1\r\nHost: {HOST}\r\nX-Half: ")).await?);
    }
    for _ in 0..SILENT {
        tunnels.push(holding(&wire.proxy, format!("CONNECT {HOST}:8080 HTTP/1.1\r\nHost: {HOST}:8080\r\n\r\n")).await?);
    }
    // The control: they are held. Every tunnel was answered.
    for tunnel in &mut tunnels {
        let mut answer = [0; 12];
        let read = tokio::time::timeout(HEAD_LIMIT, tunnel.read_exact(&mut answer)).await;
        read.map_err(|_| Failure::assertion("a tunnel that says nothing is not answered"))??;
        check_eq("the beginning of the answer to CONNECT", String::from_utf8_lossy(&answer).into_owned().as_str(), "HTTP/1.1 200")?;
    }
    let held = wire.deployment.server()?.descriptors()?;
    check(held >= descriptors + SLOW + SILENT, format!("{held} descriptors after {descriptors}: nothing is held"))?;
    let request = format!("GET http://{HOST}/beside HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    for _ in 0..20 {
        let beside = wire.talk(request.as_bytes(), "a request beside them").await?;
        check_eq(format!("status of a request beside them ({beside:?})"), beside.status(), Some(200))?;
    }
    wire.deployment.api.get("/health/ready").await?.expect(200)?;

    for mut head in heads {
        let mut answer = Vec::new();
        let read = tokio::time::timeout(HEAD_LIMIT, head.read_to_end(&mut answer)).await;
        read.map_err(|_| Failure::assertion(format!("a head that never ends is waited for longer than {HEAD_LIMIT:?}")))??;
        let text = String::from_utf8_lossy(&answer).into_owned();
        check(text.starts_with("HTTP/1.1 408 "), format!("a head that never ends is answered {text:?}"))?;
    }
    drop(tunnels);
    check_eq("requests of theirs that arrived", wire.peer.seen().matches("/slow").count(), 0)?;
    eventually(HEAD_LIMIT, "descriptors as before", async || {
        let now = wire.deployment.server()?.descriptors()?;
        // A connection of the API's client, or to the engine, may have come meanwhile.
        check(now <= descriptors + 8, format!("{now} descriptors, {descriptors} before"))
    })
    .await
}
