//! What a target receives of a request, and a client of a response.

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::asking::{Received, ask, ask_once, get, get_at};
use crate::scenarios::common::outside::{HOST, NEEDS, NEEDS_MODEL, Outside, VAULT, bedrock, breaking_off};
use crate::target::deployment::READY_LIMIT;
use crate::target::launch::{Launch, REGION};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "EGR-213",
        "Of a response that breaks off, all that arrived is forwarded, and then the connection ends; else it is 502",
        "a response that is cut off: what arrived is passed on, then the connection is cut; 502 if nothing was",
        body!(cut_off),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(NEEDS)
    .limit(90),
    Scenario::new(
        "EGR-214",
        "A signed request arrives with its own x-amz headers and the query that was signed; header twins are refused",
        "only authentication headers are dropped, the rest is signed; unusual characters encoded; X_Api_Key: 400",
        body!(requests),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(NEEDS_MODEL)
    .limit(90),
];

/// How often each broken response is requested: what is lost may depend on timing.
const TRIES: usize = 30;

async fn cut_off(context: &Context) -> Result<(), Failure> {
    let most = "x".repeat(60_000);
    // What a target sends, and what the client receives of the body; none where it receives a 502.
    let cases: [(&str, String, Option<&str>); 6] = [
        ("five of ten bytes", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nHELLO".into(), Some("HELLO")),
        (
            "60,000 of 100,000 bytes",
            format!("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n{most}"),
            Some(most.as_str()),
        ),
        ("a head and no body", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n".into(), Some("")),
        (
            "one chunk, and no last one",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nHELLO\r\n".into(),
            Some("HELLO"),
        ),
        ("half a head", "HTTP/1.1 200 OK\r\nContent-Le".into(), None),
        ("nothing", String::new(), None),
    ];
    let host = |number: usize| format!("cut{number}.conformance.test");
    let hosts: Vec<String> = (0..cases.len()).map(host).collect();
    let mut launch =
        Launch::new().without_model().set("PROXY_ALLOWED_DOMAINS", hosts.join(",")).set("WARM_POOL_MIN_SIZE", 1);
    for (host, (_, answer, _)) in hosts.iter().zip(&cases) {
        launch = launch.pin_address(host, 80, &breaking_off(context, answer.clone()).await?);
    }
    let deployment = context.launch(launch).await?;
    deployment.metric("workspace_warm_pool_size", |waiting| waiting == 1.0, READY_LIMIT).await?;
    let room = deployment.only_room().await?;
    for (host, (what, _, arrives)) in hosts.iter().zip(&cases) {
        let answers = ask(&room, TRIES, &[vec![get_at(host, "/")]]).await?;
        check_eq(format!("responses where a target sends {what}"), answers.len(), TRIES)?;
        for answer in &answers {
            let Some(arrives) = arrives else {
                check_eq(format!("status where a target sends {what} ({answer:?})"), answer.status(), Some(502))?;
                check(answer.whole, format!("the 502 where a target sends {what} breaks off: {answer:?}"))?;
                continue;
            };
            let length = answer.body.len();
            check_eq(format!("status where a target sends {what}"), answer.status(), Some(200))?;
            check_eq(format!("bytes that arrive where a target sends {what}"), length, arrives.len())?;
            check_eq(format!("the body where a target sends {what}"), answer.body.as_str(), *arrives)?;
            check(!answer.whole, format!("where a target sends {what}, the response looks whole"))?;
        }
    }
    Ok(())
}

/// Headers of AWS's protocols that are parts of the request itself.
const KEPT: [(&str, &str); 6] = [
    ("x-amz-copy-source", "/bucket/a%20key?versionId=1"),
    ("x-amz-metadata-directive", "REPLACE"),
    ("x-amz-meta-colour", "dark blue"),
    ("x-amz-acl", "bucket-owner-full-control"),
    ("x-amz-storage-class", "GLACIER"),
    ("x-amz-server-side-encryption", "aws:kms"),
];
/// Queries and paths as clients send them, and as they arrive.
const SPELLINGS: [(&str, &str); 4] = [
    ("/inference-profiles?a=1&", "/inference-profiles?a=1"),
    ("/inference-profiles?&&a=1", "/inference-profiles?a=1"),
    ("/inference-profiles?q=\"<b>\"", "/inference-profiles?q=%22%3Cb%3E%22"),
    ("/inference-profiles?a=%zz", "/inference-profiles?a=%25zz"),
];
/// Headers that some servers read as others that the proxy sets, drops or relies on.
const TWINS: [&str; 5] =
    ["Transfer_Encoding: chunked", "Content_Length: 5", "X_Api_Key: mine", "X.Api.Key: mine", "x_amz_date: mine"];

async fn requests(context: &Context) -> Result<(), Failure> {
    let rules = format!("{}=sigv4:bedrock:{REGION},{VAULT}=sigv4:s3:{REGION}", bedrock());
    let outside = Outside::with(context, |launch| launch.set("PROXY_CREDENTIALS", rules)).await?;
    let own: String = KEPT.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let theirs =
        "Authorization: AWS4-HMAC-SHA256 theirs\r\nx-amz-date: 20000101T000000Z\r\nx-amz-security-token: theirs\r\n";
    let copy = format!("PUT http://{VAULT}/copied HTTP/1.1\r\nHost: {VAULT}\r\nContent-Length: 0\r\n{own}{theirs}\r\n");
    accepted(&ask_once(&outside.room, copy).await?, "a copy within S3")?;
    let seen = outside.seen_once("/copied").await?;
    let signed = seen.header("authorization").unwrap_or_default();
    for (name, value) in KEPT {
        check_eq(format!("{name} of a copy within S3, as it arrived"), seen.header(name), Some(value))?;
        let names = signed.split("SignedHeaders=").nth(1).and_then(|rest| rest.split(',').next()).unwrap_or_default();
        check(names.split(';').any(|one| one == name), format!("{name} is not signed: {signed:?}"))?;
    }
    check(!format!("{seen:?}").contains("theirs"), format!("the workspace's own authentication arrived: {seen:?}"))?;

    // The model verifies signatures; this shows that the headers above are signed as they are sent.
    let signed = SPELLINGS
        .map(|(path, _)| vec![format!("GET http://{0}{path} HTTP/1.1\r\nHost: {0}\r\n{own}{theirs}\r\n", bedrock())]);
    for (answer, (path, _)) in ask(&outside.room, 1, &signed).await?.iter().zip(SPELLINGS) {
        accepted(answer, path)?;
    }
    let arrived = outside.deployment.model()?.requests().await?;
    check_eq(format!("requests that the model received: {arrived:?}"), arrived.len(), SPELLINGS.len())?;
    for (request, (sent, arrives)) in arrived.iter().zip(SPELLINGS) {
        check_eq(format!("{sent} as it arrived"), request.path(), arrives)?;
        check_eq(format!("signature of {sent} ({request:?})"), request.signature(), "valid")?;
        check(request.has_header("x-amz-copy-source"), format!("a header of {sent} is lost: {request:?}"))?;
    }

    // Without a credential, too, what a URL may not contain is encoded as browsers do.
    accepted(&ask_once(&outside.room, get("/echo/<a>`?q=\"<b>\"'")).await?, "raw characters")?;
    let arrived = outside.seen("/echo/").await?;
    let paths: Vec<&str> = arrived.iter().map(|seen| seen.path.as_str()).collect();
    check_eq(
        "a path and a query with raw characters, as they arrived",
        paths,
        vec!["/echo/%3Ca%3E%60?q=%22%3Cb%3E%22%27"],
    )?;

    let with = |host: &str, path: &str, line: &str| {
        vec![format!("GET http://{host}{path} HTTP/1.1\r\nHost: {host}\r\n{line}\r\n\r\n")]
    };
    for host in [HOST, VAULT] {
        // The control: an unusual name that nothing reads as another one.
        let control = with(host, "/unusual", "X_Unusual: yes");
        let twins = TWINS.map(|line| with(host, "/twin", line));
        let answers = ask(&outside.room, 1, &[&[control][..], &twins].concat()).await?;
        accepted(&answers[0], "a request with X_Unusual")?;
        for (answer, line) in answers[1..].iter().zip(TWINS) {
            check_eq(format!("status of a request with {line} to {host} ({answer:?})"), answer.status(), Some(400))?;
        }
    }
    check_eq("requests with X_Unusual that arrived", outside.seen("/unusual").await?.len(), 2)?;
    outside.never_seen("/twin").await?;
    for seen in outside.services.requests().await? {
        let twin = |name: &str| TWINS.iter().any(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")));
        check(!seen.headers.iter().any(|(name, _)| twin(name)), format!("a header twin arrived: {seen:?}"))?;
    }
    Ok(())
}

fn accepted(answer: &Received, what: &str) -> Result<(), Failure> {
    check_eq(format!("status of {what} ({answer:?})"), answer.status(), Some(200))
}
