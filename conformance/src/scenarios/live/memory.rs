//! What a conversation remembers when its workspace or its server is lost.

use serde_json::{Value, json};

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::needs::RUN;
use crate::target::deployment::{Conversation, Deployment};
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "LIVE-020",
        "The driver of another workspace remembers the conversation exactly: the model is sent the same messages",
        "a replaced room, a restarted server resume with full history and the same session id",
        body!(exact_memory),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(150),
    Scenario::new(
        "LIVE-021",
        "The log lists what was put into a conversation's runs and their events, in order, also after a restart",
        "one event log per conversation: inputs and events alike, stable ids; runs are ranges of it",
        body!(log_is_listed),
    )
    .severity(Severity::Medium)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(120),
    Scenario::new(
        "LIVE-022",
        "Each request to the model has what was said and nothing else, the first one included, and the instructions",
        "what the model is sent: the prompt as it was typed, the turns before it once each, the tenant's prompt",
        body!(whole_requests),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(120),
    Scenario::new(
        "LIVE-023",
        "Another server, in another workspace, resumes the session exactly: the model is sent the same messages",
        "a replaced room, a restarted server, another server resume with full history and the same session id",
        body!(remembered_elsewhere),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(&[
        Capability::Launch,
        Capability::Docker,
        Capability::Image,
        Capability::Model,
        Capability::Redis,
        Capability::Postgres,
    ])
    .limit(150),
];

/// The messages of the last request for an answer that the model was sent, as digests.
pub(super) async fn last_messages(deployment: &Deployment) -> Result<Vec<String>, Failure> {
    let requests = deployment.model()?.requests().await?;
    let last = requests.iter().rev().find(|request| !request.messages().is_empty());
    let messages = last.map(|request| request.messages().into_iter().map(ToOwned::to_owned).collect());
    messages.ok_or_else(|| Failure::harness("the model was asked nothing"))
}

/// The messages of the last request of each of these turns of a conversation that nothing interrupts, in a deployment of its own, so that
/// the model numbers its calls of tools alike.
pub(super) async fn uninterrupted(context: &Context, prompts: &[&str]) -> Result<Vec<Vec<String>>, Failure> {
    let deployment = context.launch(Launch::new()).await?;
    let conversation = deployment.conversation(context).await?;
    let mut sent = Vec::new();
    for prompt in prompts {
        sent.push(turn(&deployment, &conversation, prompt).await?.1);
    }
    Ok(sent)
}

/// Runs a prompt, and returns the session and the messages of the last request.
pub(super) async fn turn(
    deployment: &Deployment,
    conversation: &Conversation,
    prompt: &str,
) -> Result<(Value, Vec<String>), Failure> {
    let events = deployment.run_well(conversation, prompt).await?;
    let session = events.last().map(|done| done.data["session_id"].clone()).unwrap_or_default();
    Ok((session, last_messages(deployment).await?))
}

async fn lose_room(deployment: &Deployment) -> Result<(), Failure> {
    for room in deployment.rooms().await? {
        room.kill("SIGKILL").await?;
    }
    Ok(())
}

async fn exact_memory(context: &Context) -> Result<(), Failure> {
    let mut deployment = context.launch(Launch::new()).await?;
    let conversation = deployment.conversation(context).await?;
    let word = context.unique("word");
    let tool = json!({"command": format!("echo {word}"), "description": "Say a word"});
    let (first, last) = (format!("@tool Bash {tool}\n@say One."), format!("@recall {word}"));
    let expected = uninterrupted(context, &[&first, "@say Two.", "@say Three.", &last]).await?;
    turn(&deployment, &conversation, &first).await?;
    let (session, before) = turn(&deployment, &conversation, "@say Two.").await?;
    check(before.len() > 4, format!("the second turn's request has {} messages", before.len()))?;
    lose_room(&deployment).await?;
    let (same, after) = turn(&deployment, &conversation, "@say Three.").await?;
    check_eq("session in another workspace", &same, &session)?;
    check_eq("the messages so far, in another workspace", &after[..before.len().min(after.len())], &before[..])?;
    check_eq("all messages in another workspace, as in one that was not lost", &after, &expected[2])?;

    lose_room(&deployment).await?;
    deployment.kill().await?;
    deployment.restart(context).await?;
    let (same, later) = turn(&deployment, &conversation, &last).await?;
    check_eq("session after a restart", &same, &session)?;
    check_eq("all messages after a restart, as without one", &later, &expected[3])?;
    let messages = deployment.api.get(&conversation.path("/messages")).await?.expect(200)?.json()?;
    let digests = messages.to_string().matches("began in an earlier session").count();
    check_eq("messages that tell the driver what it should remember", digests, 0)
}

async fn remembered_elsewhere(context: &Context) -> Result<(), Failure> {
    let (redis, postgres) = (context.redis().await?, context.postgres().await?);
    let launch = Launch::new().set("REDIS_URL", redis.url()).set("DATABASE_URL", postgres.url().await?);
    let first = context.launch(launch).await?;
    let second = context.launch_beside(&first).await?;
    let conversation = first.conversation(context).await?;
    let word = context.unique("word");
    let tool = json!({"command": format!("echo {word}"), "description": "Say a word"});
    let tool = format!("@tool Bash {tool}\n@say One.");
    let expected = uninterrupted(context, &[&tool, "@say Two.", "@say Three."]).await?;
    turn(&first, &conversation, &tool).await?;
    let (session, before) = turn(&first, &conversation, "@say Two.").await?;
    let room = first.only_room().await?;
    first.kill().await?;
    room.kill("SIGKILL").await?;
    let (same, after) = turn(&second, &conversation, "@say Three.").await?;
    check(second.only_room().await?.id != room.id, "the workspace was not replaced")?;
    check_eq("session at another server, in another workspace", &same, &session)?;
    check_eq("the messages so far, at another server", &after[..before.len().min(after.len())], &before[..])?;
    check_eq("all messages at another server, as at one that lives", &after, &expected[2])
}

/// The requests for an answer that the model has been sent since `before` of them: what each says, and its instructions.
async fn requests_since(
    deployment: &Deployment,
    before: usize,
) -> Result<Vec<(Vec<(String, String)>, String)>, Failure> {
    let requests = deployment.model()?.requests().await?;
    let answers = requests.iter().filter(|request| !request.messages().is_empty() && request.has_tools());
    let owned = |(role, text): (&str, &str)| (role.to_owned(), text.to_owned());
    let all = answers.map(|request| (request.said().into_iter().map(owned).collect(), request.system().to_owned()));
    Ok(all.skip(before).collect())
}

async fn whole_requests(context: &Context) -> Result<(), Failure> {
    let deployment = context.launch(Launch::new()).await?;
    let conversation = deployment.conversation(context).await?;
    let (persona, word) = (context.unique("persona"), context.unique("word"));
    let tenant = format!("/api/tenants/{}", conversation.tenant);
    deployment.api.put(&tenant, &json!({"system_prompt": persona})).await?.expect(200)?;
    let tool = json!({"command": format!("echo {word}"), "description": "Say a word"});
    let (first, second) = (format!("@tool Bash {tool}\n@say One."), "@say Two.".to_owned());
    let said = |role: &str, text: &str| (role.to_owned(), text.to_owned());
    let mut expected = vec![said("user", &first)];
    let mut before = 0;
    let more: [(&String, Vec<(String, String)>); 2] = [
        (&first, vec![said("assistant", "uses Bash"), said("user", &format!("result: {word}"))]),
        (&second, vec![said("assistant", "One."), said("user", &second)]),
    ];
    for (number, (prompt, added)) in more.into_iter().enumerate() {
        deployment.run_well(&conversation, prompt).await?;
        let requests = requests_since(&deployment, before).await?;
        // The first turn has two requests: one for the call of the tool, one with its result.
        check_eq(format!("requests of turn {}", number + 1), requests.len(), 2 - number)?;
        for (at, (messages, system)) in requests.iter().enumerate() {
            if number + at > 0 {
                expected.extend(added.iter().cloned());
            }
            check_eq(format!("what request {} of turn {} says", at + 1, number + 1), messages, &expected)?;
            check_eq(
                format!("times that request {} has the tenant's prompt", at + 1),
                system.matches(&persona).count(),
                1,
            )?;
        }
        before += requests.len();
    }
    // Another workspace, whose driver has what the first one had.
    lose_room(&deployment).await?;
    let third = "@say Three.";
    deployment.run_well(&conversation, third).await?;
    expected.extend([said("assistant", "Two."), said("user", third)]);
    let requests = requests_since(&deployment, before).await?;
    check_eq(
        "what the request of another workspace says",
        requests.first().map(|(messages, _)| messages),
        Some(&expected),
    )
}

/// The whole log: id, run and type of each entry, read in pages.
async fn log(deployment: &Deployment, conversation: &Conversation) -> Result<Vec<Value>, Failure> {
    let mut all: Vec<Value> = Vec::new();
    loop {
        let after =
            all.last().map_or_else(String::new, |entry| format!("&after={}", entry["id"].as_str().unwrap_or_default()));
        let page =
            deployment.api.get(&conversation.path(&format!("/log?limit=7{after}"))).await?.expect(200)?.json()?;
        let entries = page["entries"].as_array().cloned().unwrap_or_default();
        check(entries.len() <= 7, format!("a page has {} entries", entries.len()))?;
        let ended = entries.is_empty() || page["more"] == false;
        all.extend(entries);
        if ended {
            return Ok(all);
        }
    }
}

fn types<'a>(log: &'a [Value], run: &str) -> Vec<&'a str> {
    let own = log.iter().filter(|entry| entry["run_id"] == run);
    own.filter_map(|entry| entry["type"].as_str()).collect()
}

