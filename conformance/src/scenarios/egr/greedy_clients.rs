//! Workspaces that ask for more than their share.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::harness::context::Context;
use crate::harness::engine::Room;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::asking::{ask, get, proxy};
use crate::scenarios::common::outside::{DENIED, HOST, NEEDS};
use crate::scenarios::common::trail;
use crate::target::deployment::{Deployment, READY_LIMIT};
use crate::target::launch::Launch;
use crate::target::outsider::PLAIN;

const HOLD: &str = include_str!("../common/programs/hold.py");
const FLOOD: &str = include_str!("../common/programs/flood.py");

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "EGR-216",
    "512 silent connections of one workspace and a flood of refused requests of another hinder nobody else",
    "every workspace has a reserve of connections; refusals are rate-limited, and aggregated in the trail (count)",
    body!(flood),
)
.severity(Severity::Critical)
.profile(Profile::Full)
.requires(NEEDS)
.limit(90)];

/// Silent connections: as many as the proxy accepts of one workspace.
const SILENT: usize = 512;
/// Connections of the workspace that is refused, and for how many seconds it asks.
const CLIENTS: usize = 200;
const SECONDS: usize = 4;
/// How many requests others make meanwhile.
const BESIDE: usize = 20;
/// How long one of those may take.
const BESIDE_LIMIT: Duration = Duration::from_secs(20);
/// Lines of the trail about refusals of one workspace: so many at once, and so many more each second.
const LINES: u64 = 200;
const LINES_PER_SECOND: u64 = 45;

async fn flood(context: &Context) -> Result<(), Failure> {
    let trail = context.dir().join("trail.jsonl");
    let peer = context.outsider(PLAIN).await?;
    let launch = Launch::new()
        .without_model()
        .set("AUDIT_LOG", trail.display())
        .set("PROXY_ALLOWED_DOMAINS", HOST)
        .pin_address(HOST, 80, &peer.address)
        .set("WARM_POOL_MIN_SIZE", 3);
    let deployment = context.launch(launch).await?;
    deployment.metric("workspace_warm_pool_size", |waiting| waiting == 3.0, READY_LIMIT).await?;
    let rooms = deployment.rooms().await?;
    let [silent, refused, neighbour] = &rooms[..] else {
        return Err(Failure::mismatch("number of workspaces", 3, rooms.len()));
    };

    let descriptors = deployment.server()?.descriptors()?;
    hold(silent).await?;
    // The control: the server has accepted the connections.
    eventually(BESIDE_LIMIT, format!("{SILENT} connections that the server holds"), async || {
        let held = deployment.server()?.descriptors()?.saturating_sub(descriptors);
        check(held >= SILENT - SILENT / 8, format!("{held} more descriptors than before"))
    })
    .await?;
    let began = Instant::now();
    let (proxy, clients, seconds) = (proxy(refused), CLIENTS.to_string(), SECONDS.to_string());
    let flood = refused.exec(["python3", "-c", FLOOD, &proxy, DENIED, &clients, &seconds]);
    let (flooded, beside, api) = tokio::join!(flood, beside(neighbour), api(&deployment));
    beside?;
    api?;
    let flooded = flooded?;
    check_eq(format!("status of the program that is refused, which printed {:?}", flooded.printed), flooded.status, 0)?;
    let answered: u64 = flooded.printed.trim().parse().map_err(Failure::harness)?;
    bounded(&trail, answered, began).await
}

/// Opens the silent connections from a workspace, and leaves them open.
async fn hold(room: &Room) -> Result<(), Failure> {
    let start = "nohup python3 -c \"$1\" \"$2\" \"$3\" >/tmp/held 2>&1 </dev/null &";
    let started = room.exec(["sh", "-c", start, "sh", HOLD, &proxy(room), &SILENT.to_string()]).await?;
    check_eq(format!("status of the start of a program ({:?})", started.printed), started.status, 0)?;
    eventually(BESIDE_LIMIT, format!("{SILENT} connections of a workspace"), async || {
        let printed = room.exec(["cat", "/tmp/held"]).await?.printed;
        check(printed.trim() == format!("{SILENT} are open"), format!("the program printed {printed:?}"))
    })
    .await
}

/// Requests of another workspace: each is answered.
async fn beside(room: &Room) -> Result<(), Failure> {
    let during = |failure: Failure| failure.during("a neighbour's requests meanwhile");
    for answer in ask(room, BESIDE, &[vec![get("/beside")]]).await.map_err(during)? {
        check_eq(format!("status of a neighbour's request meanwhile ({answer:?})"), answer.status(), Some(200))?;
    }
    Ok(())
}

/// Requests to the API, each on a new connection: each is answered.
async fn api(deployment: &Deployment) -> Result<(), Failure> {
    for path in ["/health/ready", "/api/tenants"].into_iter().cycle().take(BESIDE) {
        let reply = tokio::time::timeout(BESIDE_LIMIT, deployment.api.get(path)).await;
        reply.map_err(|_| Failure::assertion(format!("{path} is not answered meanwhile")))??.expect(200)?;
    }
    Ok(())
}

/// The trail has every refusal that was answered, in a number of lines that the number of refusals does not determine.
async fn bounded(trail: &Path, answered: u64, began: Instant) -> Result<(), Failure> {
    let refusals = || -> Result<Vec<u64>, Failure> {
        let lines = trail::entries(trail)?;
        let of = lines.iter().filter(|line| line["host"] == DENIED);
        Ok(of.map(|line| line["count"].as_u64().unwrap_or(1)).collect())
    };
    let counts = eventually(BESIDE_LIMIT, format!("{answered} refusals in the trail"), async || {
        let counts = refusals()?;
        let counted: u64 = counts.iter().sum();
        check(counted >= answered, format!("{counted} refusals")).map(|()| counts)
    })
    .await?;
    let lines = u64::try_from(counts.len()).unwrap_or(u64::MAX);
    let most = LINES + LINES_PER_SECOND * began.elapsed().as_secs();
    check(lines <= most, format!("{lines} lines in the trail for {answered} refusals; at most {most} are expected"))?;
    // The control: without aggregation there would have been more.
    check(counts.iter().any(|count| *count > 1), format!("no line counts several refusals: {counts:?}"))
}
