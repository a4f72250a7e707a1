//! An agent that lies, floods and never ends.

use bollard::query_parameters::TagImageOptionsBuilder;
use futures::future::join_all;
use serde_json::json;

use crate::client::stream::RunEvent;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::broken_run::ended_badly;
use crate::scenarios::common::limits::HEALED_LIMIT;
use crate::scenarios::common::needs::RUN;
use crate::target::deployment::{Conversation, Deployment};
use crate::target::launch::Launch;
use crate::target::process::peak_memory;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "SEC-007",
        "An agent that floods, lies or never ends costs its own run and workspace, and nothing of anybody else's",
        "whatever comes out of a workspace has a total, and whatever it says is a claim",
        body!(floods),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(180),
    Scenario::new(
        "SEC-013",
        "An agent with numbers that go backwards, endless ids or withheld replies costs its own run, and nothing else",
        "frames out of order, ids of any length, replies withheld; each run ends, with an error that says why",
        body!(out_of_order),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(120),
];

const PROGRAM: &str = include_str!("programs/hostile_agent.py");

/// What becomes of a run whose agent is hostile.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    /// Anything: what is impossible is bounded.
    Bounded,
    /// It fails, and the workspace is removed as hostile.
    Hostile,
    /// It fails.
    Failed,
}

/// What the agent does, and what becomes of its run.
const FLOODS: &[(&str, End)] = &[
    ("numbers", End::Bounded),
    ("tools", End::Hostile),
    ("servers", End::Hostile),
    ("frames", End::Hostile),
    ("junk", End::Hostile),
    ("holograms", End::Hostile),
    ("asks", End::Hostile),
    ("values", End::Hostile),
    ("memory", End::Hostile),
];
/// See [`FLOODS`].
const OUT_OF_ORDER: &[(&str, End)] = &[
    ("backward-numbers", End::Hostile),
    ("long-ids", End::Hostile),
    ("unknown-cancels", End::Hostile),
    ("withheld-decisions", End::Failed),
    ("withheld-answers", End::Failed),
];

/// How long a run may take whose agent keeps it waiting for ever, in seconds.
const LONGEST_RUN: u64 = 5;

/// Length of the longest id that is passed on, in bytes.
const LONGEST_ID: usize = 256;

/// How much memory the server may need beyond what it needed before, in bytes.
const MEMORY: u64 = 160 << 20;
/// How much longer the server's log may be afterwards, in bytes.
const LOG: usize = 1 << 20;

/// An image whose agent is the hostile program.
pub(super) async fn hostile_image(context: &Context) -> Result<String, Failure> {
    let program = PROGRAM.replace("@SOCKETS@", &context.description().containers.sockets);
    let change = format!(
        "cat > /usr/local/share/hostile.py <<'END-OF-PROGRAM'\n{program}END-OF-PROGRAM\n\
         printf '#!/bin/sh\nexec python3 -I /usr/local/share/hostile.py\n' > /usr/local/bin/nagaya-agent"
    );
    context.derived_image(&change).await
}

/// Gives an image another name, which it takes from whatever image has it.
pub(super) async fn rename(context: &Context, image: &str, name: &str) -> Result<(), Failure> {
    let (repository, version) = name.split_once(':').unwrap_or((name, "latest"));
    let options = TagImageOptionsBuilder::new().repo(repository).tag(version).build();
    Ok(context.engine()?.docker().tag_image(image, Some(options)).await?)
}

async fn floods(context: &Context) -> Result<(), Failure> {
    hostile_agents(context, FLOODS, 1).await
}

async fn out_of_order(context: &Context) -> Result<(), Failure> {
    // They send little, and some of them are waited for.
    hostile_agents(context, OUT_OF_ORDER, OUT_OF_ORDER.len()).await
}

