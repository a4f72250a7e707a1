//! Two workspaces that use the same target.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::context::Context;
use crate::harness::engine::Room;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::asking::{ask, ask_once, get_at, proxy};
use crate::scenarios::common::outside::{HOST, NEEDS, VAULT};
use crate::target::deployment::READY_LIMIT;
use crate::target::fixtures::OriginKind;
use crate::target::launch::Launch;

const MUTATE: &str = include_str!("../common/programs/mutate.py");
/// For how many seconds the neighbour of a workspace with random faults asks.
const FUZZED_SECONDS: u64 = 5;
/// How many requests it makes in a row.
const IN_A_ROW: usize = 25;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "EGR-212",
        "A workspace receives only responses to its own requests, whatever another one sends to the same target",
        "connections to targets belong to one workspace; one that carried a body with GET is not used again",
        body!(own_answers),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(NEEDS)
    .limit(90),
    Scenario::new(
        "EGR-217",
        "A workspace receives only responses to its own requests beside one that sends requests with random faults",
        "of a fuzzed pair of workspaces, the neighbour of the hostile one sees nothing but its own answers",
        body!(fuzzed_neighbour),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(NEEDS)
    .limit(60),
];

/// A body that a target which ignores bodies of GET answers as a request.
const EVIL: &str = "GET /evil HTTP/1.1\r\nHost: x\r\n\r\n";
/// A body for which such a target stores the next bytes of the connection.
const STORE: &str = "POST /store HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n";
/// How many hostile requests of each kind precede the neighbour's.
const BEFORE: usize = 5;
/// On how many connections the neighbour makes two requests each, beside as many hostile ones of each kind.
const ROUNDS: usize = 15;
/// How long a target may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

fn with_body(host: &str, method: &str, body: &str) -> String {
    let length = body.len();
    format!("{method} http://{host}/a HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n{body}")
}

async fn own_answers(context: &Context) -> Result<(), Failure> {
    let canary = context.unique("canary");
    context.secrets().add(&canary);
    let plain = context.origin(OriginKind::Naive).await?;
    let secure = context.origin(OriginKind::NaiveTls(VAULT)).await?;
    let launch = Launch::new()
        .without_model()
        .set("PROXY_ALLOWED_DOMAINS", format!("{HOST},{VAULT}"))
        .set("PROXY_CREDENTIALS", format!("{VAULT}=header:x-canary:env:CANARY"))
        .set("CANARY", &canary)
        .pin(HOST, 80, &plain)
        .pin(VAULT, 443, &secure)
        .set("WARM_POOL_MIN_SIZE", 2);
    let deployment = context.launch(launch).await?;
    deployment.metric("workspace_warm_pool_size", |waiting| waiting == 2.0, READY_LIMIT).await?;
    let rooms = deployment.rooms().await?;
    let [hostile, neighbour] = &rooms[..] else {
        return Err(Failure::mismatch("number of workspaces", 2, rooms.len()));
    };
    takes_bodies_for_requests(&plain.address).await?;

    for host in [HOST, VAULT] {
        // The control: what is stored can be seen.
        let stored = ask_once(neighbour, with_body(host, "POST", "of the neighbour;")).await?;
        check_eq(format!("status of a POST to {host} ({stored:?})"), stored.status(), Some(200))?;
        let attacks = [
            ("a GET whose body is the head of a POST", with_body(host, "GET", STORE)),
            ("a GET whose body is a GET", with_body(host, "GET", EVIL)),
            ("an OPTIONS whose body is the head of a POST", with_body(host, "OPTIONS", STORE)),
            ("a request with a stray second response", get_at(host, "/stray")),
        ];
        // With TLS each hostile request takes longer; two kinds suffice to try the connections with a credential.
        for (what, request) in attacks.into_iter().take(if host == VAULT { 2 } else { 4 }) {
            // Some connections are left over from before the neighbour's requests, others become free beside them.
            let attack = [vec![request]];
            let before = ask(hostile, BEFORE, &attack).await;
            let requests = [vec![get_at(host, "/own-{n}"), get_at(host, "/then-{n}")]];
            let (attacked, answers) = tokio::join!(ask(hostile, ROUNDS, &attack), ask(neighbour, ROUNDS, &requests));
            let answers = answers.map_err(|failure| failure.during(format!("a neighbour's requests beside {what}")))?;
            check_eq(format!("responses to the neighbour beside {what}"), answers.len(), 2 * ROUNDS)?;
            for (number, answer) in answers.iter().enumerate() {
                let path = format!("/{}-{}", ["own", "then"][number % 2], number / 2);
                let own = answer.status() == Some(200) && answer.body == path;
                check(own, format!("beside {what}, the neighbour asked {host} for {path} and received {answer:?}"))?;
            }
            // The control, looked at last: its own confusion is not what a broken deployment is to be found by.
            for answer in before?.into_iter().chain(attacked?) {
                check_eq(format!("status of {what} to {host} ({answer:?})"), answer.status(), Some(200))?;
            }
        }
        let kept = ask_once(neighbour, get_at(host, "/kept")).await?;
        check_eq(format!("what {host} has stored"), kept.body.as_str(), "of the neighbour;")?;
    }
    Ok(())
}

