//! The whole of what a target receives.

use serde_json::Value;

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::asking::{ask, ask_once};
use crate::scenarios::common::outside::{DENIED, HOST, NEEDS, Outside, PORT, VAULT};
use crate::target::services::Seen;

/// Headers: their names and values.
type Headers<'h> = &'h [(&'h str, &'h str)];

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "EGR-220",
        "A target receives the request as it was sent, with the operator's credential in the place of the client's own",
        "hop-by-hop headers dropped, Host rewritten, the body framed once; the credential, and nothing else, added",
        body!(whole_requests),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(NEEDS),
    Scenario::new(
        "EGR-221",
        "A client receives the response as it was sent, whole to its last byte, also if that looks like a credential",
        "responses unchanged but for hop-by-hop headers; what might begin a secret is passed on at the end",
        body!(whole_responses),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(NEEDS),
];

/// Lines of a request that are for the hop to the proxy alone.
const HOP: &str = "Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nTE: trailers\r\nTrailer: X-Sum\r\n\
    Upgrade: websocket\r\nProxy-Authorization: Basic eDp5\r\nProxy-Connection: keep-alive\r\n";
/// The client's own credentials.
const OWN: [(&str, &str); 5] = [
    ("authorization", "Bearer own"),
    ("x-api-key", "own"),
    ("x-amz-date", "20000101T000000Z"),
    ("x-amz-security-token", "own"),
    ("x-amz-content-sha256", "own"),
];
/// Headers that are neither about the connection nor credentials: they arrive as they are.
const KEPT: [(&str, &str); 7] = [
    ("user-agent", "mine/1"),
    ("accept", "*/*"),
    ("cookie", "a=b"),
    ("cookie", "c=d"),
    ("x-request-id", "r-1"),
    ("x-amz-meta-colour", "blue"),
    ("if-none-match", "\"e\""),
];

fn lines(headers: &[(&str, &str)]) -> String {
    headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect()
}

/// Headers in the order of their names, of equal names in the order in which they came.
fn sorted(headers: impl IntoIterator<Item = (String, String)>) -> Vec<(String, String)> {
    let mut headers: Vec<_> = headers.into_iter().collect();
    headers.sort_by(|(one, _), (other, _)| one.cmp(other));
    headers
}

fn pairs(parts: &[&[(&str, &str)]]) -> Vec<(String, String)> {
    sorted(parts.concat().into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())))
}

async fn only(outside: &Outside, path: &str) -> Result<(String, Vec<(String, String)>), Failure> {
    let Seen { scheme, method, headers, .. } = outside.seen_once(path).await?;
    Ok((format!("{method} by {scheme}"), sorted(headers)))
}