/// The events of a run whose agent does this; what it asks is allowed.
async fn run(deployment: &Deployment, conversation: &Conversation, how: &str) -> Result<Vec<RunEvent>, Failure> {
    let mut body = json!({"user_input": how});
    if how == "withheld-answers" {
        body["configuration"] = json!({"limits": {"run_seconds": LONGEST_RUN}});
    }
    let mut stream = deployment.api.open_stream(&conversation.path("/stream"), &body).await?;
    if how == "withheld-decisions" {
        let id = stream.until("approval_required").await?.text("request_id").to_owned();
        let path = conversation.path(&format!("/approvals/{id}"));
        deployment.api.post(&path, &json!({"decision": "allow"})).await?.expect(200)?;
    }
    stream.finish().await
}

/// Checks what has become of a run whose agent does this.
fn ended_as(end: End, how: &str, events: &[RunEvent]) -> Result<(), Failure> {
    let errors =
        |kind: &str| events.iter().filter(|event| event.name == "error" && event.text("error_type") == kind).count();
    if end != End::Bounded {
        let done = ended_badly(events).map_err(|failure| failure.during(how))?;
        let told = done["errors"][0].as_str().is_some_and(|why| !why.is_empty());
        check(told, format!("an agent that sends {how}: no error says why: {done}"))?;
    }
    if end == End::Hostile {
        check(errors("limit_exceeded") > 0, format!("an agent that sends {how}: no error is limit_exceeded"))?;
    }
    let longest = events.iter().map(|event| event.text("request_id").len()).max().unwrap_or_default();
    check(longest <= LONGEST_ID, format!("an agent that sends {how} has an id of {longest} bytes"))?;
    let times = usize::from(how == "memory");
    check_eq(format!("times that an agent which sends {how} is out of memory"), errors("out_of_memory"), times)
}

/// Agents that do this, so many at once.
async fn hostile_agents(context: &Context, ways: &[(&str, End)], at_once: usize) -> Result<(), Failure> {
    let tag = context.new_image_tag("agent", context.engine()?)?;
    rename(context, &context.run.capabilities.image, &tag).await?;
    let deployment = context.launch(Launch::new().set("CONTAINER_IMAGE", &tag)).await?;
    let neighbour = deployment.conversation(context).await?;
    deployment.run_well(&neighbour, "@say here").await?;
    let quiet = deployment.only_room().await?;
    let server = deployment.server()?;
    let (memory, log) = (peak_memory(server.pid())?, server.log().len());
    rename(context, &hostile_image(context).await?, &tag).await?;
    for ways in ways.chunks(at_once) {
        let released = || server.log().matches("\"hostile\"").count();
        let earlier = released();
        let mut others = Vec::new();
        for _ in ways {
            others.push(deployment.another_conversation(context, &neighbour.tenant, &neighbour.model).await?);
        }
        let runs = ways.iter().zip(&others).map(|((how, _), other)| run(&deployment, other, how));
        let (ended, beside) = tokio::join!(join_all(runs), deployment.run_well(&neighbour, "@say still here"));
        let names: Vec<&str> = ways.iter().map(|(how, _)| *how).collect();
        let names = names.join(", ");
        beside.map_err(|failure| failure.during(format!("a neighbour of agents that send {names}")))?;
        for (&(how, end), events) in ways.iter().zip(ended) {
            ended_as(end, how, &events.map_err(|failure| failure.during(how))?)?;
        }
        let hostile = ways.iter().filter(|(_, end)| *end == End::Hostile).count();
        eventually(HEALED_LIMIT, format!("the end of the workspaces whose agents send {names}"), async || {
            let released = released() - earlier;
            check(released >= hostile, format!("{released} of {hostile} workspaces were released as hostile"))
        })
        .await?;
        check_eq(
            format!("the neighbour's workspace beside agents that send {names}"),
            quiet.is_running().await?,
            true,
        )?;
        for (other, (how, _)) in others.iter().zip(ways) {
            for path in ["", "/messages"] {
                deployment.api.get(&other.path(path)).await?.expect(200).map_err(|failure| failure.during(how))?;
            }
            deployment.api.delete(&other.path("")).await?.expect(204)?;
        }
    }
    let more = peak_memory(server.pid())?.saturating_sub(memory);
    check(more < MEMORY, format!("the server needed {} MiB more", more >> 20))?;
    let written = server.log().len().saturating_sub(log);
    check(written < LOG, format!("the server's log grew by {} KiB", written >> 10))
}
