//! How many requests and bytes per second a workspace gets.

use serde_json::{Value, json};

use super::world::{A, NEEDS, Party, World};
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "TEN-018",
    "A workspace gets the requests and bytes per second that the lowest level says; its neighbour is not limited",
    "egress.requests_per_second, egress.bytes_per_second: of one workspace; each level can only lower them",
    body!(limited),
)
.severity(Severity::High)
.profile(Profile::Full)
.requires(NEEDS)
.limit(90)];

/// Requests that are sent at once, on one connection.
const REQUESTS: usize = 40;
/// Bytes of an upload, and bytes per second; what is sent within the first second is not held up.
const UPLOADED: usize = 220_000;
const PER_SECOND: usize = 65_536;

/// How many of the requests were answered by their target; the others must have been refused for the rate.
async fn answered(party: &Party) -> Result<usize, Failure> {
    let urls = format!(" -o /dev/null http://{A}/facts").repeat(REQUESTS);
    let line = format!("curl -s -w '%{{http_code}}\\n' --max-time 10{urls}");
    let printed = party.room.shell(&line).await?.printed;
    let codes: Vec<&str> = printed.split_whitespace().collect();
    check_eq(format!("answers: {codes:?}"), codes.len(), REQUESTS)?;
    check(codes.iter().all(|code| matches!(*code, "200" | "429")), format!("answers: {codes:?}"))?;
    Ok(codes.iter().filter(|code| **code == "200").count())
}

/// Seconds that an upload takes.
async fn uploading(party: &Party) -> Result<f64, Failure> {
    let line = format!(
        "head -c {UPLOADED} /dev/zero | curl -s -o /dev/null -w '%{{http_code}} %{{time_total}}' --max-time 30 --data-binary @- http://{A}/facts"
    );
    let printed = party.room.shell(&line).await?.printed;
    let (status, took) = printed.trim().split_once(' ').unwrap_or_default();
    check(status.len() == 3 && status < "500", format!("an upload was answered {printed}"))?;
    took.parse().map_err(|_| Failure::mismatch("what curl printed", "seconds", printed))
}

async fn limited(context: &Context) -> Result<(), Failure> {
    let world = World::start(context, 2, crate::target::launch::Launch::without_model).await?;
    let parties = world.parties(context, 2).await?;
    let [party, neighbour] = &parties[..] else { return Err(Failure::harness("not two parties")) };
    let own = async |configuration: Value| {
        let path = party.conversation.path("/configuration");
        let version = world.deployment.api.get(&path).await?.expect(200)?.json()?["version"].clone();
        let document = json!({"version": version, "configuration": configuration});
        world.deployment.api.put(&path, &document).await?.expect(200).map(drop)
    };
    check_eq("requests of a workspace without a limit", answered(party).await?, REQUESTS)?;
    world.configure(&party.conversation.tenant, &json!({"egress": {"requests_per_second": 3}})).await?;
    let few = answered(party).await?;
    check((3..REQUESTS / 2).contains(&few), format!("{few} of {REQUESTS} requests at three per second"))?;
    check_eq("requests of the neighbour", answered(neighbour).await?, REQUESTS)?;
    // A conversation cannot raise it, and can lower it.
    own(json!({"egress": {"requests_per_second": 1000}})).await?;
    let few = answered(party).await?;
    check(few < REQUESTS / 2, format!("{few} of {REQUESTS} requests of a conversation that would like more"))?;
    own(json!({"egress": {"requests_per_second": 1}})).await?;
    let fewer = answered(party).await?;
    check(fewer <= few.max(2), format!("{fewer} of {REQUESTS} requests at one per second, {few} at three"))?;
    own(json!({})).await?;
    world.configure(&party.conversation.tenant, &json!({"egress": {"bytes_per_second": PER_SECOND}})).await?;
    check_eq("requests of a workspace whose bytes alone are limited", answered(party).await?, REQUESTS)?;
    let took = uploading(party).await?;
    #[allow(clippy::cast_precision_loss, reason = "a few thousand bytes")]
    let least = (UPLOADED - PER_SECOND) as f64 / PER_SECOND as f64 / 2.0;
    check(took > least, format!("{UPLOADED} bytes took {took} s at {PER_SECOND} per second"))?;
    world.configure(&party.conversation.tenant, &json!({})).await?;
    check_eq("requests without a limit again", answered(party).await?, REQUESTS)
}
