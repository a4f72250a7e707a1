//! BUG-13: the gauge of active containers.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::rooms;
use crate::target::deployment::{Conversation, Deployment, READY_LIMIT};
use crate::target::launch::Launch;

/// The number of random steps.
const STEPS: usize = 12;
/// How long gauge and engine may take to agree after a step.
const AGREE_LIMIT: Duration = Duration::from_secs(10);

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "BUG-13",
        "After every random operation the gauge of active containers equals what `docker ps` lists",
        "the gauge equals reality at all times, whatever ended the container",
        body!(random_operations),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(&[Capability::Launch, Capability::Docker, Capability::Image, Capability::Model, Capability::Admin])
    .limit(150),
    Scenario::new(
        "BUG-13-HOST",
        "As workspaces come and go, the gauge of active containers equals what `docker ps` lists, on any deployment",
        "the gauge equals reality at all times, whatever ended the container",
        body!(create_and_delete),
    )
    .severity(Severity::High)
    .profile(Profile::Host)
    .requires(&[Capability::Docker, Capability::Files])
    .limit(150),
];

#[derive(Debug, Clone, Copy)]
enum Step {
    Create,
    Crash,
    Delete,
    Collect,
    Restart,
    Kill,
}

async fn random_operations(context: &Context) -> Result<(), Failure> {
    let mut rng = SmallRng::seed_from_u64(context.seed);
    // Workspaces survive a restart here; the last step of the scenario deletes them.
    let launch = Launch::new().set("SHUTDOWN_WORKSPACES", "keep");
    let mut deployment = context.launch(launch).await?;
    let first = deployment.conversation(context).await?;
    let (tenant, model) = (first.tenant.clone(), first.model.clone());
    let mut conversations = vec![first];
    deployment.run_well(&conversations[0], "@say hello").await?;
    let mut highest = agree(&deployment, "the first run").await?;
    for number in 1..=STEPS {
        let step = choose(&mut rng, conversations.len());
        let what = format!("step {number}, {step:?} (seed {})", context.seed);
        context.note(&what);
        let done = perform(step, &mut deployment, &mut conversations, (&tenant, &model), &mut rng, context).await;
        done.map_err(|failure| failure.during(&what))?;
        highest = highest.max(agree(&deployment, &what).await?);
    }
    check(highest > 0, "no container ever ran: nothing was checked")?;
    for conversation in &conversations {
        deployment.api.delete(&conversation.path("")).await?.expect(204)?;
    }
    deployment.api.post("/api/admin/gc", &serde_json::json!({})).await?.expect(200)?;
    agree(&deployment, "the end").await.map(|_| ())
}

async fn create_and_delete(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    deployment.ready(READY_LIMIT).await?;
    agree(&deployment, "the beginning").await?;
    let occupied = rooms::occupied(context, &deployment, 2).await?;
    let highest = agree(&deployment, "two workspaces came").await?;
    check(highest >= occupied.len(), format!("two conversations have workspaces, but only {highest} containers run"))?;
    for (conversation, _) in &occupied {
        deployment.api.delete(&conversation.path("")).await?.expect(204)?;
        agree(&deployment, "a conversation was deleted").await?;
    }
    Ok(())
}

fn choose(rng: &mut SmallRng, conversations: usize) -> Step {
    match rng.random_range(0..12) {
        // Two workspaces at a time are enough to tell one from all.
        0..=4 if conversations < 3 => Step::Create,
        0..=6 => Step::Delete,
        7 | 8 => Step::Crash,
        9 => Step::Collect,
        10 => Step::Restart,
        _ => Step::Kill,
    }
}

async fn perform(
    step: Step,
    deployment: &mut Deployment,
    conversations: &mut Vec<Conversation>,
    (tenant, model): (&str, &str),
    rng: &mut SmallRng,
    context: &Context,
) -> Result<(), Failure> {
    match step {
        Step::Create => {
            let conversation = deployment.another_conversation(context, tenant, model).await?;
            conversations.push(conversation);
            let newest = &conversations[conversations.len() - 1];
            deployment.run_well(newest, "@say hello").await.map(|_| ())
        }
        Step::Delete if conversations.is_empty() => Ok(()),
        Step::Delete => {
            let conversation = conversations.swap_remove(rng.random_range(0..conversations.len()));
            deployment.api.delete(&conversation.path("")).await?.expect(204).map(|_| ())
        }
        Step::Crash => match deployment.rooms().await?.as_slice() {
            [] => Ok(()),
            rooms => rooms[rng.random_range(0..rooms.len())].kill("SIGKILL").await,
        },
        Step::Collect => {
            let body = serde_json::json!({});
            deployment.api.post("/api/admin/gc", &body).await?.expect(200).map(|_| ())
        }
        Step::Restart => {
            deployment.stop().await?;
            deployment.restart(context).await
        }
        Step::Kill => {
            deployment.kill().await?;
            deployment.restart(context).await
        }
    }
}

/// Waits until the gauge and the engine agree, and returns the number.
async fn agree(deployment: &Deployment, after: &str) -> Result<usize, Failure> {
    eventually(AGREE_LIMIT, format!("workspace_active_containers equal to `docker ps` after {after}"), async || {
        let page = deployment.api.metrics().await.map_err(|failure| failure.to_string())?;
        let gauge = page.sum("workspace_active_containers").ok_or("no such gauge")?;
        let running = deployment.rooms().await.map_err(|failure| failure.to_string())?.len();
        #[allow(clippy::cast_precision_loss, reason = "a handful of workspaces")]
        let same = gauge == running as f64;
        if same { Ok(running) } else { Err(format!("gauge {gauge}, running {running}")) }
    })
    .await
}
