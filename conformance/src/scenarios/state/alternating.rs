//! Runs that alternate between two servers, which are restarted in turn.

use serde_json::json;

use crate::client::stream::RunEvent;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::durable_run::whole;
use crate::target::deployment::{Conversation, Deployment};
use crate::target::launch::Launch;

/// Environment variable with the number of runs; `make restarts` sets it.
const RUNS: &str = "NAGAYA_RESTART_RUNS";
/// How many runs there are without it. Each restart comes in the middle of two.
const DEFAULT_RUNS: usize = 8;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "STATE-015",
    "Of runs that alternate between two servers, which are killed and stopped in turn, none is lost",
    "a run outlives its server; one run at a time per conversation: else 409 RESOURCE_LOCKED",
    body!(alternating),
)
.severity(Severity::Critical)
.profile(Profile::Full)
.requires(&[
    Capability::Launch,
    Capability::Docker,
    Capability::Image,
    Capability::Model,
    Capability::Redis,
    Capability::Postgres,
    Capability::Resume,
])
.limit(170)];

/// What has happened so far.
#[derive(Debug, Default)]
struct Tally {
    runs: usize,
    killed: usize,
    stopped: usize,
    refused: usize,
}

async fn alternating(context: &Context) -> Result<(), Failure> {
    let wanted = match std::env::var(RUNS) {
        Ok(text) => text.parse().map_err(|_| Failure::could_not_run(format!("{RUNS}={text:?} is not a number")))?,
        Err(_) => DEFAULT_RUNS,
    };
    let (redis, postgres) = (context.redis().await?, context.postgres().await?);
    let launch = Launch::new()
        .set("SHUTDOWN_TIMEOUT", "1s")
        .set("SHUTDOWN_WORKSPACES", "keep")
        .set("REDIS_URL", redis.url())
        .set("DATABASE_URL", postgres.url().await?);
    let first = context.launch(launch).await?;
    let second = context.launch_beside(&first).await?;
    let one = first.conversation(context).await?;
    let other = first.another_conversation(context, &one.tenant, &one.model).await?;
    let (mut servers, conversations) = ([first, second], [one, other]);
    let mut tally = Tally::default();
    for step in 0..wanted.div_ceil(2) {
        let done = restart_in_the_middle(context, &mut servers, &conversations, step, &mut tally).await;
        done.map_err(|failure| failure.during(format!("step {step}, {tally:?}")))?;
    }
    let mut kept = 0;
    for (conversation, server) in conversations.iter().zip(&servers) {
        kept += found(server, conversation).await?;
    }
    let Tally { runs, killed, stopped, refused } = tally;
    let lost = runs - kept.min(runs);
    context.note(format!(
        "{runs} runs, {killed} servers killed and {stopped} stopped in the middle, {refused} times 409, {lost} lost"
    ));
    check_eq("runs whose work is in the conversations' workspaces", kept, runs)?;
    check_eq("workspaces at the end", servers[0].rooms().await?.len(), conversations.len())?;
    for conversation in &conversations {
        // Their workspaces would outlive the servers of this scenario.
        servers[0].api.delete(&conversation.path("")).await?.expect(204)?;
    }
    Ok(())
}

/// Starts a run on each server, restarts one of them, and follows both runs to their end.
async fn restart_in_the_middle(
    context: &Context,
    servers: &mut [Deployment; 2],
    conversations: &[Conversation; 2],
    step: usize,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let (home, doomed, kill) = (step % 2, (step / 2) % 2, step.is_multiple_of(3));
    let seen = futures::future::try_join_all(
        conversations
            .iter()
            .enumerate()
            .map(|(at, conversation)| waiting(&servers[(home + at) % 2], conversation, step)),
    )
    .await?;
    if kill {
        servers[doomed].kill().await?;
        tally.killed += 1;
    } else {
        servers[doomed].stop().await?;
        tally.stopped += 1;
    }
    refused(&servers[1 - doomed], conversations, tally).await?;
    servers[doomed].restart(context).await?;
    refused(&servers[doomed], conversations, tally).await?;
    for room in servers[doomed].rooms().await? {
        check_eq("status of touch", room.shell(&format!("touch /workspace/go-{step}")).await?.status, 0)?;
    }
    // Whichever server is asked, it knows where the run is.
    let asked = &servers[(step / 3) % 2];
    for (conversation, seen) in conversations.iter().zip(seen) {
        let done = whole(asked, conversation, seen).await?;
        check_eq(format!("status in done: {done}"), done["status"].as_str(), Some("success"))?;
        tally.runs += 1;
    }
    Ok(())
}

/// Starts a run that waits in the middle, and reads its events until it does.
async fn waiting(server: &Deployment, conversation: &Conversation, step: usize) -> Result<Vec<RunEvent>, Failure> {
    let wait = format!("until [ -e /workspace/go-{step} ]; do sleep 0.1; done; echo {step} >> /workspace/runs");
    let tool = json!({"command": wait, "description": "Wait"});
    let mut stream = server.start(conversation, &format!("@say Before.\n@tool Bash {tool}\n@say After.")).await?;
    let mut seen = Vec::new();
    while seen.last().is_none_or(|event: &RunEvent| event.name != "tool_call") {
        let event = stream.next().await?;
        seen.push(
            event.ok_or_else(|| Failure::assertion(format!("a run ended before its tool was called: {seen:?}")))?,
        );
    }
    Ok(seen)
}

/// Checks that a server starts no second run, and says when to try again.
async fn refused(server: &Deployment, conversations: &[Conversation], tally: &mut Tally) -> Result<(), Failure> {
    for conversation in conversations {
        let reply = server.api.post(&conversation.path("/stream"), &json!({"user_input": "@say no"})).await?;
        reply.expect_error(409, "RESOURCE_LOCKED")?;
        check(reply.header("retry-after").is_some(), "a 409 without Retry-After")?;
        tally.refused += 1;
    }
    Ok(())
}

/// How many runs have left their work in the conversation's workspace, each once.
async fn found(server: &Deployment, conversation: &Conversation) -> Result<usize, Failure> {
    let look =
        json!({"command": "sort -n /workspace/runs | uniq | wc -l; wc -l < /workspace/runs", "description": "Count"});
    let events = server.run_well(conversation, &format!("@tool Bash {look}\n@say counted")).await?;
    let result = events.iter().find(|event| event.name == "tool_result");
    let text = result.map(|result| result.text("content").to_owned()).unwrap_or_default();
    let counts: Vec<usize> = text.split_whitespace().filter_map(|count| count.parse().ok()).collect();
    match counts[..] {
        [different, all] if different == all => Ok(all),
        _ => Err(Failure::assertion(format!("runs were carried out twice, or none is there: {text}"))),
    }
}
