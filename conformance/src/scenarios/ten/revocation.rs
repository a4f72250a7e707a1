//! Keys that are revoked or expire, on one server and on another.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::client::http::Api;
use crate::client::stream::EventStream;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::durable_run::{waiting, whole};
use crate::scenarios::ten::keys::{OPERATOR, create};
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "TEN-042",
    "A revoked or expired key is refused within a second on both servers, its streams end, and the run goes on",
    "a revoked key's open streams end within a second; expiry; over two servers",
    body!(streams_end),
)
.severity(Severity::Critical)
.profile(Profile::Full)
.requires(&[
    Capability::Launch,
    Capability::Docker,
    Capability::Image,
    Capability::Model,
    Capability::Redis,
    Capability::Resume,
    Capability::Admin,
])
.limit(120)];

/// When a stream is given up that should have ended.
const LATE: Duration = Duration::from_secs(8);
/// The second, and half of one for a busy machine.
const SOON: Duration = Duration::from_millis(1500);

/// Reads a stream to its end, which must come soon, with an event that tells why.
async fn ends(stream: EventStream, began: Instant, reason: &str) -> Result<(), Failure> {
    let read = tokio::time::timeout(LATE, stream.rest()).await;
    let events =
        read.map_err(|_| Failure::assertion(format!("the stream is open {LATE:?} after its key has ended")))??;
    let took = began.elapsed();
    check(took < SOON, format!("the stream ended after {took:?}"))?;
    let last = events.last().ok_or_else(|| Failure::assertion("the stream had no events"))?;
    check_eq("the last event", (last.name.as_str(), last.text("reason")), ("closed", reason))
}

async fn refused(api: &Api, path: &str) -> Result<(), Failure> {
    eventually(SOON, "401 for the key", async || api.get(path).await?.expect_error(401, "UNAUTHORIZED")).await
}

async fn streams_end(context: &Context) -> Result<(), Failure> {
    context.secrets().add(OPERATOR);
    let redis = context.redis().await?;
    let database = format!("sqlite://{}", context.dir().join("both.sqlite").display());
    let launch = Launch::new().set("REDIS_URL", redis.url()).set("DATABASE_URL", database).set("API_KEYS", OPERATOR);
    let mut first = context.launch(launch).await?;
    let mut second = context.launch_beside(&first).await?;
    for deployment in [&mut first, &mut second] {
        deployment.api = deployment.api.with_key(Some(OPERATOR));
    }
    let conversation = first.conversation(context).await?;
    let keys = format!("/api/tenants/{}/keys", conversation.tenant);
    let (revoked, created) = create(context, &first.api, &keys, &["run"]).await?;
    let (narrowed, narrow) = create(context, &first.api, &keys, &["read", "admin"]).await?;
    let seen = waiting(&first, &conversation).await?;
    let (stream, path) = (conversation.path("/stream"), conversation.path(""));
    let here = first.api.with_key(Some(&revoked)).follow_stream(&stream, "0").await?;
    let there = second.api.with_key(Some(&revoked)).follow_stream(&stream, "0").await?;
    let other = second.api.with_key(Some(&narrowed)).follow_stream(&stream, "0").await?;
    let id = |created: &serde_json::Value| format!("{keys}/{}", created["key_id"].as_str().unwrap_or("?"));
    let began = Instant::now();
    first.api.delete(&id(&created)).await?.expect(204)?;
    let (here, there) = tokio::join!(ends(here, began, "key_revoked"), ends(there, began, "key_revoked"));
    here.map_err(|failure| failure.during("the stream on the same server"))?;
    there.map_err(|failure| failure.during("the stream on the other server"))?;
    for server in [&first, &second] {
        refused(&server.api.with_key(Some(&revoked)), &path).await?;
    }
    let began = Instant::now();
    first.api.put(&id(&narrow), &json!({"scopes": ["admin"]})).await?.expect(200)?;
    ends(other, began, "key_revoked").await.map_err(|failure| failure.during("a key that has lost its scope"))?;

    let end = jiff::Timestamp::now() + Duration::from_secs(2);
    let body = json!({"name": "short", "scopes": ["read"], "expires_at": end});
    let short = second.api.post(&keys, &body).await?.expect(201)?.json()?["key"].as_str().unwrap_or("?").to_owned();
    context.secrets().add(&short);
    let expiring = second.api.with_key(Some(&short));
    let reader = expiring.follow_stream(&stream, "0").await?;
    let left = Duration::try_from(end.duration_since(jiff::Timestamp::now())).unwrap_or_default();
    ends(reader, Instant::now() + left, "key_expired").await?;
    refused(&expiring, &path).await?;

    first.only_room().await?.shell("touch /workspace/go").await?;
    let done = whole(&first, &conversation, seen).await?;
    check_eq(format!("status in done: {done}"), done["status"].as_str(), Some("success"))
}
