//! How many workspaces there may be, what counts as use of one, and what a loss is told as.

use std::time::Duration;

use serde_json::json;

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::needs::RUN;
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "LIFE-010",
        "Access to files is use of a workspace: it is not reclaimed meanwhile, and is once nobody asks any more",
        "CONTAINER_TTL: idle time; access to files ends it",
        body!(files_are_use),
    )
    .severity(Severity::Medium)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(90),
    Scenario::new(
        "LIFE-011",
        "Of many runs that begin at once, no more have a workspace than CONTAINER_MAX, and the others are told why",
        "CONTAINER_MAX: the number of workspaces; what exceeds it is refused with the setting's name",
        body!(limit_is_kept),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(90),
    Scenario::new(
        "LIFE-012",
        "A run whose workspace was lost is told so, also where its new one comes from the pool",
        "the next run of a conversation whose workspace was lost has container_recovered",
        body!(loss_is_told),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(90),
];

const CYCLES: &str = "workspace_gc_cycles_total";

async fn files_are_use(context: &Context) -> Result<(), Failure> {
    let launch = Launch::new().set("CONTAINER_GC_INTERVAL", 1).set("CONTAINER_TTL", 3).without_model();
    let deployment = context.launch(launch).await?;
    let conversation = deployment.conversation(context).await?;
    let file = conversation.path("/files?path=kept.txt");
    deployment.api.upload(&file, "kept".into()).await?.expect(204)?;
    let room = deployment.only_room().await?;
    let before = deployment.metric(CYCLES, |_| true, Duration::from_secs(5)).await?;
    let download = conversation.path("/files/download?path=kept.txt");
    eventually(Duration::from_secs(30), "seven collections while files are read", async || {
        deployment.api.get(&download).await?.expect(200)?;
        let cycles = deployment.api.metrics().await?.sum(CYCLES).unwrap_or(0.0);
        check(cycles >= before + 7.0, format!("{cycles} collections"))
    })
    .await?;
    check_eq("workspace whose files were read", &deployment.only_room().await?.id, &room.id)?;
    eventually(Duration::from_secs(20), "no workspace once nobody asks", async || {
        check_eq("workspaces", deployment.all_rooms().await?.len(), 0)
    })
    .await
}

async fn limit_is_kept(context: &Context) -> Result<(), Failure> {
    const LIMIT: usize = 2;
    const RUNS: usize = 6;
    let deployment = context.launch(Launch::new().set("CONTAINER_MAX", LIMIT)).await?;
    let first = deployment.conversation(context).await?;
    let mut conversations = vec![first.clone()];
    while conversations.len() < RUNS {
        conversations.push(deployment.another_conversation(context, &first.tenant, &first.model).await?);
    }
    let wait = json!({"command": "tail -f /dev/null", "description": "Wait"});
    let prompt = format!("@tool Bash {wait}\n@say Never.");
    // A run that gets a workspace waits in it; any other is refused, at once or by its first error.
    let outcomes = (0..RUNS).map(|number| {
        let (deployment, conversation, prompt) = (&deployment, &conversations[number], &prompt);
        async move {
            let Ok(mut stream) = deployment.start(conversation, prompt).await else {
                let body = json!({"user_input": prompt});
                let refused = deployment.api.post(&conversation.path("/stream"), &body).await?;
                refused.expect_error(503, "SERVICE_UNAVAILABLE")?;
                check(refused.text().contains("CONTAINER_MAX"), refused.text())?;
                return Ok::<_, Failure>(None);
            };
            while let Some(event) = stream.next().await? {
                if event.name == "error" {
                    check(event.text("message").contains("CONTAINER_MAX"), format!("{event:?}"))?;
                    return Ok(None);
                }
                if event.name == "tool_call" {
                    return Ok(Some(stream));
                }
            }
            Err(Failure::assertion("a run ended without a tool call and without an error"))
        }
    });
    let outcomes = futures::future::try_join_all(outcomes).await?;
    let at_work = outcomes.iter().flatten().count();
    check_eq(format!("runs with a workspace, of {RUNS} that began at once"), at_work, LIMIT)?;
    check_eq("workspaces", deployment.all_rooms().await?.len(), LIMIT)?;
    // What is released makes space.
    for (conversation, outcome) in conversations.iter().zip(&outcomes) {
        if outcome.is_some() {
            deployment.api.delete(&conversation.path("")).await?.expect(204)?;
        }
    }
    let next = conversations.iter().zip(&outcomes).find(|(_, outcome)| outcome.is_none()).map(|(next, _)| next);
    let next = next.ok_or_else(|| Failure::assertion("every run had a workspace"))?;
    deployment.run_well(next, "@say There is space.").await.map(drop)
}

async fn loss_is_told(context: &Context) -> Result<(), Failure> {
    let deployment = context.launch(Launch::new().set("WARM_POOL_MIN_SIZE", 1)).await?;
    let full =
        async || deployment.metric("workspace_warm_pool_size", |waiting| waiting == 1.0, Duration::from_secs(20)).await;
    full().await?;
    let conversation = deployment.conversation(context).await?;
    let mark = json!({"command": "touch /workspace/mine", "description": "Mark"});
    deployment.run_well(&conversation, &format!("@tool Bash {mark}\n@say Marked.")).await?;
    full().await?;
    for room in deployment.rooms().await? {
        if room.exec(["test", "-e", "/workspace/mine"]).await?.status == 0 {
            room.kill("SIGKILL").await?;
        }
    }
    let events = deployment.run_well(&conversation, "@say Where am I?").await?;
    let told = events.iter().filter(|event| event.name == "container_recovered").count();
    check_eq("events container_recovered of a run with a workspace from the pool", told, 1)?;
    let page = deployment.api.metrics().await?;
    let cold = page.get("workspace_container_startup_seconds_count", &[("source", "cold")]).unwrap_or(0.0);
    check_eq("workspaces that were started for a run", cold, 0.0)
}