/// The control: on one connection, the target answers the body of a GET as a second request.
async fn takes_bodies_for_requests(address: &str) -> Result<(), Failure> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /a HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{EVIL}", EVIL.len());
    stream.write_all(request.as_bytes()).await?;
    stream.shutdown().await?;
    let mut answers = String::new();
    tokio::time::timeout(ANSWER_LIMIT, stream.read_to_string(&mut answers))
        .await
        .map_err(|_| Failure::harness("a target does not answer"))??;
    match answers.contains("x-path: /evil") {
        true => Ok(()),
        false => Err(Failure::harness(format!("the target reads bodies: {answers:?}"))),
    }
}

/// Asks for paths of its own until the time is over; returns how long each request took on average, and how many there were.
async fn ask_own(room: &Room, seconds: u64) -> Result<(Duration, usize), Failure> {
    let began = Instant::now();
    let (mut asked, mut took) = (0, Duration::ZERO);
    while began.elapsed() < Duration::from_secs(seconds) {
        let row = [vec![get_at(HOST, "/own-{n}"), get_at(HOST, "/then-{n}")]];
        let turn = Instant::now();
        let answers = ask(room, IN_A_ROW, &row).await?;
        took += turn.elapsed();
        check_eq("number of responses to the neighbour", answers.len(), 2 * IN_A_ROW)?;
        for (number, answer) in answers.iter().enumerate() {
            let path = format!("/{}-{}", ["own", "then"][number % 2], number / 2);
            let own = answer.status() == Some(200) && answer.body == path;
            check(own, format!("beside random faults, the neighbour asked for {path} and received {answer:?}"))?;
        }
        asked += answers.len();
    }
    Ok((took / u32::try_from(asked.max(1)).unwrap_or(u32::MAX), asked))
}

async fn fuzzed_neighbour(context: &Context) -> Result<(), Failure> {
    context.note(format!("seed {}", context.seed));
    let plain = context.origin(OriginKind::Naive).await?;
    let launch = Launch::new()
        .without_model()
        .set("PROXY_ALLOWED_DOMAINS", HOST)
        .pin(HOST, 80, &plain)
        .set("WARM_POOL_MIN_SIZE", 2);
    let deployment = context.launch(launch).await?;
    deployment.metric("workspace_warm_pool_size", |waiting| waiting == 2.0, READY_LIMIT).await?;
    let rooms = deployment.rooms().await?;
    let [hostile, neighbour] = &rooms[..] else {
        return Err(Failure::mismatch("number of workspaces", 2, rooms.len()));
    };
    let (alone, _) = ask_own(neighbour, 1).await?;
    let seed = context.seed.to_string();
    let seconds = FUZZED_SECONDS.to_string();
    let socket = proxy(hostile);
    let faults = hostile.exec(["python3", "-c", MUTATE, &socket, &seed, &seconds, HOST]);
    let (sent, beside) = tokio::join!(faults, ask_own(neighbour, FUZZED_SECONDS));
    let (beside, asked) = beside?;
    let sent = sent?.printed;
    let counts: Vec<u64> = sent.split_whitespace().filter_map(|count| count.parse().ok()).collect();
    // The control: the hostile workspace's requests do reach the target.
    check(
        counts.len() == 2 && counts.iter().all(|count| *count > 50),
        format!("requests with faults, answers: {sent:?}"),
    )?;
    context.note(format!("{sent} faults and answers; {asked} own requests took {beside:?} each, {alone:?} alone"));
    Ok(())
}
