//! A workspace that exhausts memory, processes or disk.

use serde_json::json;

use crate::client::stream::{RunEvent, names};
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::broken_run::ended_badly;
use crate::scenarios::common::limits::HEALED_LIMIT;
use crate::scenarios::common::needs::RUN;
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "RUN-004",
        "A workspace that exhausts its memory, forks without end or fills its disk harms no other",
        "fork bomb and memory hog hurt only their own workspace",
        body!(exhausts_limits),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(120),
    Scenario::new(
        "RUN-047",
        "A tool that is killed for memory is told as out_of_memory, once and before its result; the run goes on",
        "a tool that the kernel kills while the driver lives: the cause is named, once in a turn; the run succeeds",
        body!(tool_killed),
    )
    .severity(Severity::Medium)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(120),
];

/// Ways to exhaust a workspace, and the output once the limit is reached. None of them may end the run.
const GREEDY: [(&str, &str, &str); 3] = [
    ("eats memory", "python3 -c 'x = []\nwhile True: x.append(bytearray(1 << 24))'; echo status $?", "status 137"),
    // First with a count, to see the refusal; then the usual fork bomb, which nothing in the workspace stops.
    (
        "forks without end",
        "python3 -c 'import os, signal\nchildren = []\ntry:\n  while True:\n    child = os.fork()\n    if child == 0: signal.pause()\n    \
         children.append(child)\nexcept OSError: print(\"no more than\", len(children))\nfor child in children: os.kill(child, 9)'; \
         (bomb() { bomb | bomb & }; bomb) >/dev/null 2>&1; echo dropped",
        "no more than",
    ),
    (
        "fills its disk",
        "dd if=/dev/zero of=/workspace/fill bs=1M count=400 2>&1; rm -f /workspace/fill",
        "No space left on device",
    ),
];

async fn exhausts_limits(context: &Context) -> Result<(), Failure> {
    let launch = Launch::new()
        .set("CONTAINER_MEMORY", "768MiB")
        .set("CONTAINER_PIDS", 96)
        .set("CONTAINER_DISK", "64MiB")
        .set("CONTAINER_EXECUTION_TIMEOUT", 40);
    let deployment = context.launch(launch).await?;
    let neighbour = deployment.conversation(context).await?;
    deployment.run_well(&neighbour, "@say here").await?;
    let quiet = deployment.only_room().await?;
    for (what, command, refusal) in GREEDY {
        let greedy = deployment.another_conversation(context, &neighbour.tenant, &neighbour.model).await?;
        let tool = json!({"command": command, "description": what});
        let stream = deployment.start(&greedy, &format!("@tool Bash {tool}\n@say survived")).await?;
        let (events, beside) = tokio::join!(stream.finish(), deployment.run_well(&neighbour, "@say still here"));
        beside.map_err(|failure| failure.during(format!("a neighbour of a workspace that {what}")))?;
        let events = events.map_err(|failure| failure.during(what))?;
        // The run may have been lost with its workspace before the tool reported; otherwise the tool must report.
        let mut results = events.iter().filter(|event| event.name == "tool_result");
        let refused = results.any(|result| result.data["content"].to_string().contains(refusal));
        check(
            refused || ended_badly(&events).is_ok(),
            format!("a workspace that {what} was not stopped by anything: {events:?}"),
        )?;
        check_eq(format!("the neighbour's workspace beside one that {what}"), quiet.is_running().await?, true)?;
        let well =
            eventually(HEALED_LIMIT, format!("a run that ends well in the conversation that {what}"), async || {
                deployment.run_well(&greedy, "@say alive").await.map_err(|failure| failure.to_string())
            });
        well.await?;
        deployment.api.delete(&greedy.path("")).await?.expect(204)?;
    }
    check_eq("workspaces at the end", deployment.rooms().await?.len(), 1)
}

async fn tool_killed(context: &Context) -> Result<(), Failure> {
    let deployment = context.launch(Launch::new().set("CONTAINER_MEMORY", "640MiB")).await?;
    let conversation = deployment.conversation(context).await?;
    let greedy = "python3 -c 'bytearray(900 << 20)'; echo status $?";
    let greedy = format!("@tool Bash {}\n", json!({"command": greedy, "description": "Use memory up"}));
    for (what, tools) in [("two greedy tools", 2), ("no tool", 0), ("a greedy tool", 1)] {
        let prompt = format!("{}@say it goes on", greedy.repeat(tools));
        let events = deployment.run_well(&conversation, &prompt).await.map_err(|failure| failure.during(what))?;
        let of = |name: &str| events.iter().filter(|event| event.name == name).collect::<Vec<_>>();
        let results = of("tool_result");
        let killed = results.iter().filter(|result| result.text("content").contains("status 137")).count();
        check_eq(format!("tools that were killed, of {results:?}"), killed, tools)?;
        let errors = of("error");
        let kinds: Vec<&str> = errors.iter().map(|error| error.text("error_type")).collect();
        check_eq(format!("errors of a turn with {what}"), kinds, vec!["out_of_memory"; tools.min(1)])?;
        let done = events.last().map(|done| done.data.clone()).unwrap_or_default();
        let messages: Vec<&str> = errors.iter().map(|error| error.text("message")).collect();
        check_eq(format!("errors in done of a turn with {what}"), &done["errors"], &json!(messages))?;
        check_eq(format!("is_error in done of a turn with {what}"), &done["is_error"], &json!(false))?;
        let (Some(error), Some(result)) = (errors.first(), results.first()) else { continue };
        check_eq(format!("recoverable in {error:?}"), error.data["recoverable"].as_bool(), Some(true))?;
        let why = error.text("message");
        check(why.contains("640 MiB") && why.contains("CONTAINER_MEMORY"), format!("the limit is not in: {why}"))?;
        let place = |event: &RunEvent| event.data["seq"].as_u64();
        let call = of("tool_call").first().and_then(|call| place(call));
        check(call < place(error) && place(error) < place(result), format!("order: {}", names(&events)))?;
    }
    Ok(())
}
