//! Readers that come back at any place, and runs that another process goes on with: what both must not lose.

use futures::{StreamExt, TryStreamExt};
use http::Method;
use serde_json::json;

use crate::client::stream::{RunEvent, names};
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::target::launch::Launch;

const NEEDS: &[Capability] =
    &[Capability::Launch, Capability::Docker, Capability::Image, Capability::Model, Capability::Resume];
/// Readers of the same run at a time.
const AT_ONCE: usize = 8;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "RUN-026",
        "A run that another process goes on with keeps its time limit and the errors it has reported",
        "the run's time counts from its beginning; done.errors has the messages of all error events",
        body!(limit_and_errors),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(NEEDS)
    .limit(90),
    Scenario::new(
        "RUN-027",
        "A reader comes back after any event of a long run; another run's id begins at the start, a future one is 422",
        "Last-Event-ID <run_id>:<seq>: what came after it is replayed; it has precedence over after",
        body!(after_each),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(NEEDS)
    .limit(90),
];

async fn limit_and_errors(context: &Context) -> Result<(), Failure> {
    // Nothing listens there: stored files cannot be restored, which the run reports and goes on.
    let launch = Launch::new()
        .set("S3_BUCKET_NAME", "bucket")
        .set("S3_ENDPOINT_URL", "http://127.0.0.1:9")
        .set("S3_SYNC_TIMEOUT", "1");
    let mut deployment = context.launch(launch).await?;
    let conversation = deployment.conversation(context).await?;
    let wait = json!({"command": "tail -f /dev/null", "description": "Wait"});
    let body = json!({"user_input": format!("@tool Bash {wait}\n@say Never."),
        "configuration": {"limits": {"run_seconds": 20}}});
    let mut stream = deployment.api.open_stream(&conversation.path("/stream"), &body).await?;
    let reported = stream.until("error").await?;
    // It comes after ten seconds.
    let seen = stream.until("ping").await?;
    drop(stream);
    deployment.kill().await?;
    deployment.restart(context).await?;
    let rest = deployment.follow(&conversation, &seen.id).await?;
    let done = rest.last().map(|done| done.data.clone()).unwrap_or_default();
    let timed_out = rest.iter().any(|event| event.name == "error" && event.text("error_type") == "timeout_error");
    check(timed_out, format!("no timeout_error after the restart: {}", names(&rest)))?;
    let took = done["duration_ms"].as_u64().unwrap_or(u64::MAX);
    check(
        (20_000..29_000).contains(&took),
        format!("a run that may take 20 s, 10 of them before a restart, took {took} ms"),
    )?;
    let errors: Vec<&str> =
        done["errors"].as_array().into_iter().flatten().filter_map(|error| error.as_str()).collect();
    check(
        errors.contains(&reported.text("message")),
        format!("what was reported before the restart is not in {errors:?}"),
    )
}

async fn after_each(context: &Context) -> Result<(), Failure> {
    let deployment = context.launch(Launch::new()).await?;
    let conversation = deployment.conversation(context).await?;
    let words: Vec<String> = (0..16_000).map(|word| format!("word{word}")).collect();
    let wait = json!({"command": "until [ -e /workspace/go ]; do sleep 0.1; done", "description": "Wait"});
    let prompt = format!("@chunk 1500\n@say {}\n@tool Bash {wait}\n@say After.", words.join(" "));
    let mut stream = deployment.start(&conversation, &prompt).await?;
    let mut events = Vec::new();
    while events.last().is_none_or(|event: &RunEvent| event.name != "tool_call") {
        let event = stream.next().await?;
        events.push(event.ok_or_else(|| Failure::assertion("the run ended before its tool was called"))?);
    }
    let bytes: usize = events.iter().map(|event| event.data.to_string().len()).sum();
    check(bytes > 250_000 && events.len() > 80, format!("a run of {bytes} bytes in {} events", events.len()))?;
    let readers = (0..events.len()).map(|at| {
        let (deployment, path, events) = (&deployment, conversation.path("/stream"), &events);
        async move {
            let expected = &events[at + 1..];
            let mut reader = deployment.api.follow_stream(&path, &events[at].id).await?;
            let mut rest = Vec::new();
            while rest.len() < expected.len()
                && let Some(event) = reader.next().await?
            {
                rest.push(event);
            }
            check(rest == expected, format!("after {}: {}, and not {}", events[at].id, names(&rest), names(expected)))
        }
    });
    futures::stream::iter(readers).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
    deployment.only_room().await?.shell("touch /workspace/go").await?;
    let events = stream.finish().await?;

    let second = deployment.run_well(&conversation, "@say Another.").await?;
    let again = deployment.follow(&conversation, &events[4].id).await?;
    check(again == second, format!("after an event of an earlier run: {}", names(&again)))?;
    let path = conversation.path("/stream");
    // The header has precedence over the parameter.
    let run = second[0].id.rsplit_once(':').map_or("", |(run, _)| run);
    let (early, late) = (format!("{run}:2"), format!("{run}:{}", second.len() - 1));
    let both =
        deployment.api.send(Method::GET, &format!("{path}?after={early}"), None, &[("Last-Event-ID", &late)]).await?;
    check_eq("events after the last but one", both.expect(200)?.text().matches("\nevent: ").count(), 1)?;
    let future = format!("{run}:{}", second.len() + 1);
    for id in [future.as_str(), "x", "-1"] {
        let refused = deployment.api.send(Method::GET, &path, None, &[("Last-Event-ID", id)]).await?;
        refused.expect_error(422, "VALIDATION_ERROR")?;
    }
    // An id of another run is no future event, however large its number.
    let (earlier, _) = events[0].id.rsplit_once(':').unwrap_or_default();
    let again = deployment.follow(&conversation, &format!("{earlier}:{}", events.len())).await?;
    check(again == second, format!("after an event of an earlier run with a large number: {}", names(&again)))
}