async fn whole_requests(context: &Context) -> Result<(), Failure> {
    let canary = context.unique("canary-of-a-header");
    context.secrets().add(&canary);
    let rules = format!("{VAULT}=header:X-Canary:env:CANARY,{DENIED}=sigv4:execute-api:eu-west-1");
    let outside = Outside::with(context, |launch| {
        launch
            .without_model()
            .set("PROXY_ALLOWED_DOMAINS", format!("{HOST},{HOST}:{PORT},{VAULT},{DENIED}"))
            .set("PROXY_CREDENTIALS", rules)
            .set("CANARY", &canary)
    })
    .await?;
    let (own, kept) = (lines(&OWN), lines(&KEPT));
    let coding = ("accept-encoding", "gzip");
    let request = |method: &str, authority: &str, path: &str, more: &str| {
        let coding = lines(&[coding]);
        let head =
            format!("{method} http://{authority}{path} HTTP/1.1\r\nHost: {authority}\r\n{kept}{own}{coding}{HOP}");
        format!("{head}{more}")
    };
    let with_port = format!("{HOST}:{PORT}");
    let chunked = "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 1\r\n\r\n";
    // Where the client's own credentials are for the target, everything arrives as it is.
    let plain: [(&str, &str, &str, &str, Headers<'_>); 5] = [
        ("GET", HOST, "/echo/get?x=%41&y", "\r\n", &[]),
        ("GET", &with_port, "/echo/port", "\r\n", &[]),
        ("PUT", HOST, "/echo/length", "Content-Length: 5\r\n\r\n12345", &[("content-length", "5")]),
        ("POST", HOST, "/echo/chunks", chunked, &[("transfer-encoding", "chunked")]),
        ("POST", HOST, "/echo/empty", "Content-Length: 0\r\n\r\n", &[("content-length", "0")]),
    ];
    for (method, authority, path, more, framing) in plain {
        let answer = ask_once(&outside.room, request(method, authority, path, more)).await?;
        check_eq(format!("status of {path} ({answer:?})"), answer.status(), Some(200))?;
        let expected = pairs(&[&KEPT, &OWN, &[coding, ("host", authority)], framing]);
        check_eq(
            format!("what {authority} received"),
            only(&outside, path).await?,
            (format!("{method} by http"), expected),
        )?;
        let body = if more.len() > 4 && path != "/echo/empty" { 5 } else { 0 };
        let told: Value = serde_json::from_str(&answer.body).map_err(|_| Failure::assertion(format!("{answer:?}")))?;
        check_eq(format!("bytes of the body that {path} received"), told["body_bytes"].as_u64(), Some(body))?;
    }
    // Where a credential takes their place, none of them arrives, and the answer is asked for in clear.
    let clear = ("accept-encoding", "identity");
    for (method, path, more, framing) in [
        ("GET", "/echo/secret?x=%41&y", "\r\n", &[][..]),
        ("PUT", "/echo/secret-put", "X-Canary: mine\r\nContent-Length: 2\r\n\r\nhi", &[("content-length", "2")]),
    ] {
        let answer = ask_once(&outside.room, request(method, VAULT, path, more)).await?;
        check_eq(format!("status of {path} ({answer:?})"), answer.status(), Some(200))?;
        let expected = pairs(&[&KEPT, &[clear, ("host", VAULT), ("x-canary", &canary)], framing]);
        check_eq(
            format!("what {VAULT} received"),
            only(&outside, path).await?,
            (format!("{method} by https"), expected),
        )?;
    }
    signed(
        &outside,
        &request("POST", DENIED, "/echo/signed?b=2&a=1", "Content-Type: text/plain\r\nContent-Length: 2\r\n\r\nhi"),
    )
    .await
}

/// A signature takes the client's place, and covers the host, the type and what AWS's own headers say.
async fn signed(outside: &Outside, request: &str) -> Result<(), Failure> {
    let answer = ask_once(&outside.room, request.to_owned()).await?;
    check_eq(format!("status of a signed request ({answer:?})"), answer.status(), Some(200))?;
    let (line, mut headers) = only(outside, "/echo/signed?b=2&a=1").await?;
    let mut take = |name: &str| {
        let at = headers.iter().position(|(given, _)| given == name);
        at.map(|at| headers.remove(at).1).unwrap_or_default()
    };
    let (authorization, date) = (take("authorization"), take("x-amz-date"));
    let now = jiff::Timestamp::now().as_second();
    let when = date.parse::<jiff::Timestamp>().ok().filter(|_| date.len() == 16).map(jiff::Timestamp::as_second);
    check(when.is_some_and(|when| (now - when).abs() < 300), format!("x-amz-date of a signed request: {date:?}"))?;
    let id = &outside.deployment.server()?.credentials.id;
    let day = date.get(..8).unwrap_or_default();
    let (what, signature) = authorization.rsplit_once("Signature=").unwrap_or((&authorization, ""));
    check_eq(
        "what the signature is for",
        what,
        format!("AWS4-HMAC-SHA256 Credential={id}/{day}/eu-west-1/execute-api/aws4_request, SignedHeaders=content-type;host;x-amz-date;x-amz-meta-colour, ").as_str(),
    )?;
    let is_hex = signature.len() == 64 && signature.bytes().all(|byte| byte.is_ascii_hexdigit());
    check(is_hex, format!("the signature is {signature:?}"))?;
    let framing =
        [("content-length", "2"), ("content-type", "text/plain"), ("accept-encoding", "identity"), ("host", DENIED)];
    check_eq("the rest of a signed request", (line.as_str(), headers), ("POST by https", pairs(&[&KEPT, &framing])))
}

async fn whole_responses(context: &Context) -> Result<(), Failure> {
    // The target's bodies are of this letter, so each of them looks like the beginning of the secret.
    let secret = "x".repeat(40);
    context.secrets().add(&secret);
    let outside = Outside::with(context, |launch| {
        launch
            .without_model()
            .set("PROXY_CREDENTIALS", format!("{VAULT}=header:x-canary:env:CANARY"))
            .set("CANARY", &secret)
    })
    .await?;
    let get = |host: &str, path: &str| format!("GET http://{host}{path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let lengths = [0, 1, 19, 20, 39, 40, 41, 100_000];
    for host in [HOST, VAULT] {
        // All of them on one connection: each has an end that the next one follows.
        let requests: Vec<String> = lengths.iter().map(|length| get(host, &format!("/bytes/{length}"))).collect();
        let answers = ask(&outside.room, 1, &[requests]).await?;
        check_eq(format!("number of answers of {host}"), answers.len(), lengths.len())?;
        for (answer, length) in answers.iter().zip(lengths) {
            check_eq(format!("status of {length} bytes of {host}"), answer.status(), Some(200))?;
            check(answer.whole, format!("{length} bytes of {host} break off after {}", answer.body.len()))?;
            check_eq(format!("length of {length} bytes of {host}"), answer.body.len(), length)?;
            // Half of the secret or more is hidden, less cannot be told from anything else.
            let letter = if host == VAULT && length >= 20 { b'*' } else { b'x' };
            let first = answer.body.bytes().next().unwrap_or(letter);
            check_eq(format!("the first of {length} bytes of {host}"), first, letter)?;
        }
    }
    for (path, status, headers, body) in [
        ("/bytes/3", 200, &["content-length: 3"][..], "xxx"),
        ("/chunks/2", 200, &["transfer-encoding: chunked"], "chunk 0\nchunk 1\n"),
        ("/status/418", 418, &["content-length: 9"], "as asked\n"),
        ("/redirect?to=/x", 302, &["location: /x", "content-length: 0"], ""),
    ] {
        let answer = ask_once(&outside.room, get(HOST, path)).await?;
        check_eq(format!("status of {path}"), answer.status(), Some(status))?;
        check_eq(format!("body of {path}"), answer.body.as_str(), body)?;
        let head = answer.head.to_ascii_lowercase();
        let mut told: Vec<&str> =
            head.lines().skip(1).filter(|line| !line.is_empty() && !line.starts_with("date: ")).collect();
        told.sort_unstable();
        let mut expected = headers.to_vec();
        expected.sort_unstable();
        check_eq(format!("headers of {path}"), told, expected)?;
    }
    Ok(())
}