async fn log_is_listed(context: &Context) -> Result<(), Failure> {
    let mut deployment = context.launch(Launch::new()).await?;
    let conversation = deployment.conversation(context).await?;
    let mut runs = Vec::new();
    for prompt in ["@say one", "@say two"] {
        let events = deployment.run_well(&conversation, prompt).await?;
        let run =
            events.last().and_then(|done| done.id.rsplit_once(':')).map_or_else(String::new, |(run, _)| run.to_owned());
        runs.push((run, prompt, events));
    }
    deployment.kill().await?;
    deployment.restart(context).await?;
    let listed = log(&deployment, &conversation).await?;
    for (at, (run, prompt, events)) in runs.iter().enumerate() {
        let own: Vec<&Value> = listed.iter().filter(|entry| entry["run_id"] == run.as_str()).collect();
        let input = own.first().map(|entry| (entry["id"].clone(), entry["data"]["text"].clone()));
        check_eq("what was put into the run", input, Some((json!(format!("{run}:0")), json!(prompt))))?;
        let last = at + 1 == runs.len();
        // What is only of use while it is new may be gone from the runs before the last, or not yet.
        let kept = |name: &&str| last || !["text_delta", "ping", "progress"].contains(name);
        let expected: Vec<&str> = events.iter().map(|event| event.name.as_str()).filter(kept).collect();
        let found: Vec<&str> = types(&listed, run).into_iter().skip(1).filter(kept).collect();
        check_eq(format!("events of run {at} in the log"), &found, &expected)?;
        for entry in own.iter().skip(1) {
            let sent = events.iter().find(|event| entry["id"] == event.id.as_str());
            check_eq(format!("data of {}", entry["id"]), Some(&entry["data"]), sent.map(|event| &event.data))?;
        }
    }
    check_eq(
        "entries of other runs",
        listed.iter().filter(|entry| !runs.iter().any(|(run, ..)| entry["run_id"] == run.as_str())).count(),
        0,
    )?;
    let path = |query: &str| conversation.path(&format!("/log?{query}"));
    for (query, field) in [("after=x", "after"), ("limit=0", "limit"), ("limit=1001", "limit")] {
        let refused = deployment.api.get(&path(query)).await?;
        refused.expect_error(422, "VALIDATION_ERROR")?;
        check(refused.text().contains(field), format!("?{query}: the refusal does not name {field}"))?;
    }
    deployment.api.delete(&conversation.path("")).await?.expect(204)?;
    deployment.api.get(&path("limit=1")).await?.expect_error(404, "NOT_FOUND")
}
